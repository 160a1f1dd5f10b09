"""verl's replay buffer, asked more often whether a batch is complete."""

from typing import Any

from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

POLL_INTERVAL = 0.05  # seconds; verl's 2 s would be a third of a step on a laptop


class PromptReplayBuffer(ReplayBuffer):
    """The built-in buffer with a short poll."""

    def __init__(self, **kwargs: Any):
        super().__init__(**kwargs, poll_interval=POLL_INTERVAL)
