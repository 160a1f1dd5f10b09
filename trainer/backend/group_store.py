"""Graded prompt groups on their way into verl's transfer queue; those that end together go as one.

A put takes its milliseconds in three processes, however small it is, and groups that an engine
sampled in one batch end at the same moment.
"""

import asyncio
import traceback
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import transfer_queue as tq
from tensordict import NonTensorStack, TensorDict

PARTITION = "train"
TOGETHER = 0.005  # seconds that a group which is ready waits for others


@dataclass(frozen=True)
class Row:
    """One rollout, graded.

    Attributes:
        key: Its name in the queue.
        prompt: Token ids.
        response: Token ids.
        logprobs: Of each token of the response, by the engine.
        reward: As shaped for training.
        columns: What verl's trainer reads beside the tokens.
        tag: What the queue knows of it.
    """

    key: str
    prompt: list[int]
    response: list[int]
    logprobs: list[float]
    reward: float
    columns: dict[str, Any]
    tag: dict[str, Any]


class GroupStore:
    """Puts groups into the queue, as many at a time as are ready."""

    def __init__(self) -> None:
        self.ready: list[tuple[str, dict[str, Any], Sequence[Row]]] = []
        self.putting: asyncio.Task | None = None

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
        await asyncio.sleep(TOGETHER)
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
        await tq.async_kv_batch_put(
            keys=[uid for uid, _, _ in groups],
            tags=[tag for _, tag, _ in groups],
            partition_id=PARTITION,
        )


def columns(rows: Sequence[Row]) -> TensorDict:
    """Rollouts as verl's trainer reads them: B rows, token columns jagged, the others as they are.

    `input_ids` [B, prompt + response]; `response_mask`, `rollout_log_probs` and `rm_scores`
    [B, response], the reward at the last token.
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
        name: NonTensorStack(*(row.columns[name] for row in rows)) for name in rows[0].columns
    }
    return TensorDict(others | tensors, batch_size=[len(rows)])


def _jagged(rows: Sequence[Sequence], dtype: torch.dtype = torch.int64) -> torch.Tensor:
    """Rows of any lengths as one nested tensor: by its offsets, since row by row takes longer."""
    values = torch.tensor([value for row in rows for value in row], dtype=dtype)
    offsets = torch.tensor([0, *accumulate(map(len, rows))])
    return torch.nested.nested_tensor_from_jagged(values, offsets)
