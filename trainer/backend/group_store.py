"""Graded prompt groups on their way into verl's transfer queue; those that end together go as one.

A put takes its milliseconds in three processes, however small it is, and of groups that an engine
sampled in one batch the first waits for the last to be graded.
"""

import asyncio
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict

PARTITION = "train"
POLICY = "policy"  # column: step of the weights that a rollout was sampled with
COLUMNS = (
    "uid",
    POLICY,
    "prompts",
    "responses",
    "input_ids",
    "position_ids",
    "response_mask",
    "loss_mask",
    "rollout_log_probs",
    "rm_scores",
)
TOGETHER = 0.25  # seconds that a group which is ready waits for others, at most


@dataclass(frozen=True)
class Row:
    """One rollout, graded.

    Attributes:
        key: Its name in the queue.
        uid: Its group.
        prompt: Token ids.
        response: Token ids.
        logprobs: Of each token of the response, by the engine.
        reward: As shaped for training.
        tag: What else is to be known of it. It comes with the queue's list, where a column would
            have to be fetched.
    """

    key: str
    uid: str
    prompt: list[int]
    response: list[int]
    logprobs: list[float]
    reward: float
    tag: dict[str, Any]


class GroupStore:
    """Puts groups into the queue, as many at a time as are ready."""

    def __init__(self) -> None:
        self.ready: list[tuple[str, dict[str, Any], Sequence[Row]]] = []
        self.putting: asyncio.Task | None = None
        self.coming = 0
        self.all_here = asyncio.Event()
        self.stored = 0  # groups so far, failed ones among them
        self.lost = ""  # groups of which no word could be put: nobody would ever hear of them
        self.news = asyncio.Condition()

    @contextmanager
    def soon(self) -> Iterator[None]:
        """Within it a group is on its way, and those that are ready wait for it."""
        self.coming += 1
        self.all_here.clear()
        try:
            yield
        finally:
            self.coming -= 1
            if not self.coming:
                self.all_here.set()

    async def put(self, uid: str, tag: dict[str, Any], rows: Sequence[Row] = ()) -> None:
        """Store the rollouts of a group, and then the word on it.

        Returns when that is done, for this group and those that went with it.

        Args:
            uid: The group.
            tag: What the replay buffer reads of it: `status`, and what belongs to that.
            rows: Its rollouts; none if it failed.
        """
        self.ready.append((uid, tag, rows))
        if self.putting is None:
            self.putting = asyncio.create_task(self._put())
        await asyncio.shield(self.putting)

    async def _put(self) -> None:
        if self.coming:
            with suppress(TimeoutError):
                await asyncio.wait_for(self.all_here.wait(), TOGETHER)
        groups, self.ready, self.putting = self.ready, [], None
        try:
            if rows := [row for _, _, rows in groups for row in rows]:
                await tq.async_kv_batch_put(
                    keys=[row.key for row in rows],
                    fields=columns(rows),
                    tags=[row.tag for row in rows],
                    partition_id=PARTITION,
                )
        except Exception as error:  # whatever it was, who waits for the groups must hear of it
            names = ", ".join(uid for uid, _, _ in groups)
            print(f"prompt groups {names} failed:\n{traceback.format_exc()}", flush=True)
            failure = {"status": "failure", "reason": type(error).__name__}
            groups = [(uid, {"first": tag["first"], **failure}, ()) for uid, tag, _ in groups]
        told = await _put_word(groups) or await _put_word(groups)
        async with self.news:
            self.stored += len(groups)
            if not told:
                self.lost = ", ".join(uid for uid, _, _ in groups)
            self.news.notify_all()

    async def more_than(self, known: int) -> int:
        """How many groups were stored so far, as soon as they are more than `known`.

        Raises:
            RuntimeError: the queue took no word on some.
        """
        async with self.news:
            await self.news.wait_for(lambda: self.stored > known)
            if self.lost:
                raise RuntimeError(
                    f"found a transfer queue that takes no word on prompt groups {self.lost}, "
                    "needed one that does\n\nhint: trainer.log says what it answered; run again, "
                    "the stage goes on from its last checkpoint"
                )
            return self.stored


async def _put_word(groups: Sequence[tuple[str, dict[str, Any], Sequence[Row]]]) -> bool:
    """Put the word on groups, and say whether the queue took it."""
    try:
        await tq.async_kv_batch_put(
            keys=[uid for uid, _, _ in groups],
            tags=[tag for _, tag, _ in groups],
            partition_id=PARTITION,
        )
    except Exception:  # whatever it was, who waits for the groups must hear of it
        names = ", ".join(uid for uid, _, _ in groups)
        print(f"no word put on prompt groups {names}:\n{traceback.format_exc()}", flush=True)
        return False
    return True


def columns(rows: Sequence[Row]) -> TensorDict:
    """Rollouts as verl's trainer reads them: B rows, token columns jagged.

    `input_ids` [B, prompt + response]; `response_mask`, `rollout_log_probs` and `rm_scores`
    [B, response], the reward at the last token; `policy` [B], and `uid`.
    """
    mask = [[1] * len(row.response) for row in rows]
    tensors = {
        "prompts": _jagged([row.prompt for row in rows]),
        "responses": _jagged([row.response for row in rows]),
        "input_ids": _jagged([row.prompt + row.response for row in rows]),
        "position_ids": _jagged([range(len(row.prompt) + len(row.response)) for row in rows]),
        "response_mask": _jagged(mask),
        "loss_mask": _jagged(mask),
        "rollout_log_probs": _jagged([row.logprobs for row in rows], torch.float32),
        "rm_scores": _jagged(
            [[0.0] * (len(row.response) - 1) + [row.reward] for row in rows], torch.float32
        ),
    }
    others = {
        "uid": NonTensorStack(*(row.uid for row in rows)),
        POLICY: torch.tensor([row.tag["min_global_steps"] or 0 for row in rows]),
    }
    return TensorDict(others | tensors, batch_size=[len(rows)])


def _jagged(rows: Sequence[Sequence], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Rows of any lengths as one nested tensor: by its offsets, since row by row takes longer."""
    values = torch.tensor([value for row in rows for value in row], dtype=dtype)
    offsets = torch.tensor([0, *accumulate(map(len, rows))])
    return torch.nested.nested_tensor_from_jagged(values, offsets)
