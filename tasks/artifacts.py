"""What lies on disk: folders that appear whole, digests that name their content, and data sets.

Every artifact is a folder that is filled aside, then renamed into place, with a JSON manifest
written last: a folder that is there is finished.
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from errno import EEXIST, ENOTDIR, ENOTEMPTY
from functools import cached_property
from pathlib import Path
from statistics import mean, median
from typing import IO, Any
from uuid import uuid4

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

COLUMNS = pa.schema(
    [
        ("id", pa.string()),
        ("prompt", pa.list_(pa.struct([("role", pa.string()), ("content", pa.string())]))),
        ("question", pa.string()),
        ("answers", pa.list_(pa.string())),
        ("source", pa.string()),
        ("index", pa.int64()),
        ("level", pa.int32()),
    ]
)
"""Columns of a data set: `prompt` is the chat, ending with the instruction; `question` is the raw
question without it; `answers` are the accepted ones; `index` is the order upstream; `level` is the
difficulty, null where unknown."""

MANIFEST = "manifest.json"
PROMPTS = "prompts.parquet"


def digest_of(value: Any) -> str:
    """The SHA-256 of a value's canonical JSON, as 64 hexadecimal digits.

    The order of keys does not matter. Pydantic models count as their fields, paths as text.

    Raises:
        TypeError: for what JSON cannot hold.
        ValueError: for NaN and infinity, which JSON cannot hold either.

    >>> digest_of({"a": 1, "b": 2}) == digest_of({"b": 2, "a": 1})
    True
    """
    text = json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False, default=_plain)
    return hashlib.sha256(text.encode()).hexdigest()


def _plain(value: Any) -> Any:
    if hasattr(value, "model_dump"):
        return value.model_dump(mode="json")
    if isinstance(value, os.PathLike):
        return os.fspath(value)
    raise TypeError(f"found a {type(value).__name__}, needed what JSON can hold")


def file_digest(path: Path | str) -> str:
    """The SHA-256 of a file's bytes, as 64 hexadecimal digits."""
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def folder_digest(path: Path | str) -> str:
    """The SHA-256 of the names and bytes of all files below a folder, as 64 hexadecimal digits.

    Times and permissions do not matter, nor do empty folders, nor what is hidden (`.git`,
    `.cache/huggingface`, `.DS_Store`): tools keep there what differs from copy to copy.

    Raises:
        NotADirectoryError: when there is no such folder.
    """
    root = Path(path)
    if not root.is_dir():
        raise NotADirectoryError(f"no folder {root}")
    names = sorted(file.relative_to(root) for file in root.rglob("*") if file.is_file())
    shown = [name for name in names if not any(part.startswith(".") for part in name.parts)]
    return digest_of([[name.as_posix(), file_digest(root / name)] for name in shown])


@contextmanager
def new_folder(final: Path | str, whole: str = "") -> Iterator[Path]:
    """A folder to fill, which takes its final name when the block ends well.

    It lies beside its final place, so the renaming is one step of the same file system. A folder
    that already has the final name is moved away, and deleted after the new one is in place.
    When the block raises, the new folder is removed and the old one stays.

    Args:
        final: The final name.
        whole: For names that say what is in them: a file that finished folders have. One that is
            there by then stays, for others may read it, and the new one is removed.
    """
    final = Path(final)
    final.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(final)
    aside.mkdir()
    try:
        yield aside
        _put(aside, final, whole)
    finally:
        shutil.rmtree(aside, ignore_errors=True)


def _put(aside: Path, final: Path, whole: str) -> None:
    moved: list[Path] = []
    try:
        while True:  # another process may put its own there at the same moment
            try:
                os.replace(aside, final)
                return
            except OSError as error:
                if error.errno not in (ENOTEMPTY, EEXIST, ENOTDIR):
                    raise
            if whole and (final / whole).is_file():
                return
            moved.append(_beside(final))
            with suppress(FileNotFoundError):
                os.replace(final, moved[-1])
    except BaseException:
        if moved and moved[-1].exists() and not final.exists():
            os.replace(moved[-1], final)
        raise
    finally:
        for old in moved:
            shutil.rmtree(old, ignore_errors=True)


def _beside(path: Path) -> Path:
    return path.with_name(f".{path.name}.{uuid4().hex[:12]}")


def write_json(path: Path | str, value: Any) -> None:
    """Write JSON so that a reader sees the old file or the new one, never half of it."""
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = _beside(path)
    try:
        with aside.open("x", encoding="utf-8") as file:
            json.dump(value, file, indent=2, ensure_ascii=False, default=_plain)
            file.write("\n")
            file.flush()
            os.fsync(file.fileno())
        os.replace(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def read_json(path: Path | str) -> Any:
    """What `write_json` wrote.

    Raises:
        ValueError: when the file is no JSON.
    """
    return _parsed(path, Path(path).read_bytes())


def _parsed(path: Path | str, content: bytes) -> Any:
    try:
        return json.loads(content)
    except ValueError as error:  # no JSON, or no text
        raise ValueError(
            f"{path} holds no JSON: {error}\n\nhint: delete it; it is made anew"
        ) from error


def read_sound(path: Path, fault_of: Callable[[Any], str]) -> tuple[Any, str]:
    """What a JSON file says; one that is damaged is moved to `<name>.corrupt-<time>` beside it.

    Args:
        path: The file.
        fault_of: Gives what makes its content unusable, or "".

    Returns:
        The content, or None; and what was wrong with it and where it is kept, or "".

    Raises:
        OSError: the disk does not let it be read, which says nothing about what it holds.
    """
    while True:
        with path.open("rb") as file:  # open to the end: no other file gets its number meanwhile
            try:
                content = _parsed(path, file.read())
                fault = fault_of(content)
            except ValueError as error:  # no JSON, or no text
                fault = str(error).splitlines()[0]
            if not fault:
                return content, ""
            # Whoever reads holds no lock: a run may just have written a sound one.
            if path.exists() and not _is(path, file):
                continue
            aside = path.with_name(f"{path.name}.corrupt-{time.strftime('%Y%m%dT%H%M%S')}")
            try:
                os.replace(path, aside)
            except OSError as error:
                why = f"cannot be moved aside ({error.strerror})"
                return None, f"{path} is damaged ({fault}) and {why}"
            if _is(aside, file):
                return None, f"{path} was damaged ({fault}): kept as {aside.name}"
            if not path.exists():  # else there is a third by now
                os.replace(aside, path)


def _is(path: Path, file: IO[bytes]) -> bool:
    """Whether the file that is open still has this name."""
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(file.fileno()))
    return False


@dataclass(frozen=True)
class Dataset:
    """A finished data set on disk: the columns of `COLUMNS` in one parquet file, and a manifest.

    Attributes:
        name: Name of the set.
        path: The parquet file.
        digest: SHA-256 of the rows, whatever wrote the file.
        rows: Number of rows.
        folder: The folder that holds file and manifest.
    """

    name: str
    path: Path
    digest: str
    rows: int
    folder: Path

    @classmethod
    def write(
        cls,
        folder: Path | str,
        name: str,
        table: pa.Table,
        *,
        beside: Mapping[str, Any] | None = None,
        **manifest: Any,
    ) -> "Dataset":
        """Write a table of `COLUMNS` and its manifest as a finished folder.

        Args:
            folder: Where it goes, by a name that says what is in it: a finished one stays.
            name: Name of the set.
            table: The rows.
            beside: JSON files that go into the folder, by name.
            manifest: What else the manifest is to say, such as `source`. It always has the rows,
                their digest, and `lengths`: mean, median and max of the questions, in characters.
        """
        table = table.select(COLUMNS.names).cast(COLUMNS)
        lengths = pc.utf8_length(table["question"]).to_pylist()
        with new_folder(folder, MANIFEST) as aside:
            pq.write_table(table, aside / PROMPTS)
            for file, value in (beside or {}).items():
                write_json(aside / file, value)
            write_json(
                aside / MANIFEST,
                {
                    "kind": "dataset",
                    "name": name,
                    "rows": table.num_rows,
                    "digest": rows_digest(table),
                    "file_digest": file_digest(aside / PROMPTS),
                    "columns": COLUMNS.names,
                    "lengths": {
                        "mean": mean(lengths) if lengths else None,
                        "median": median(lengths) if lengths else None,
                        "max": max(lengths, default=None),
                    },
                    **manifest,
                },
            )
            cls.load(aside)
        return cls.load(folder)

    @classmethod
    def load(cls, folder: Path | str) -> "Dataset":
        """The data set in a folder.

        Raises:
            ValueError: when it has no manifest, is something else, or its file was changed since.
        """
        folder = Path(folder)
        if not (folder / MANIFEST).is_file():
            raise ValueError(
                f"{folder} holds no {MANIFEST}, so no finished data set\n\n"
                "hint: delete the folder; it is made anew"
            )
        manifest = read_json(folder / MANIFEST)
        if manifest.get("kind") != "dataset":
            raise ValueError(
                f"{folder / MANIFEST} is of kind {manifest.get('kind')!r}, needed 'dataset'\n\n"
                "hint: point to a folder below data/"
            )
        path = folder / PROMPTS
        if not path.is_file() or file_digest(path) != manifest["file_digest"]:
            raise ValueError(
                f"{path} is not the file that {MANIFEST} beside it describes\n\n"
                "hint: delete the folder; it is made anew"
            )
        return cls(manifest["name"], path, manifest["digest"], manifest["rows"], folder)

    @cached_property
    def manifest(self) -> dict[str, Any]:
        """The manifest, as written."""
        return read_json(self.folder / MANIFEST)

    def table(self) -> pa.Table:
        """The rows, with the columns of `COLUMNS`."""
        return pq.read_table(self.path)


def rows_digest(table: pa.Table) -> str:
    """The SHA-256 of a table's rows in their order, independent of how a file stores them."""
    digest = hashlib.sha256()
    for batch in table.to_batches(max_chunksize=4096):
        for row in batch.to_pylist():
            line = json.dumps(row, sort_keys=True, separators=(",", ":"))
            digest.update(line.encode() + b"\n")
    return digest.hexdigest()
