"""Rows as the published sets have them, turned into the columns of ours."""

from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from tasks.adapters import adapter_of
from tasks.adapters.row import UnfitError, answers, without_instruction
from tasks.artifacts import COLUMNS

__all__ = ["answers", "called", "check_rows", "to_columns", "to_table", "without_instruction"]

Row = Mapping[str, Any]
_TOGETHER = 4096  # rows that are Python objects at one time


def to_columns(rows: Sequence[Row], name: str, instruction: str, format_: str = "auto") -> pa.Table:
    """Upstream rows as a table of `COLUMNS`, in the order of their indices.

    Where two rows share an index (files that each count from 0), or one has none, rows are
    numbered as they come.

    Args:
        rows: Upstream rows, of any of the formats of `tasks.adapters`.
        name: Name of the set, the start of each id.
        instruction: What each prompt is to end with. It is added where it is not there yet.
        format_: One of the formats, or `auto`: each row by its columns.

    Raises:
        ValueError: when there are no rows, or for what `check_rows` refuses. A row whose truth
            says nothing gets no answers; gates drop it, or `tasks.preflight` refuses it.
    """
    return to_table([(name, rows)], name, instruction, format_)


def to_table(
    parts: Iterable[tuple[str, Sequence[Row]]], name: str, instruction: str, format_: str = "auto"
) -> pa.Table:
    """`to_columns` of rows that come in parts, each with its place, such as the file it is of.

    Only one part at a time is held as Python objects.
    """
    made, indices, places = [], [], _Places()
    seen: set[str] = set()
    for place, rows in parts:
        check_rows(rows, place, format_, places.start(place))
        places.add(place, len(rows))
        for start in range(0, len(rows), _TOGETHER):
            found = list(_converted(rows[start : start + _TOGETHER], instruction, format_, seen))
            indices += [row["index"] for row in found]
            made.append(pa.RecordBatch.from_pylist([{**row, "id": ""} for row in found], COLUMNS))
    if not indices:
        raise ValueError(f"{name} holds no rows, needed at least one\n\nhint: look at its source")
    table = pa.Table.from_batches(made, COLUMNS)
    if None in indices or len(set(indices)) < len(indices):
        indices = list(range(len(indices)))
    order = np.argsort(np.array(indices, np.int64), kind="stable")
    table = _with(table, "index", pa.array(indices, pa.int64())).take(order)
    ids = [f"{name}-{index}" for index in table["index"].to_pylist()]
    named = pc.if_else(pc.equal(table["source"], ""), name, table["source"])
    return _with(_with(table, "id", pa.array(ids)), "source", named).combine_chunks()


def check_rows(rows: Sequence[Row], place: str, format_: str = "auto", first: int = 0) -> None:
    """Refuse rows that are of no known format, or hold something else than their columns should.

    Args:
        rows: Upstream rows.
        place: Where they are from, the start of the message: a set, or one of its files.
        format_: One of the formats of `tasks.adapters`, or `auto`.
        first: Number of the first of them there.

    Raises:
        ValueError: for the first fault, with its row, its column, what was found and needed.
    """
    for position, row in enumerate(rows, first):
        try:
            adapter_of(row, format_).check(row)
        except UnfitError as fault:
            raise ValueError(f"{place}: row {position}{fault}") from None


def called(
    rows: Sequence[Row], columns: Mapping[str, str], place: str, first: int = 0
) -> list[dict[str, Any]]:
    """Rows whose columns are called as the format `plain` has them, and only those that are named.

    Args:
        rows: Upstream rows.
        columns: Our names to theirs, see `conf.schema.Source`.
        place: Where they are from, the start of the message.
        first: Number of the first of them there.

    Raises:
        ValueError: a row lacks one, with those that it has.
    """
    for position, row in enumerate(rows, first):
        missing = [ours for ours, theirs in columns.items() if theirs not in row]
        if missing:
            raise ValueError(
                f"{place}: row {position} has the columns {', '.join(row) or '(none)'}; needed "
                f"{columns[missing[0]]}, its {missing[0]}\n\n"
                f"hint: set columns.{missing[0]} to one that every row has"
            )
    return [{ours: row[theirs] for ours, theirs in columns.items()} for row in rows]


def _converted(
    rows: Sequence[Row], instruction: str, format_: str, seen: set[str]
) -> Iterator[dict[str, Any]]:
    for row in rows:
        found = adapter_of(row, format_).convert(row, instruction)
        copy_of = found.pop("copy_of", None)
        if copy_of is not None:
            if copy_of in seen:
                continue
            seen.add(copy_of)
        yield found


class _Places(dict):
    """How many rows of each place there were so far."""

    def start(self, place: str) -> int:
        return self.get(place, 0)

    def add(self, place: str, rows: int) -> None:
        self[place] = self.start(place) + rows


def _with(table: pa.Table, name: str, values: pa.Array | pa.ChunkedArray) -> pa.Table:
    return table.set_column(table.schema.get_field_index(name), COLUMNS.field(name), values)
