"""verl's synchronous trainer, watched: our metrics at every step, and a stop where it goes wrong.

Registered with verl's trainer registry as `stagecraft`. What it changes of what is learned is which
prompt groups make a batch, `trainer.selection`, and their order, which is that of the draws.
"""

import gc
import json
import os
import time
from collections.abc import Sequence
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import ray
import torch
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.utils import tensordict_utils as tu
from verl.utils.dataset.rl_dataset import collate_fn

from conf.schema import Selection
from trainer.backend import engine, single_update
from trainer.backend.balance import deal_out
from trainer.backend.endings import Endings, refuse
from trainer.backend.metrics import (
    check_engine,
    check_probabilities,
    check_rollouts,
    in_order_of_draws,
    rollout_metrics,
    translated,
)
from trainer.backend.overlong import drop_truncated
from trainer.backend.probe import keep_probe
from trainer.backend.resume import SIZES, STATE, keep_newest, keep_on_disk, last_whole_step
from trainer.backend.rows import (
    UPDATE,
    WAITING,
    advantages,
    correct_for_age,
    narrowed,
    only_trained,
    restore,
    shorten_padding,
    waiting,
    waiting_rows,
    without_padding,
)
from trainer.backend.stop import STOP, StopRequestedError, check_stop
from trainer.backend.temporary import removed_after
from trainer.backend.worker import StageWorker
from trainer.checkpoint import eos_ids
from trainer.guard import LISTENING
from trainer.records import append_record, keep_steps
from trainer.selection import Bounds, Order, Prompt, Stream, make_curriculum
from trainer.synced import replace

NAME = "stagecraft"
KEEP_ADVANTAGES = "STAGECRAFT_KEEP_ADVANTAGES"  # in the environment: a test wants to see them


@register_trainer(NAME)
class StageTrainer(PPOTrainerSync):
    """Trains one stage; writes one line of `metrics.jsonl` a step."""

    def __init__(self, config: DictConfig):
        # The base class takes any other mode than "sync" for an asynchronous one.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)
        engine.tell_distance()
        self.own = config.trainer.stagecraft
        self.metrics_file = Path(self.own.metrics_file)
        self.order_file = self.metrics_file.with_name("order.jsonl")
        self.groups_file = self.metrics_file.with_name("groups.jsonl")
        self.stop_file = self.metrics_file.with_name(STOP)
        self.ends = eos_ids(Path(config.actor_rollout_ref.model.path))
        self.saved_step = 0
        self.after_step: dict[str, Any] = {}  # state of data and selection after a whole step
        self.stopping = False

    # --- State: what a checkpoint holds beside weights and optimizer ------------------------------

    def state(self) -> dict[str, Any]:
        """What must be known beside verl's own state to go on: plain JSON."""
        return {"selection": self.stream.state_dict()}

    def load_state(self, state: dict[str, Any]) -> None:
        """Take up what `state` gave."""
        self.stream.load_state_dict(state["selection"])

    def _now(self) -> dict[str, Any]:
        return {"own": self.state(), "waiting": waiting(self.stream)}

    def _load_checkpoint(self) -> None:
        """Resume where verl's tracker says; a stage that begins takes what it is to carry over."""
        super()._load_checkpoint()
        self.saved_step = self.global_steps
        if self.global_steps:
            folder = (
                Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
            )
            self.load_state(json.loads((folder / STATE).read_text()))
            restore(folder / WAITING)
        elif self.own.optimizer_from:
            lr = self.config.actor_rollout_ref.actor.optim.lr
            self.actor_rollout_wg.carry_optimizer(self.own.optimizer_from, lr)

    def _save_checkpoint(self) -> None:
        """verl's checkpoint, whole by its last file, ours before it; it is on the disk, then."""
        folder = Path(self.config.trainer.default_local_dir) / f"global_step_{self.global_steps}"
        folder.mkdir(parents=True, exist_ok=True)
        after = self.after_step if self.stopping else self._now()
        torch.save(waiting_rows(after["waiting"]), folder / WAITING)
        (folder / SIZES).unlink(missing_ok=True)  # of the same step, which is being made again
        replace(folder / STATE, json.dumps(after["own"]))
        with removed_after():
            super()._save_checkpoint()
        keep_on_disk(folder)
        self.saved_step = self.global_steps
        trainer = self.config.trainer
        keep_newest(
            folder.parent, self.saved_step, trainer.max_actor_ckpt_to_keep, trainer.save_freq
        )

    def on_init_end(self) -> None:
        """Forget what is known of steps that will be made again, then sync weights as usual."""
        keep_steps(self.metrics_file, self.global_steps)
        keep_steps(self.order_file, self.global_steps)
        keep_steps(self.groups_file, self.global_steps)
        self.endings = Endings(
            self.metrics_file, json.loads(self.own.endings), self.total_training_steps
        )
        # A stage that had ended when it was killed makes no more steps.
        self.total_training_steps = self.endings.resume() or self.total_training_steps
        super().on_init_end()

    # --- A stop that was asked for ----------------------------------------------------------------

    def fit(self, agent_loop_manager) -> None:
        """Train to the end, or until a stop is asked for: then the last whole step is saved."""
        listening = self.stop_file.with_suffix(LISTENING)
        listening.touch()
        gc.freeze()  # what it took to get here stays: looking through it takes long, in some step
        try:
            super().fit(agent_loop_manager)
        except StopRequestedError:
            self._save_last_step()
            raise
        finally:
            listening.unlink(missing_ok=True)

    def _save_last_step(self) -> None:
        """Save the state after the last whole step, unless that is done.

        Weights and optimizer are still those: a stop is looked for before an update, not within
        one. The data have gone on, so their state is the one kept at the end of the step.
        """
        step = self.global_steps - 1
        if step <= self.saved_step:
            return
        data = self.after_step["data"]
        self.stopping = True
        self.global_steps = step
        self.train_dataloader = SimpleNamespace(state_dict=lambda: data)
        self._save_checkpoint()
        print(f"saved step {step}", flush=True)

    def on_train_end(self) -> None:
        """Save a stage that ended before its last step; verl comes here only then."""
        super().on_train_end()
        self._save_last_step()

    def on_step_begin(self) -> None:
        """Stop here if that was asked for."""
        check_stop(self.stop_file)
        super().on_step_begin()

    # --- Which prompts are sampled, and which groups train ----------------------------------------

    def _init_dataloader(self) -> None:
        """verl's data, and the stream that draws from them; verl's own cursor lies idle."""
        super()._init_dataloader()
        own, selection = self.own, Selection.model_validate_json(self.own.selection)
        infos = self.train_dataset.dataframe["extra_info"]
        curriculum = make_curriculum(
            selection.model_dump(),
            [Prompt(info["id"], info["level"]) for info in infos],
            group_size=own.group_size,
            seed=own.seed,
            steps=self.total_training_steps,
        )
        batch_size = self.config.data.train_batch_size
        self.stream = Stream(
            curriculum,
            Bounds(
                batch_size=batch_size,
                in_flight=round(selection.in_flight * batch_size),
                max_age=selection.max_age,
                max_draws=round(selection.max_draws * batch_size),
                ahead=batch_size if selection.ahead else 0,
            ),
        )
        self.replay_buffer.follow(
            self.stream,
            self._sample,
            lambda seconds: self.agent_loop_manager.wait_for_groups(seconds),
            selection.timeout,
        )

    def prepare_step(self) -> dict:
        """Start the step's stream instead of submitting a batch."""
        self.replay_buffer.begin(self.global_steps)
        return {}

    def _sample(self, orders: Sequence[Order]) -> None:
        """Have rollouts sampled. Their ids tell their place in the stage, so their seeds do too."""
        batch = collate_fn([self.train_dataset[order.group.draw.prompt] for order in orders])
        for name, values in (
            ("uid", [order.group.uid for order in orders]),
            ("first", [order.first for order in orders]),
            ("count", [order.count for order in orders]),
        ):
            batch[name] = np.array(values, dtype=object)
        batch = tu.get_tensordict(batch)
        tu.assign_non_tensor_data(batch, "global_steps", self.global_steps)
        self._submit_batch_to_rollout(batch)

    def _init_resource_pool_mgr(self) -> None:
        """verl's workers, with the reference policy and the optimizer that a stage may keep."""
        super()._init_resource_pool_mgr()
        self.role_worker_mapping = {
            role: ray.remote(StageWorker) for role in self.role_worker_mapping
        }

    # --- Checks and records -----------------------------------------------------------------------

    def _balance_batch(self, batch, metrics):
        """Refuse a step with lost rollouts: verl would fill their places with padding.

        Padding is for a step with too few prompts, so that every mini-batch is whole.
        """
        wanted = sum(len(choice.baseline) for choice in self.replay_buffer.choices)
        check_rollouts(len(batch.keys), wanted, self.global_steps)
        return self._balanced(batch, metrics)

    def _balanced(self, batch, metrics):
        """Rollouts dealt out among ranks; with one rank there is nothing to choose."""
        trainer, mini_batch = self.config.trainer, self._get_required_batch_multiple(1)
        ranks = trainer.nnodes * trainer.n_gpus_per_node
        if ranks == 1 and len(batch.keys) % mini_batch == 0:
            return batch
        drawn = list(batch.keys)
        batch = super()._balance_batch(batch, metrics)  # which fills up the last mini-batch, too
        deal_out(batch, drawn, mini_batch, ranks)
        return batch

    def _compute_old_log_prob(self, batch, metrics):
        """Those of the weights that the step begins with; a single update brings its own."""
        check_stop(self.stop_file)
        policy = self.global_steps - 1
        self.single = (
            not self.own.overlong_filter
            and all(choice.trained == choice.baseline for choice in self.replay_buffer.choices)
            and single_update.is_single(self.config, batch)
        )
        if not self.single:
            with narrowed(batch):
                batch = super()._compute_old_log_prob(batch, metrics)
            metrics |= correct_for_age(batch, policy)
            self._check_probabilities(metrics)
        return batch

    def _compute_ref_log_prob(self, batch, metrics):
        with narrowed(batch):
            return super()._compute_ref_log_prob(batch, metrics)

    def _check_probabilities(self, metrics) -> None:
        check_probabilities(
            metrics[engine.LARGEST],
            self.own.probability_tolerance,
            self.config.actor_rollout_ref.rollout.dtype,
            self.global_steps,
        )
        check_engine(metrics[engine.KL], self.own.kl_tolerance, self.global_steps)

    def _compute_advantage(self, batch, metrics):
        """Advantages among all rollouts of a group; then those stay that train."""
        batch = super()._compute_advantage(batch, metrics)
        self.filtered_tokens = 0
        choices = self.replay_buffer.choices
        if any(choice.trained != choice.baseline for choice in choices):
            batch = self._balanced(only_trained(batch, choices, self.replay_buffer.drop), metrics)
            shorten_padding(batch)
        if self.own.overlong_filter:
            self.filtered_tokens = drop_truncated(batch, self.ends)
        return batch

    def _update_actor(self, batch, metrics):
        check_stop(self.stop_file)
        batch.extra_info[single_update.SINGLE] = self.global_steps - 1 if self.single else None
        self.config.actor_rollout_ref.actor.calculate_entropy = self.single
        with narrowed(batch, UPDATE):
            batch = super()._update_actor(batch, metrics)
        if self.single and single_update.told(metrics):
            self._check_probabilities(metrics)
        made = len(batch.keys) // batch.extra_info["mini_batch_size"] * batch.extra_info["epochs"]
        self.stream.ledger.updated(made)
        if self.global_steps >= self.total_training_steps:
            keep_probe(self, batch)
        self.updated_batch = batch
        if os.environ.get(KEEP_ADVANTAGES):
            record = {"step": self.global_steps, "rollouts": advantages(batch)}
            append_record(self.metrics_file.with_name("advantages.jsonl"), record)
        return batch

    def _compute_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        """A line of what we record, in place of verl's: most of it nobody reads."""
        metrics |= {f"timing_s/{name}": seconds for name, seconds in timing_raw.items()}
        record, order = self._record(batch, metrics, global_steps)
        # Before it is recorded: a stage resumes only after steps that are saved *and* recorded, so
        # never from a checkpoint that such a step has already written.
        self.endings.check(record)
        collapse = self.endings.collapse()
        done = None if collapse else self.endings.done()
        if done:
            self.checkpoint_manager.sleep_replicas()  # their memory is wanted, as in every step
            keep_probe(self, self.updated_batch)
        append_record(self.order_file, {"step": global_steps, **order})
        groups = self.stream.sealed(last=bool(done) or global_steps >= self.total_training_steps)
        append_record(self.groups_file, {"step": global_steps, "groups": groups})
        append_record(self.metrics_file, record)
        if collapse:
            refuse(collapse, last_whole_step(self.metrics_file.parent))
        if done:
            self.total_training_steps = done.step
        self.after_step = {"data": self.train_dataloader.state_dict(), **self._now()}
        self.replay_buffer.keep(self.after_step["waiting"])

    def _record(self, batch, metrics, step: int) -> tuple[dict[str, Any], dict[str, Any]]:
        """What is known of a step, and whose rollouts were right, in the order of the draws."""
        real = without_padding(batch)
        uids, tags = [key.split("_")[0] for key in real], list(real.values())
        correct = [tag["correct"] for tag in tags]
        record = {
            "step": step,
            "time": time.time(),
            **translated(metrics),
            **rollout_metrics(
                rewards=[tag["reward"] for tag in tags],
                correct=correct,
                prompt_lengths=[tag["prompt_len"] for tag in tags],
                lengths=[tag["response_len"] for tag in tags],
                truncated=[not tag["ended"] for tag in tags],
            ),
            **self.stream.ledger.record(),
        }
        record["tokens/trained"] -= self.filtered_tokens
        record["tokens_per_second"] = record["tokens/generated"] / record["seconds/step"]
        if record["selection/short"]:
            print(
                f"step {step} trains on {record['selection/trained']:.0f} prompts of "
                f"{self.config.data.train_batch_size}: too few qualify",
                flush=True,
            )
        return record, in_order_of_draws(uids, [tag["id"] for tag in tags], correct)
