"""How prompt groups reach an engine: those that were submitted together, in one request.

A request takes its milliseconds in three processes, whatever it asks for.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True, eq=False)
class _Request:
    uid: str
    prompt: list[int]
    seeds: Sequence[int | None]
    params: dict[str, Any]
    answer: asyncio.Future


class Submission:
    """Groups that wait for one another until all of them can be asked for.

    Args:
        router: The Ray actor that knows the engines (`trainer.backend.router`).
        groups: How many: each `ask`s once, or `withdraw`s.
    """

    def __init__(self, router: Any, groups: int):
        self.router, self.missing = router, groups
        self.requests: list[_Request] = []
        self.sending: asyncio.Task | None = None

    async def ask(
        self,
        uid: str,
        prompt: list[int],
        seeds: Sequence[int | None],
        params: dict[str, Any],
    ) -> list[Any]:
        """The rollouts of a group, one of verl's `TokenOutput` for each seed.

        Args:
            uid: The group.
            prompt: Token ids of its prompt.
            seeds: Of each rollout; None leaves the choice to the engine.
            params: temperature, top_p, top_k; the same for all of a submission.

        Raises:
            ray.exceptions.RayError: the engine died, or failed.
        """
        answer = asyncio.get_running_loop().create_future()
        self.requests.append(_Request(uid, prompt, seeds, params, answer))
        self._one_less()
        return await answer

    def withdraw(self) -> None:
        """A group that will not ask for anything."""
        self._one_less()

    def _one_less(self) -> None:
        self.missing -= 1
        if self.missing == 0 and self.requests:
            self.sending = asyncio.create_task(self._send())

    async def _send(self) -> None:
        try:
            placed = await self.router.acquire_servers.remote([one.uid for one in self.requests])
        except Exception as error:  # whatever it was, who waits must hear of it
            _fail(self.requests, error)
            return
        engines: dict[str, tuple[Any, list[_Request]]] = {}
        for (name, engine), request in zip(placed, self.requests, strict=True):
            engines.setdefault(name, (engine, []))[1].append(request)
        sent = []
        for name, (engine, requests) in engines.items():
            whole = hasattr(engine, "generate_groups")
            parts = [requests] if whole else [[request] for request in requests]
            ask = _ask_whole if whole else _ask_one
            sent += [self._sent(name, ask(engine, part), part) for part in parts]
        await asyncio.gather(*sent)

    async def _sent(self, name: str, asked, requests: list[_Request]) -> None:
        try:
            answered = list(zip(requests, await asked, strict=True))
        except Exception as error:
            _fail(requests, error)
        else:
            for request, answer in answered:
                request.answer.set_result(answer)
        finally:
            self.router.release_servers.remote([name] * len(requests))


async def _ask_whole(engine, requests: list[_Request]) -> list[list[Any]]:
    groups = [(request.prompt, list(request.seeds)) for request in requests]
    return await engine.generate_groups.remote(groups, requests[0].params)


async def _ask_one(engine, requests: list[_Request]) -> list[list[Any]]:
    """Of an engine that takes single rollouts, and is trusted to keep the prompt it has read."""
    (request,) = requests
    params = request.params
    rollouts = (
        engine.generate.remote(
            request_id=f"{request.uid}_{number}",
            prompt_ids=request.prompt,
            sampling_params=params if seed is None else {**params, "seed": seed},
        )
        for number, seed in enumerate(request.seeds)
    )
    return [await asyncio.gather(*rollouts)]


def _fail(requests: Sequence[_Request], error: Exception) -> None:
    for request in requests:
        request.answer.set_exception(error)
