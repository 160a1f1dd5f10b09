"""Rules that divide a training set into prompt sets: pure functions from a table to labels.

A rule gives each row the name of its prompt set, or none, and the numbers that decided it. Two
prompt sets may share rows: `Labels.sets` says which labels each is made of.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc


@dataclass(frozen=True)
class Split:
    """Which rows are short, and the numbers that decided it.

    Attributes:
        lengths: Length of each row, in characters.
        mean: Their mean, in characters.
        threshold: Longest length that still is short, in characters.
        short: Whether each row is of L1; the others are of L3.
    """

    lengths: list[int]
    mean: float
    threshold: int
    short: list[bool]


@dataclass(frozen=True)
class Labels:
    """What a rule says of a set.

    Attributes:
        of: Label of each row; None for a row that is in the whole set only.
        sets: Prompt set to the labels that it is made of; None: every row.
        facts: The numbers that decided it, for the manifest.
    """

    of: list[str | None]
    sets: Mapping[str, Sequence[str] | None]
    facts: dict[str, Any] = field(default_factory=dict)

    def mask(self, name: str) -> list[bool]:
        """Which rows are of a prompt set."""
        wanted = self.sets[name]
        return [wanted is None or label in wanted for label in self.of]


def split_by_length(
    table: pa.Table, length_of: str = "raw_question", threshold: int | str = "mean"
) -> Split:
    """Short and long rows, FastCuRL's rule.

        L1 = {length <= threshold},  L3 = {length > threshold},  threshold = round(mean(length))

    Args:
        table: Columns `question` (raw, without the instruction) and `prompt` (the chat).
        length_of: `raw_question`: characters of the question. `repr_chat`: characters of Python's
            str() of the chat, keys, quotes, escapes and instruction included.
        threshold: "mean", or characters.

    Raises:
        ValueError: when the table is empty.

    Source:
        Song et al. 2025, "FastCuRL", arXiv:2503.17287, section 2.1. The release of March 2025
        measured `repr_chat`, that of April 2025 `raw_question`.
    """
    _check_rows(table)
    if length_of == "raw_question":
        lengths = pc.utf8_length(table["question"]).to_pylist()
    else:
        lengths = [
            len(str(chat))
            for batch in table.select(["prompt"]).to_batches(4096)
            for chat in batch["prompt"].to_pylist()
        ]
    mean = sum(lengths) / len(lengths)
    longest = round(mean) if threshold == "mean" else int(threshold)
    return Split(lengths, mean, longest, [length <= longest for length in lengths])


def by_length(table: pa.Table, length_of: str, threshold: int | str) -> Labels:
    """FastCuRL's L1 (short), L3 (long), and L2, which is both; see `split_by_length`."""
    split = split_by_length(table, length_of, threshold)
    return Labels(
        ["L1" if short else "L3" for short in split.short],
        {"L1": ["L1"], "L2": None, "L3": ["L3"]},
        {"rule": length_of, "threshold": split.threshold, "mean": split.mean},
    )


def by_quantiles(
    lengths: Sequence[int], quantiles: Sequence[float], names: Sequence[str]
) -> Labels:
    """Equal shares of the set by length, the shortest first; rows of one length stay together.

        cut_q = the shortest length l with  #{length <= l} >= q * #rows

    A row belongs to the first set whose cut is not below its length.

    Args:
        lengths: Length of each question, in tokens.
        quantiles: Rising shares at which the set is cut.
        names: Names of the sets, one more than quantiles.

    Raises:
        ValueError: when there are no rows.
    """
    _check_rows(lengths)
    values = np.asarray(lengths)
    cuts = np.quantile(values, quantiles, method="inverted_cdf")
    place = np.searchsorted(cuts, values, side="left")
    return Labels(
        [names[p] for p in place],
        {**{name: [name] for name in names}, "all": None},
        {
            "rule": "tokens",
            "quantiles": list(quantiles),
            "cuts": [int(cut) for cut in cuts],
            "mean_tokens": float(values.mean()),
        },
    )


def by_level(levels: Sequence[int | None]) -> Labels:
    """The levels that the source gives, such as MATH's 1 to 5: one set for each that occurs.

    Raises:
        ValueError: when no row has a level.
    """
    _check_rows(levels)
    there = sorted({level for level in levels if level is not None})
    if not there:
        raise ValueError(
            "found no row with a level, needed some to divide by\n\n"
            "hint: set data.segmentation.rule to another, or take a source that has levels"
        )
    of = [None if level is None else f"level{level}" for level in levels]
    return Labels(
        of,
        {**{f"level{level}": [f"level{level}"] for level in there}, "all": None},
        {"rule": "level", "levels": there, "without_level": of.count(None)},
    )


def by_pass_rate(
    rates: Sequence[float | None], bands: Sequence[float], names: Sequence[str]
) -> Labels:
    """Bands of the pass rates that a model has, the lowest first.

        band i = [bands[i], bands[i + 1]),  the last [bands[-2], 1]

    Args:
        rates: Pass rate of each row, from 0 to 1; None for one that was not measured, which is in
            no band.
        bands: Rising edges, from 0 to 1.
        names: Names of the bands, one fewer than edges.

    Raises:
        ValueError: when there are no rows, or no row has a rate.
    """
    _check_rows(rates)
    known = [rate for rate in rates if rate is not None]
    if not known:
        raise ValueError(
            "found no pass rate for any row, needed some to divide by\n\n"
            "hint: measure the same set that is divided"
        )
    inner = list(bands[1:-1])
    of = [
        None if rate is None else names[int(np.searchsorted(inner, rate, side="right"))]
        for rate in rates
    ]
    return Labels(
        of,
        {**{name: [name] for name in names}, "all": None},
        {
            "rule": "pass_rate",
            "bands": list(bands),
            "mean_pass_rate": float(np.mean(known)),
            "never": sum(rate == 0 for rate in known),
            "always": sum(rate == 1 for rate in known),
            "not_measured": of.count(None),
        },
    )


def whole(rows: int) -> Labels:
    """Every row, under the name `all`."""
    _check_rows(range(rows))
    return Labels([None] * rows, {"all": None}, {"rule": "whole"})


def remaining(
    ids: Sequence[str],
    pass_rates: Mapping[str, float],
    solved: float | None,
    hopeless: float | None,
) -> list[bool]:
    """Which prompts a stage keeps, by the pass rates that the stage before recorded.

        kept  unless  rate >= solved  or  rate <= hopeless

    A prompt that the stage before did not draw has no rate, and is kept.

    Source:
        POLARIS (An et al. 2025) leaves out what is solved above a rate between its stages;
        Skywork-OR1 (He et al. 2025, arXiv:2505.22312) leaves out pass rates of 0 and of 1.
    """
    found = []
    for name in ids:
        rate = pass_rates.get(name)
        dropped = rate is not None and (
            (solved is not None and rate >= solved) or (hopeless is not None and rate <= hopeless)
        )
        found.append(not dropped)
    return found


def _check_rows(rows: Any) -> None:
    if not len(rows):
        raise ValueError("found no rows to divide, needed at least one\n\nhint: look at data.train")
