"""verl's replay buffer: asked more often whether a batch is complete, and given in one order.

The built-in one hands groups out as they completed, which no two runs share: mini-batches would
differ from run to run, and from an interrupted run to one that was not.
"""

from pathlib import Path
from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from trainer.backend.stop import check_stop

POLL_INTERVAL = 0.05  # seconds; verl's 2 s would be a third of a step on a laptop


class PromptReplayBuffer(ReplayBuffer):
    """The built-in buffer with a short poll, in the order that prompts were drawn in."""

    def __init__(self, **settings: Any):
        super().__init__(**settings, poll_interval=POLL_INTERVAL)
        self.stop_file = Path(self.sampler_kwargs["stop_file"])

    def _wait_for_next_poll(self, partition_id: str, last_debug_time: float) -> float:
        check_stop(self.stop_file)
        return super()._wait_for_next_poll(partition_id, last_debug_time)

    def _select_prompt_uids(self, partition_id, sampleable_keys, batch_size):
        chosen, partition, steps = super()._select_prompt_uids(
            partition_id, sampleable_keys, batch_size
        )
        return sorted(chosen), partition, steps

    def _materialize_batch(self, partition_id, selected_prompt_uids, partition_snapshot):
        ordered = {key: partition_snapshot[key] for key in sorted(partition_snapshot, key=place)}
        return super()._materialize_batch(partition_id, selected_prompt_uids, ordered)


def place(key: str) -> tuple[str, int]:
    """Where a rollout stands in a batch: by prompt group, then by its number in the group.

    >>> sorted(["000008_10_0", "000008_9_0", "000007_3_0"], key=place)
    ['000007_3_0', '000008_9_0', '000008_10_0']
    """
    uid, number, _ = key.rsplit("_", 2)
    return uid, int(number)
