"""The server behind `rollout.name=torch`: a Ray actor that samples many responses at a time.

Imports nothing of verl: the actor's process would spend most of its start on that. torch and
transformers are imported by what uses them: Ray loads an actor's class wherever a handle on it
goes, so the process that routes requests would import them too.
"""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from trainer.checkpoint import eos_ids
from trainer.lean import lean_transformers

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class ServerSettings:
    """What the server is told.

    Attributes:
        model: Folder of the model; only its shape and tokenizer are read.
        dtype: "float32" or "bfloat16".
        prompt_length: Longest prompt, tokens.
        response_length: Longest response, tokens.
        ignore_eos: Whether end tokens end nothing, so that every response is that long.
    """

    model: str
    dtype: str
    prompt_length: int
    response_length: int
    ignore_eos: bool = False


@dataclass
class Answer:
    """One response, with the fields of verl's `TokenOutput`."""

    token_ids: list[int]
    log_probs: list[float]
    stop_reason: str
    extra_fields: dict[str, Any] = field(default_factory=dict)
    routed_experts: None = None
    num_preempted: None = None


@dataclass(frozen=True, eq=False)
class Request:
    """A response that somebody waits for.

    Attributes:
        prompt: Token ids.
        seed: Of this response.
        settings: temperature, top_p, top_k.
        answer: Where the response is awaited.
    """

    prompt: list[int]
    seed: int
    settings: tuple[float, float, int]
    answer: asyncio.Future


class TorchServer:
    """Samples responses for whoever asks, many at a time. Runs as a Ray actor."""

    def __init__(self, settings: ServerSettings):
        import torch

        lean_transformers()
        from transformers import AutoConfig, AutoModelForCausalLM, AutoTokenizer

        self.settings = settings
        # Weights come from the trainer before the first request; only the shape is read here.
        self.model = AutoModelForCausalLM.from_config(
            AutoConfig.from_pretrained(settings.model),
            dtype=getattr(torch, settings.dtype),
            attn_implementation="sdpa",
        ).eval()
        self.eos_ids = set() if settings.ignore_eos else eos_ids(Path(settings.model))
        self.pad_id = AutoTokenizer.from_pretrained(settings.model).pad_token_id
        self.global_steps: int | None = None
        self.waiting: list[Request] = []
        self.arrived = asyncio.Event()
        self.weights = threading.Lock()  # held while sampling: weights never change inside a batch
        self.loop = asyncio.get_event_loop().create_task(self._serve())

    async def ready(self) -> bool:
        """True once the model is built."""
        return True

    async def generate_groups(
        self, groups: Sequence[tuple[list[int], Sequence[int]]], sampling_params: dict[str, Any]
    ) -> list[list[Answer]]:
        """Responses to prompts, sampled together with whatever else is waiting.

        Args:
            groups: For each its prompt's token ids, and the seed of each response.
            sampling_params: temperature, top_p, top_k.
        """
        loop = asyncio.get_running_loop()
        settings = _settings(sampling_params)
        asked = [
            [Request(prompt, seed, settings, loop.create_future()) for seed in seeds]
            for prompt, seeds in groups
        ]
        self.waiting += [request for group in asked for request in group]
        self.arrived.set()
        answers = (asyncio.gather(*(one.answer for one in group)) for group in asked)
        return await asyncio.gather(*answers)

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

    def _load(self, state: dict[str, torch.Tensor]) -> None:
        import torch

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
            await self.gather()
            batch, self.waiting = self.waiting, []
            self.arrived.clear()
            for settings in {request.settings for request in batch}:
                await self._answer([r for r in batch if r.settings == settings], *settings)

    async def gather(self) -> None:
        """Wait for what belongs to a batch: here nothing, since groups come many to a request."""

    async def _answer(
        self, batch: list[Request], temperature: float, top_p: float, top_k: int
    ) -> None:
        try:
            samples = await asyncio.to_thread(self._sample, batch, temperature, top_p, top_k)
        except Exception as error:  # whatever it was, those who wait must hear of it
            for request in batch:
                request.answer.set_exception(error)
            return
        for request, one in zip(batch, samples, strict=True):
            request.answer.set_result(
                Answer(
                    token_ids=one.tokens,
                    log_probs=one.logprobs,
                    stop_reason="completed" if one.finished else "length",
                    extra_fields={"global_steps": self.global_steps},
                )
            )

    def _sample(self, batch: list[Request], temperature: float, top_p: float, top_k: int):
        from trainer.sampling import sample

        most, longest = self.settings.response_length, self.settings.prompt_length
        with self.weights:
            return sample(
                self.model,
                [request.prompt for request in batch],
                max_new_tokens=[min(most, longest + most - len(r.prompt)) for r in batch],
                temperature=temperature,
                top_p=top_p,
                top_k=top_k,
                eos_ids=self.eos_ids,
                pad_id=self.pad_id,
                seeds=[request.seed for request in batch],
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


def _settings(params: dict[str, Any]) -> tuple[float, float, int]:
    """What must be equal for requests to share a batch."""
    return float(params["temperature"]), float(params["top_p"]), int(params["top_k"])
