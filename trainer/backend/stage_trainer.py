"""verl's synchronous trainer, watched: our metrics at every step, and a stop where it goes wrong.

Registered with verl's trainer registry as `stagecraft`. It changes nothing of what is learned.
"""

import json
import time
from pathlib import Path

import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer
from verl.workers.utils.padding import response_from_nested

from trainer.backend.metrics import (
    check_finite,
    check_probabilities,
    check_rollouts,
    rollout_metrics,
    translated,
)
from trainer.checkpoint import eos_ids
from trainer.records import append_record, keep_steps

NAME = "stagecraft"
# Rollouts, and first tokens of each, whose log-probabilities an export must give again.
PROBE_ROWS, PROBE_TOKENS = 8, 256


@register_trainer(NAME)
class StageTrainer(PPOTrainerSync):
    """Trains one stage; writes one line of `metrics.jsonl` a step."""

    def __init__(self, config: DictConfig):
        # The base class takes any other mode than "sync" for an asynchronous one.
        with open_dict(config):
            config.trainer.v1.trainer_mode = "sync"
        super().__init__(config)
        self.own = config.trainer.stagecraft
        self.metrics_file = Path(self.own.metrics_file)
        self.order_file = self.metrics_file.with_name("order.jsonl")
        self.probe_file = self.metrics_file.with_name("probe.json")
        self.ends = eos_ids(Path(config.actor_rollout_ref.model.path))

    def on_init_end(self) -> None:
        """Forget what is known of steps that will be made again, then sync weights as usual."""
        keep_steps(self.metrics_file, self.global_steps)
        keep_steps(self.order_file, self.global_steps)
        super().on_init_end()

    def _balance_batch(self, batch, metrics):
        """Refuse a step with failed rollouts: verl would fill their places with padding."""
        batch = super()._balance_batch(batch, metrics)
        check_rollouts(
            sum(not tag.get("is_padding", False) for tag in batch.tags),
            self.config.data.train_batch_size * self.config.actor_rollout_ref.rollout.n,
            self.global_steps,
        )
        return batch

    def _compute_old_log_prob(self, batch, metrics):
        batch = super()._compute_old_log_prob(batch, metrics)
        check_probabilities(
            metrics["training/rollout_probs_diff_max"],
            self.own.probability_tolerance,
            self.config.actor_rollout_ref.rollout.dtype,
            self.global_steps,
        )
        return batch

    def _update_actor(self, batch, metrics):
        batch = super()._update_actor(batch, metrics)
        if self.global_steps >= self.total_training_steps:
            self._keep_probe(batch)
        return batch

    def _keep_probe(self, batch) -> None:
        """Final log-probabilities of a few rollouts, to be compared with the export's."""
        before = dict(batch.extra_info)
        temperature = self.config.actor_rollout_ref.rollout.temperature
        batch.extra_info = {
            "calculate_entropy": False,
            "compute_loss": False,
            "temperature": temperature,
        }
        self.actor_rollout_wg.compute_log_prob(batch)
        batch.extra_info = before
        rows = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["prompts", "responses", "response_mask", "log_probs"],
        )
        logprobs = response_from_nested(rows["log_probs"], rows["response_mask"])
        columns = (rows["prompts"], rows["responses"], logprobs)
        kept = [
            {
                "prompt": prompt.tolist(),
                "response": response[:PROBE_TOKENS].tolist(),
                "logprobs": probs[:PROBE_TOKENS].tolist(),
            }
            for prompt, response, probs in zip(*(c.unbind() for c in columns), strict=True)
        ][:PROBE_ROWS]
        record = {"temperature": temperature, "rollouts": kept}
        self.probe_file.write_text(json.dumps(record))

    def _compute_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        rows = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["uid", "rm_scores", "responses", "extra_fields", "extra_info"],
        )
        responses = [row.tolist() for row in rows["responses"].unbind()]
        ours = {
            "step": global_steps,
            "time": time.time(),
            **translated(metrics),
            **rollout_metrics(
                uids=list(rows["uid"]),
                rewards=[float(row.sum()) for row in rows["rm_scores"].unbind()],
                correct=[_extra(row)["acc"] for row in list(rows["extra_fields"])],
                lengths=[len(response) for response in responses],
                truncated=[response[-1] not in self.ends for response in responses],
            ),
            "updates": self.own.updates_per_step,
            "epoch": epoch,
        }
        ours["tokens_per_second"] = ours["tokens/generated"] / ours["seconds/step"]
        # Before it is recorded: a stage resumes only after steps that are saved *and* recorded, so
        # never from a checkpoint that such a step has already written.
        check_finite(ours, global_steps)
        seen = dict(zip(rows["uid"], rows["extra_info"], strict=True))
        prompts = [info["id"] for info in seen.values()]
        append_record(self.order_file, {"step": global_steps, "prompts": prompts})
        append_record(self.metrics_file, ours)


def _extra(fields: dict) -> dict:
    return fields["reward_extra_info"]
