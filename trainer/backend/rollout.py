"""The torch engine as one of verl's rollouts (`rollout.name=torch`): no server stack.

Three parts, as verl cuts them: the adapter in each trainer rank pushes weights, the server (a Ray
actor) samples, the replica starts the server. On a laptop a vLLM engine would take longer to start
than the whole stage.
"""

import os
from collections.abc import Generator
from typing import Any

import ray
import torch
from verl.plugin.platform import get_platform
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica

from trainer.backend.server import ServerSettings, TorchServer


def server_name(replica_rank: int) -> str:
    """Name of the Ray actor that serves a replica."""
    return f"torch_server_{replica_rank}"


class ServerAdapter(BaseRollout):
    """What a trainer rank knows of its rollout: where to send new weights."""

    def __init__(self, config, model_config, device_mesh, replica_rank: int = -1):
        super().__init__(config, model_config, device_mesh)
        rank = int(os.environ["RANK"])
        self.replica_rank = rank if replica_rank == -1 else replica_rank
        self.server = None

    async def resume(self, tags: list[str]) -> None:
        """Nothing was released."""

    async def release(self) -> None:
        """The server keeps its weights: they are synced in place."""

    async def update_weights(
        self,
        weights: Generator[tuple[str, torch.Tensor], None, None],
        wire_format: str = "named_tensors",
        global_steps: int | None = None,
        **kwargs: Any,
    ) -> None:
        """Copy the trainer's weights into the server, which samples nothing meanwhile."""
        if wire_format != "named_tensors":
            raise ValueError(
                f"the torch rollout takes whole tensors, got wire format {wire_format!r}\n\n"
                "hint: set `rollout.checkpoint_engine.backend=naive`"
            )
        if self.server is None:  # started after this rank, so looked up at first use
            self.server = ray.get_actor(server_name(self.replica_rank))
        state = {name: tensor.detach().cpu().clone() for name, tensor in weights}
        await self.server.update_weights.remote(ray.put(state), global_steps)


class TorchReplica(RolloutReplica):
    """Starts one server for each trainer rank, on the rank's machine.

    Attributes:
        server_class: What is started; it is made from `ServerSettings`.
    """

    server_class = TorchServer

    async def launch_servers(self) -> None:
        """Start the server and remember its handle."""
        node_id = await self.workers[0].__ray_call__.remote(
            lambda worker: ray.get_runtime_context().get_node_id()
        )
        settings = ServerSettings(
            model=self.model_config.path,
            dtype=self.config.dtype,
            prompt_length=self.config.prompt_length,
            response_length=self.config.response_length,
            ignore_eos=self.config.ignore_eos,
        )
        server = (
            ray.remote(self.server_class)
            .options(
                name=server_name(self.replica_rank),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    node_id=node_id, soft=False
                ),
                runtime_env={"env_vars": {v: "1" for v in get_platform().ray_noset_envvars()}},
            )
            .remote(settings)
        )
        await server.ready.remote()  # the model is built
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)
