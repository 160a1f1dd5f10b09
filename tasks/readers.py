"""Read rows of parquet, json and jsonl files, a part at a time, and refuse what cannot be read."""

import json
from collections.abc import Callable, Collection, Iterator
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

Rows = list[dict[str, Any]]

_TOGETHER = 1024  # rows of a parquet that are in memory at one time
_UTF_8 = "utf-8-sig"  # with or without the mark that some editors put first
# A small parquet can hold a page that unpacks to all of the memory there is.
LARGEST_GROUP = 4 << 30  # bytes of a row group, as its footer gives them
LARGEST_PART = 1 << 30  # bytes of `_TOGETHER` rows in memory
LARGEST_TEXT = 4 << 30  # bytes of a json or jsonl file


class BombError(ValueError):
    """A file that would take more memory than any set of problems needs."""


class FormError(ValueError):
    """A file that is not what its name says, to be put after its place."""


def parts(file: Path, name: str, columns: Collection[str]) -> Iterator[tuple[str, Rows]]:
    """The rows of a file, in parts, each with the place that messages name.

    Args:
        file: A file that ends in one of `READERS`.
        name: The set, for messages.
        columns: Columns that are wanted, of a parquet no others are read; none: all.

    Raises:
        ValueError: when the file cannot be read, or is of a form that no set has.
    """
    place = f"{name}: {file}"
    try:
        for rows in READERS[file.suffix](file, columns):
            yield place, rows
    except (BombError, FormError) as error:
        raise ValueError(f"{place} {error}") from error
    # Of a damaged parquet Arrow says one or the other.
    except (pa.ArrowException, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
        hint = "write the file again, or download it again"
        if isinstance(error, json.JSONDecodeError) and error.msg == "Extra data":
            hint = f"if it has one object a line, call it {file.stem}.jsonl"
        raise ValueError(
            f"{place} is no readable {file.suffix[1:]} file: {error}\n\nhint: {hint}"
        ) from error


def _parquet(file: Path, columns: Collection[str]) -> Iterator[Rows]:
    with pq.ParquetFile(file) as parquet:
        _check_groups(parquet.metadata)
        known = [name for name in parquet.schema_arrow.names if name in columns]
        # Where none is known, all are read, for the message that names them.
        for batch in parquet.iter_batches(_TOGETHER, columns=known or None, use_threads=False):
            if batch.nbytes > LARGEST_PART:
                raise BombError(
                    f"unpacks to {batch.nbytes:,} bytes for {len(batch)} rows, needed at most "
                    f"{LARGEST_PART:,}\n\nhint: it is no set of problems; look at where it is from"
                )
            yield batch.to_pylist()


def _check_groups(metadata: pq.FileMetaData) -> None:
    for number in range(metadata.num_row_groups):
        size = metadata.row_group(number).total_byte_size
        if size > LARGEST_GROUP:
            raise BombError(
                f"has a row group of {size:,} bytes, unpacked, needed at most {LARGEST_GROUP:,}"
                "\n\nhint: write it again with smaller row groups, if you trust it"
            )


def _json(file: Path, columns: Collection[str]) -> Iterator[Rows]:
    _check_size(file)
    rows = _parsed(file.read_text(encoding=_UTF_8))
    if isinstance(rows, list) and rows and all(isinstance(row, list) for row in rows):
        # Conversations: turns under the names that the Hub gives them.
        rows = [{str(number): turn for number, turn in enumerate(row)} for row in rows]
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise FormError(
            "holds no list of objects\n\n"
            "hint: a json file is [{...}, ...], a jsonl file one object a line"
        )
    yield rows


def _jsonl(file: Path, columns: Collection[str]) -> Iterator[Rows]:
    _check_size(file)
    rows: Rows = []
    with file.open("rb") as lines:
        for number, line in enumerate(lines, 1):
            rows += _line(line, number)
            if len(rows) == _TOGETHER:
                yield rows
                rows = []
    yield rows


def _line(line: bytes, number: int) -> Rows:
    """The row in a line of a jsonl file, none in an empty one."""
    hint = f"\n\nhint: mend line {number}; a jsonl file is one object a line"
    try:
        text = line.decode(_UTF_8 if number == 1 else "utf-8").rstrip()
        row = _parsed(text) if text else {}
    except UnicodeDecodeError as error:
        raise FormError(f"is no readable jsonl file: line {number}: {error}{hint}") from error
    except json.JSONDecodeError as error:
        where = f"line {number}, column {error.colno}"
        raise FormError(f"is no readable jsonl file: {where}: {error.msg}{hint}") from error
    if not isinstance(row, dict):
        raise FormError(f"holds {text!r:.60} in line {number}, which is no object{hint}")
    return [row] if text else []


def _parsed(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        raise
    except RecursionError:
        raise BombError(
            "holds lists in lists a thousand deep\n\nhint: look at its source"
        ) from None
    except ValueError as error:  # a number that Python does not read
        raise BombError(f"holds what no set has: {error}\n\nhint: write it as text") from error


def _check_size(file: Path) -> None:
    size = file.stat().st_size
    if size > LARGEST_TEXT:
        raise BombError(
            f"has {size:,} bytes, needed at most {LARGEST_TEXT:,}\n\nhint: convert it to parquet"
        )


READERS: dict[str, Callable[[Path, Collection[str]], Iterator[Rows]]] = {
    ".parquet": _parquet,
    ".json": _json,
    ".jsonl": _jsonl,
}
