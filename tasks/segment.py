"""Divide a training set into prompt sets by the length of the question."""

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from conf.schema import Data
from tasks.artifacts import MANIFEST, Dataset, digest_of

SEGMENTS = ("L1", "L2", "L3")


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
    if not table.num_rows:
        raise ValueError("found no rows to divide, needed at least one\n\nhint: look at data.train")
    if length_of == "raw_question":
        lengths = pc.utf8_length(table["question"]).to_pylist()
    else:
        lengths = [len(str(chat)) for chat in table["prompt"].to_pylist()]
    mean = sum(lengths) / len(lengths)
    longest = round(mean) if threshold == "mean" else int(threshold)
    return Split(lengths, mean, longest, [length <= longest for length in lengths])


def segmented(dataset: Dataset, data: Data, output: Path | str) -> dict[str, Dataset] | None:
    """What `segment` would find on disk, or None where it would have to make it."""
    folders = _folders(dataset, data, output)
    if not all((folder / MANIFEST).is_file() for folder in folders.values()):
        return None
    return {name: Dataset.load(folder) for name, folder in folders.items()}


def _folders(dataset: Dataset, data: Data, output: Path | str) -> dict[str, Path]:
    key = digest_of([dataset.digest, data.segmentation])
    return {name: Path(output) / "data" / f"{dataset.name}-{key[:12]}-{name}" for name in SEGMENTS}


def segment(dataset: Dataset, data: Data, output: Path | str) -> dict[str, Dataset]:
    """The prompt sets of a training set: L1 (short), L2 (all) and L3 (long), under `output`/data.

    L1 and L3 share no row and together are L2. Rows keep their order. A prompt set that is on
    disk already is returned as it is. One may come out empty: `tasks.preflight` refuses that
    where a stage trains on it.

    Raises:
        ValueError: when the training set is empty.
    """
    there = segmented(dataset, data, output)
    if there:
        return there
    rule, folders = data.segmentation, _folders(dataset, data, output)
    table = dataset.table()
    split = split_by_length(table, rule.length_of, rule.threshold)
    short = pa.array(split.short)
    parts = {"L1": table.filter(short), "L2": table, "L3": table.filter(pc.invert(short))}
    counts = {name: part.num_rows for name, part in parts.items()}
    return {
        name: Dataset.write(
            folders[name],
            f"{dataset.name}-{name}",
            part,
            segment=name,
            rule=rule.length_of,
            threshold=split.threshold,
            mean=split.mean,
            counts=counts,
            parent_digest=dataset.digest,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for name, part in parts.items()
    }
