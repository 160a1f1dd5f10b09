"""Rollouts dealt out among ranks: evenly, and in each update those that one rank alone would take.

verl balances a step as a whole and lets each rank cut its share into mini-batches, so that which
rollouts meet in an update depends on how many ranks there are, and groups are torn apart.
"""

from collections.abc import Sequence

import torch
from transfer_queue import KVBatchMeta
from verl.utils.seqlen_balancing import calculate_workload, get_seqlen_balanced_partitions


def deal_out(batch: KVBatchMeta, drawn: Sequence[str], mini_batch: int, ranks: int) -> None:
    """Reorder a batch for its ranks, see `dealt_out`.

    Args:
        batch: In any order, with rows of padding.
        drawn: Keys of the others, in the order of the draws; padding comes after them.
        mini_batch: Rows of an update.
        ranks: How many share it.
    """
    places = {key: place for place, key in enumerate(drawn)}
    keys = batch.keys
    batch.reorder(sorted(range(len(keys)), key=lambda row: places.get(keys[row], len(drawn))))
    batch.reorder(dealt_out([tag["seq_len"] for tag in batch.tags], mini_batch, ranks))


def dealt_out(lengths: Sequence[int], mini_batch: int, ranks: int) -> list[int]:
    """An order of rows that verl cuts into equal shares of ranks, and those into mini-batches.

    Each mini-batch is balanced by itself: its ranks wait for one another.

    Args:
        lengths: [N] tokens of each row; N is a multiple of `mini_batch`.
        mini_batch: Rows of an update, a multiple of `ranks`.
        ranks: How many share it.

    Returns:
        [N] which row stands in each place.
    """
    work = calculate_workload(torch.tensor(lengths, dtype=torch.int64)).tolist()
    shares: list[list[int]] = [[] for _ in range(ranks)]
    for first in range(0, len(work), mini_batch):
        parts = get_seqlen_balanced_partitions(
            work[first : first + mini_batch], k_partitions=ranks, equal_size=True
        )
        for share, part in zip(shares, parts, strict=True):
            share += [first + row for row in part]
    return [row for share in shares for row in share]
