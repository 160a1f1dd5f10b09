"""A few rollouts with the trainer's own log-probabilities, which an export must give again."""

import json

import transfer_queue as tq
from verl.trainer.ppo.v1 import PPOTrainerSync
from verl.workers.utils.padding import response_from_nested

FILE = "probe.json"  # in the stage's folder
ROWS, TOKENS = 8, 256  # rollouts, and first tokens of each


def keep_probe(trainer: PPOTrainerSync, batch) -> None:
    """Write log-probabilities of rollouts of a batch, by the weights as they are now.

    Args:
        trainer: Has the weights, and `metrics_file` in the stage's folder.
        batch: Rollouts that lie in the transfer queue.
    """
    before = dict(batch.extra_info)
    temperature = trainer.config.actor_rollout_ref.rollout.temperature
    batch.extra_info = {
        "calculate_entropy": False,
        "compute_loss": False,
        "temperature": temperature,
    }
    trainer.actor_rollout_wg.compute_log_prob(batch)
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
            "response": response[:TOKENS].tolist(),
            "logprobs": probs[:TOKENS].tolist(),
        }
        for prompt, response, probs in zip(*(c.unbind() for c in columns), strict=True)
    ][:ROWS]
    record = {"temperature": temperature, "rollouts": kept}
    trainer.metrics_file.with_name(FILE).write_text(json.dumps(record))
