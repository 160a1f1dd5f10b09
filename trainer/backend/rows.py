"""Rollouts in verl's transfer queue: kept over a restart, corrected for age, picked, repeated.

A row is one rollout with its tokens, its log-probabilities and its advantage; its key is
`{uid}_{number}_0`.
"""

from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import transfer_queue as tq
from tensordict import TensorDict
from transfer_queue import KVBatchMeta

from trainer.backend.engine import distance
from trainer.backend.group_store import COLUMNS, POLICY
from trainer.backend.replay_buffer import PARTITION, rows, tags_in_queue
from trainer.selection import Choice, Stream

WAITING = "waiting.pt"  # rollouts of groups that wait for their turn, in a checkpoint

TOKENS = ("prompts", "responses", "input_ids", "position_ids", "response_mask", "loss_mask")
UPDATE = (
    "advantages",
    "old_log_probs",
    "rollout_log_probs",
    "ref_log_prob",
    POLICY,
)  # of what is there
MADE = (
    "advantages",
    "returns",
    "old_log_probs",
    "ref_log_prob",
    "log_probs",
    "entropy",
)  # of each token, by the step itself


@contextmanager
def narrowed(batch: KVBatchMeta, others: Sequence[str] = ()) -> Iterator[None]:
    """Within it, workers that are given the batch fetch its tokens and `others`, and no more.

    They would fetch all columns, and each costs its milliseconds: ids, sources, grades.

    Args:
        batch: One that knows its columns, if others are asked for.
        others: Of these, what it has.
    """
    before = batch.fields
    batch.fields = [*TOKENS, *(name for name in others if name in before)]
    try:
        yield
    finally:
        batch.fields = before


def waiting(stream: Stream) -> dict[str, int]:
    """Uid of each group that waits for the next step, and how many rollouts it has."""
    return {group.uid: len(group.rollouts) for group in stream.waiting}


def waiting_rows(groups: Mapping[str, int]) -> dict[str, Any] | None:
    """Rollouts of the groups that `waiting` named, as they were sampled; None if there are none."""
    keys = [key for uid, count in groups.items() for key in rows(uid, range(count))]
    if not keys:
        return None
    tags = tags_in_queue()
    fields = tq.kv_batch_get(keys=keys, partition_id=PARTITION, select_fields=list(COLUMNS))
    return {"keys": keys, "tags": [tags[key] for key in keys], "fields": fields}


def restore(path: Path) -> None:
    """Put the rollouts of `waiting_rows` back into the queue."""
    saved = torch.load(path, weights_only=False)  # our own file, beside the weights
    if saved:
        tq.kv_batch_put(partition_id=PARTITION, **saved)


def correct_for_age(batch: KVBatchMeta, policy: int) -> dict[str, float]:
    """Give rollouts of an older policy the log-probabilities that they were sampled with.

    The ratio of the update is then that of the new policy to the one that sampled, and clipped as
    such; recomputed with the present policy, as SPEED's code does, it would be 1 for samples that
    are not its own.

    Args:
        batch: With `old_log_probs` in the queue.
        policy: Step of the present weights.

    Returns:
        `engine.distance` over rollouts of the present policy alone; nothing if all are.
    """
    old = [
        place
        for place, tag in enumerate(batch.tags)
        if not tag.get("is_padding", False) and tag["min_global_steps"] < policy
    ]
    if not old:
        return {}
    fields = ["old_log_probs", "rollout_log_probs"]
    data = tq.kv_batch_get(keys=batch.keys, partition_id=PARTITION, select_fields=fields)
    ours, theirs = data["old_log_probs"].unbind(), data["rollout_log_probs"].unbind()
    keys = [batch.keys[place] for place in old]
    behaviour = torch.nested.as_nested_tensor([theirs[i] for i in old], layout=torch.jagged)
    corrected = TensorDict({"old_log_probs": behaviour}, batch_size=[len(old)])
    tq.kv_batch_put(keys=keys, partition_id=PARTITION, fields=corrected)
    aged = set(old)
    fresh = [
        i for i, tag in enumerate(batch.tags) if i not in aged and not tag.get("is_padding", False)
    ]
    none = torch.zeros(0)
    return distance(*(torch.cat([none, *(own[i] for i in fresh)]) for own in (ours, theirs)))


def advantages(batch: KVBatchMeta) -> list[dict[str, Any]]:
    """What the update is given for each rollout, in the order of the batch: for tests.

    Returns:
        Prompt id, reward, and the advantages of its tokens, of every rollout that is no padding.
    """
    real = without_padding(batch)
    rows = tq.kv_batch_get(
        keys=list(real), partition_id=batch.partition_id, select_fields=["advantages"]
    )
    return [
        {"prompt": tag["id"], "reward": tag["reward"], "advantages": given.tolist()}
        for tag, given in zip(real.values(), rows["advantages"].unbind(), strict=True)
    ]


def without_padding(batch: KVBatchMeta) -> dict[str, dict[str, Any]]:
    """Key and tag of each rollout of a batch that stands for itself."""
    return {
        key: tag
        for key, tag in zip(batch.keys, batch.tags, strict=True)
        if not tag.get("is_padding", False)
    }


def only_trained(
    batch: KVBatchMeta, choices: Sequence[Choice], drop: Callable[[Sequence[str]], None]
) -> KVBatchMeta:
    """The rows that train, those that train several times as copies; the others leave the queue.

    Args:
        batch: All rows with a say in the advantages, which they have.
        choices: What of each group trains.
        drop: Takes rows out of the queue.
    """
    tags = dict(zip(batch.keys, batch.tags, strict=True))
    times = Counter(key for choice in choices for key in rows(choice.group.uid, choice.trained))
    keys = list(times)
    copies = [(key, f"{key[:-1]}{n}") for key in keys for n in range(1, times[key])]
    if copies:
        data = tq.kv_batch_get(keys=[key for key, _ in copies], partition_id=PARTITION)
        named = [name for _, name in copies]
        copied = [tags[key] for key, _ in copies]
        tq.kv_batch_put(keys=named, partition_id=PARTITION, fields=data, tags=copied)
        tags |= dict(zip(named, copied, strict=True))
        keys += named
    drop([key for key in batch.keys if key not in times])
    return KVBatchMeta(
        partition_id=PARTITION,
        keys=keys,
        tags=[tags[key] for key in keys],
        fields=batch.fields,
        extra_info=batch.extra_info,
    )


def shorten_padding(batch: KVBatchMeta) -> None:
    """Make rows of padding as long as their one token in what a step computes of each token: 0.

    verl pads before it computes them. Later, its padding is a copy of the first row in them, longer
    than its response, and a micro-batch of such a row and of shorter ones has no shape.

    Args:
        batch: One that knows its columns, padded after advantages were computed.
    """
    keys = [
        key for key, tag in zip(batch.keys, batch.tags, strict=True) if tag.get("is_padding", False)
    ]
    names = [name for name in MADE if name in batch.fields]
    if not keys or not names:
        return
    data = tq.kv_batch_get(keys=keys, partition_id=batch.partition_id, select_fields=names)
    short = {
        name: torch.nested.as_nested_tensor(
            [torch.zeros_like(row[:1]) for row in data[name].unbind()], layout=torch.jagged
        )
        for name in names
    }
    tq.kv_batch_put(
        keys=keys,
        partition_id=batch.partition_id,
        fields=TensorDict(short, batch_size=len(keys)),
    )
