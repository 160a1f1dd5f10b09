"""Rollouts made up in no time: what a step takes then is the work around them.

Loaded by `VERL_USE_EXTERNAL_MODULES`, by ours and by stock verl on a CPU.
"""

from verl.workers.rollout.replica import RolloutReplicaRegistry

import trainer.backend.plugin  # noqa: F401
from benchmarks.step_stock import SingleServer
from trainer.backend.plugin import ROLLOUT
from trainer.sampling import Sample


class InstantServer(SingleServer):
    """Answers with the same tokens always, each of probability 1."""

    def _sample(self, batch, temperature, top_p, top_k):
        length = self.settings.response_length
        tokens, logprobs = [48 + i % 10 for i in range(length)], [0.0] * length
        return [Sample(tokens, logprobs, False) for _ in batch]


def load_replica() -> type:
    """verl's side of the server; imported late, as it imports the trainer."""
    from trainer.backend.rollout import TorchReplica

    class InstantReplica(TorchReplica):
        server_class = InstantServer

    return InstantReplica


RolloutReplicaRegistry.register(ROLLOUT, load_replica)
