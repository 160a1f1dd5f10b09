"""What stock verl needs on a CPU, where it has neither a platform nor a rollout: ours.

Its own agent loop asks for one response at a time, so the server gets an answer to that. Loaded by
`VERL_USE_EXTERNAL_MODULES`.
"""

from typing import Any

from verl.workers.rollout.replica import RolloutReplicaRegistry

import trainer.backend.plugin  # noqa: F401  the platform, and the adapter in the trainer's rank
from trainer.backend.plugin import ROLLOUT
from trainer.backend.server import Answer, TorchServer
from trainer.sampling import seed_of


class SingleServer(TorchServer):
    """Samples single responses, as many at a time as were asked for."""

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> Answer:
        """One response, sampled together with whatever else is waiting."""
        answers = await self.generate_group(prompt_ids, sampling_params, [seed_of(request_id)])
        return answers[0]


def load_replica() -> type:
    """verl's side of the server; imported late, as it imports the trainer."""
    from trainer.backend.rollout import TorchReplica

    class SingleReplica(TorchReplica):
        server_class = SingleServer

    return SingleReplica


RolloutReplicaRegistry.register(ROLLOUT, load_replica)
