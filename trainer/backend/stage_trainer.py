"""verl's synchronous trainer, watched: our metrics at every step, and a stop where it goes wrong.

Registered with verl's trainer registry as `stagecraft`. It changes nothing of what is learned.
"""

import time
from pathlib import Path

import numpy as np
import transfer_queue as tq
from omegaconf import DictConfig, open_dict
from verl.trainer.ppo.v1 import PPOTrainerSync, register_trainer

from trainer.backend.metrics import rollout_metrics, translated
from trainer.checkpoint import eos_ids
from trainer.records import append_record, keep_steps

NAME = "stagecraft"


class ProbabilityMismatchError(RuntimeError):
    """Rollout and trainer disagree on how likely the sampled tokens were."""


def check_probabilities(difference: float, tolerance: float, dtype: str, step: int) -> None:
    """Refuse to train on rollouts of another policy than the one being trained.

    Args:
        difference: Largest |p_rollout - p_trainer| over the tokens of the step.
        tolerance: Largest difference allowed.
        dtype: Type that both compute in. Only float32 is held to the tolerance: bfloat16 differs
            by more from rounding alone, so there the difference is recorded and not judged.
        step: For the message.

    Raises:
        ProbabilityMismatchError: float32, and the difference is larger or not a number.
    """
    if dtype != "float32" or difference <= tolerance:
        return
    raise ProbabilityMismatchError(
        f"step {step}: rollout and trainer probabilities differ by up to {difference:.3g}, "
        f"more than {tolerance:.3g}\n\n"
        "hint: likely causes are weights that did not reach the rollout engine, a model whose "
        "vocabulary is larger than its tokenizer's (ids that one side masks and the other does "
        "not), another temperature or dtype on one side, or padding that shifts positions; "
        "`hardware.probability_tolerance` is the bound"
    )


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
        self.ends = eos_ids(Path(config.actor_rollout_ref.model.path))

    def on_init_end(self) -> None:
        """Forget the metrics of steps that will be made again, then sync weights as usual."""
        keep_steps(self.metrics_file, self.global_steps)
        super().on_init_end()

    def _compute_old_log_prob(self, batch, metrics):
        batch = super()._compute_old_log_prob(batch, metrics)
        check_probabilities(
            metrics["training/rollout_probs_diff_max"],
            self.own.probability_tolerance,
            self.config.actor_rollout_ref.rollout.dtype,
            self.global_steps,
        )
        return batch

    def _compute_metrics(self, batch, metrics, timing_raw, global_steps, epoch):
        super()._compute_metrics(batch, metrics, timing_raw, global_steps, epoch)
        rows = tq.kv_batch_get(
            keys=batch.keys,
            partition_id=batch.partition_id,
            select_fields=["uid", "rm_scores", "responses", "extra_fields"],
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
        bad = [
            name for name in ("loss", "grad_norm", "entropy") if not np.isfinite(ours.get(name, 0))
        ]
        append_record(self.metrics_file, ours)
        if bad:
            raise FloatingPointError(
                f"step {global_steps}: {', '.join(bad)} is not a finite number\n\n"
                "hint: lower `learning_rate`, or set `gradient_clip`"
            )


def _extra(fields: dict) -> dict:
    return fields["reward_extra_info"]
