"""The torch engine as one of verl's rollouts (`rollout.name=torch`): sampling without a server stack.

Three parts, as verl cuts them: the adapter in each trainer rank pushes weights, the server (a Ray
actor) samples, the replica starts the server. On a laptop a vLLM engine would take longer to start
than the whole stage.
"""

import asyncio
import os
import threading
from collections.abc import Generator
from pathlib import Path
from typing import Any

import ray
import torch
from verl.plugin.platform import get_platform
from verl.workers.rollout.base import BaseRollout
from verl.workers.rollout.replica import RolloutReplica, TokenOutput

from trainer.checkpoint import eos_ids
from trainer.sampling import sample

# A batch starts when no request has come for this long; shorter than one decoding step.
ARRIVAL_PAUSE = 0.03  # seconds


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


class TorchServer:
    """Samples responses for whoever asks, many at a time. Runs as a Ray actor."""

    def __init__(self, config, model_config, replica_rank: int):
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        self.config = config
        path = model_config.path
        dtype = getattr(torch, config.dtype)
        # Weights come from the trainer before the first request; only the shape is read here.
        hf_config = AutoConfig.from_pretrained(path)
        self.model = AutoModelForCausalLM.from_config(
            hf_config, dtype=dtype, attn_implementation="sdpa"
        ).eval()
        tokenizer = AutoTokenizer.from_pretrained(path)
        self.eos_ids = eos_ids(Path(path))
        self.pad_id = tokenizer.pad_token_id
        self.seed = int(config.get("seed", 0) or 0) + replica_rank
        self.generator = torch.Generator().manual_seed(self.seed)
        self.global_steps: int | None = None
        self.waiting: list[tuple[list[int], dict[str, Any], asyncio.Future]] = []
        self.arrived = asyncio.Event()
        self.weights = threading.Lock()  # held while sampling: weights never change inside a batch
        self.loop = asyncio.get_event_loop().create_task(self._serve())

    async def get_server_address(self) -> str:
        """A label for the load balancer; requests go to the actor, not to a port."""
        return server_name(0)

    async def generate(
        self, prompt_ids: list[int], sampling_params: dict[str, Any], request_id: str, **kwargs: Any
    ) -> TokenOutput:
        """One response, sampled together with whatever else is waiting."""
        future = asyncio.get_running_loop().create_future()
        self.waiting.append((list(prompt_ids), sampling_params, future))
        self.arrived.set()
        return await future

    async def update_weights(
        self, state: dict[str, torch.Tensor], global_steps: int | None = None
    ) -> None:
        """Load the trainer's weights by name.

        Raises:
            ValueError: the names or shapes are not those of the model.
        """
        await asyncio.to_thread(self._load, state)
        if global_steps is not None:
            self.global_steps = global_steps
            # By step, so that a resumed stage draws other numbers than its first steps drew.
            self.generator.manual_seed(self.seed * 1_000_003 + global_steps)

    def _load(self, state: dict[str, torch.Tensor]) -> None:
        with self.weights, torch.no_grad():
            own = self.model.state_dict(keep_vars=True)
            tied = {"lm_head.weight"} if self.model.config.tie_word_embeddings else set()
            unknown, absent = set(state) - set(own), set(own) - set(state) - tied
            if unknown or absent:
                raise ValueError(
                    f"weight sync: {len(unknown)} unknown tensors {sorted(unknown)[:3]}, "
                    f"{len(absent)} missing {sorted(absent)[:3]}\n\n"
                    "hint: trainer and rollout must be given the same model.path"
                )
            for name, tensor in state.items():
                own[name].copy_(tensor)

    async def _serve(self) -> None:
        while True:
            await self.arrived.wait()
            seen = -1
            while seen != len(self.waiting):  # gather until arrivals pause
                seen = len(self.waiting)
                await asyncio.sleep(ARRIVAL_PAUSE)
            batch, self.waiting = self.waiting, []
            self.arrived.clear()
            for params in {_shape(params) for _, params, _ in batch}:
                same = [request for request in batch if _shape(request[1]) == params]
                await self._answer(same, *params)

    async def _answer(self, batch: list, temperature: float, top_p: float, top_k: int) -> None:
        prompts = [prompt for prompt, _, _ in batch]
        try:
            samples = await asyncio.to_thread(self._sample, prompts, temperature, top_p, top_k)
        except BaseException as error:
            for _, _, future in batch:
                future.set_exception(error)
            raise
        for (_, _, future), one in zip(batch, samples, strict=True):
            future.set_result(
                TokenOutput(
                    token_ids=one.tokens,
                    log_probs=one.logprobs,
                    stop_reason="completed" if one.finished else "length",
                    extra_fields={"global_steps": self.global_steps},
                )
            )

    def _sample(self, prompts: list[list[int]], temperature: float, top_p: float, top_k: int):
        longest = self.config.prompt_length + self.config.response_length
        lengths = [min(self.config.response_length, longest - len(prompt)) for prompt in prompts]
        with self.weights:
            return sample(
                self.model,
                prompts,
                max_new_tokens=lengths,
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                eos_ids=self.eos_ids,
                pad_id=self.pad_id,
                generator=self.generator,
            )

    async def set_global_steps(self, global_steps: int) -> None:
        """Record which weights the coming responses are sampled with."""
        self.global_steps = global_steps

    async def wake_up(self, tags: list[str] | None = None) -> None:
        """Nothing sleeps: host memory is not shared with the trainer."""

    sleep = clear_kv_cache = release_kv_cache = resume_kv_cache = resume_generation = wake_up
    start_profile = stop_profile = wake_up

    async def abort_all_requests(self, reject_request: bool = False) -> dict[str, Any]:
        """Batches are short; they are let finish."""
        return {"aborted_count": 0, "request_ids": []}


class TorchReplica(RolloutReplica):
    """Starts one server for each trainer rank, on the rank's machine."""

    async def launch_servers(self) -> None:
        """Start the server and remember its handle."""
        node_id = await self.workers[0].__ray_call__.remote(
            lambda worker: ray.get_runtime_context().get_node_id()
        )
        server = (
            ray.remote(TorchServer)
            .options(
                name=server_name(self.replica_rank),
                num_cpus=0,
                max_concurrency=self.max_concurrency,
                scheduling_strategy=ray.util.scheduling_strategies.NodeAffinitySchedulingStrategy(
                    node_id=node_id, soft=False
                ),
                runtime_env={"env_vars": {v: "1" for v in get_platform().ray_noset_envvars()}},
            )
            .remote(self.config, self.model_config, self.replica_rank)
        )
        await server.get_server_address.remote()  # the model is built
        self.servers = [server]
        self._server_handle = server
        self._server_address = server_name(self.replica_rank)


def _shape(params: dict[str, Any]) -> tuple[float, float, int]:
    """What must be equal for requests to share a batch."""
    return float(params["temperature"]), float(params["top_p"]), int(params["top_k"])
