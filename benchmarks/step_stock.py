"""What stock verl needs on a CPU, where it has neither a platform nor a rollout: ours.

Its own agent loop asks for one response at a time, so the server gets an answer to that. Loaded by
`VERL_USE_EXTERNAL_MODULES`.
"""

import asyncio
from typing import Any

from verl.workers.rollout.replica import RolloutReplicaRegistry

import trainer.backend.plugin  # noqa: F401  the platform, and the adapter in the trainer's rank
from trainer.backend.plugin import ROLLOUT
from trainer.backend.server import Answer, TorchServer
from trainer.sampling import seed_of

ARRIVAL_PAUSE = 0.03  # seconds; shorter than one decoding step


class SingleServer(TorchServer):
    """Samples single responses, as many at a time as were asked for."""

    async def gather(self) -> None:
        """Until arrivals pause: each response is asked for by itself."""
        seen = -1
        while seen != len(self.waiting):
            seen = len(self.waiting)
            await asyncio.sleep(ARRIVAL_PAUSE)

    async def generate(
        self, request_id: str, prompt_ids: list[int], sampling_params: dict[str, Any], **_: Any
    ) -> Answer:
        """One response, sampled together with whatever else is waiting."""
        one = [(prompt_ids, [seed_of(request_id)])]
        ((answer,),) = await self.generate_groups(one, sampling_params)
        return answer


def load_replica() -> type:
    """verl's side of the server; imported late, as it imports the trainer."""
    from trainer.backend.rollout import TorchReplica

    class SingleReplica(TorchReplica):
        server_class = SingleServer

    return SingleReplica


RolloutReplicaRegistry.register(ROLLOUT, load_replica)
