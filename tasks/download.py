"""Bring a set of problems to disk: from the lab's generator, the Hub, or local files."""

import json
import os
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from conf.schema import Data, Source
from tasks.artifacts import MANIFEST, Dataset, digest_of, file_digest, folder_digest
from tasks.upstream import check_rows, to_columns

Rows = list[dict[str, Any]]


def download(source: Source, data: Data, output: Path | str) -> Dataset:
    """The problems of a source, in our columns, under `output`/data.

    The folder is named by the source, the instruction, and what can be known of the content
    without reading the Hub; when it is there already, it is returned as it is. So a set from the
    Hub's `main` stays what it was when first read.

    Args:
        source: Where the problems come from.
        data: Holds the instruction that ends every prompt.
        output: The experiment's output folder.

    Raises:
        ValueError: when a file is missing or unreadable, a column is missing or holds something
            else than it should, the set is empty, or the Hub cannot be reached and holds no copy
            on this machine.
    """
    upstream = _upstream_digest(source)
    folder = _folder(source, data, output, upstream)
    if (folder / MANIFEST).is_file():
        return Dataset.load(folder)
    rows, revision = {"lab": _from_lab, "hub": _from_hub, "file": _from_files}[source.kind](source)
    table = to_columns(rows, source.name, data.instruction)
    return Dataset.write(
        folder,
        source.name,
        table,
        source=source.model_dump(mode="json"),
        instruction=data.instruction,
        revision=revision,
        upstream_digest=upstream or digest_of(revision),
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def downloaded(source: Source, data: Data, output: Path | str) -> Dataset | None:
    """What `download` would find on disk, or None where it would have to fetch or make it.

    Raises:
        ValueError: when a local file is missing, or the data set was changed since.
    """
    folder = _folder(source, data, output, _upstream_digest(source))
    return Dataset.load(folder) if (folder / MANIFEST).is_file() else None


def paths(source: Source) -> list[Path]:
    """The local files that a source of kind `file` names, in its order.

    Raises:
        ValueError: when none is named, one is missing, or one is of no known format.
    """
    named = [source.path] if isinstance(source.path, str) else source.path
    files = [Path(os.path.expanduser(name)) for name in named if name]
    if not files:
        raise ValueError(f"{source.name}: found no path, needed a file\n\nhint: set its path")
    for file in files:
        if not file.is_file():
            raise ValueError(
                f"{source.name}: no file {file}\n\nhint: set its path; now in {Path.cwd()}"
            )
        if file.suffix not in READERS:
            raise ValueError(
                f"{source.name}: {file} ends in {file.suffix or 'nothing'!r}, needed one of "
                f"{', '.join(READERS)}\n\nhint: convert the file"
            )
    return files


def _folder(source: Source, data: Data, output: Path | str, upstream: str) -> Path:
    key = digest_of([source, data.instruction, upstream])
    return Path(output) / "data" / f"{source.name}-{key[:12]}"


def _upstream_digest(source: Source) -> str:
    """What names the content before it is read: of files their bytes, of the lab its code."""
    if source.kind == "file":
        return digest_of([file_digest(file) for file in paths(source)])
    if source.kind == "lab":
        return file_digest(find_spec("trainer.lab.task").origin)
    folder = Path(str(source.path))
    return folder_digest(folder) if folder.is_dir() else ""


def _from_lab(source: Source) -> tuple[Rows, str]:
    from trainer.lab.task import problems

    return problems(rows=source.rows, seed=source.seed, split=source.split), "lab"


def _from_files(source: Source) -> tuple[Rows, str]:
    rows: Rows = []
    files = paths(source)
    for file in files:
        try:
            part = READERS[file.suffix](file)
        # Of a damaged parquet Arrow says one or the other.
        except (pa.ArrowException, OSError, UnicodeDecodeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"{source.name}: {file} is no readable {file.suffix[1:]} file: {error}\n\n"
                "hint: fetch the file again"
            ) from error
        check_rows(part, f"{source.name}: {file}")  # here, where the file is known
        rows += part
    if not rows:
        raise ValueError(
            f"{source.name}: found no rows in {', '.join(map(str, files))}, needed at least one"
            "\n\nhint: set its path to a file that has some"
        )
    return rows, "local"


def _parquet(file: Path) -> Rows:
    return pq.read_table(file).to_pylist()


def _json(file: Path) -> Rows:
    rows = json.loads(file.read_text(encoding="utf-8"))
    if not isinstance(rows, list) or not all(isinstance(row, dict) for row in rows):
        raise ValueError(
            f"{file} holds no list of objects\n\nhint: a json file is [{{...}}, ...], a jsonl "
            "file one object a line"
        )
    return rows


def _jsonl(file: Path) -> Rows:
    lines = file.read_text(encoding="utf-8").split("\n")
    rows = [json.loads(line) for line in lines if line.strip()]
    if not all(isinstance(row, dict) for row in rows):
        raise ValueError(f"{file} holds a line that is no object\n\nhint: one object a line")
    return rows


READERS = {".parquet": _parquet, ".json": _json, ".jsonl": _jsonl}


def _from_hub(source: Source) -> tuple[Rows, str]:
    """Rows of a Hub dataset, or of a folder laid out like one, with the commit they are of."""
    import httpx
    from datasets import load_dataset
    from datasets.exceptions import DatasetsError

    try:
        revision = _commit(source)
        loaded = load_dataset(
            source.path,
            data_files={source.split: source.files} if source.files else None,
            split=source.split,
            revision=None if revision == "local" else revision,
        )
    # Everything the Hub's libraries raise for a missing name, split, file or network.
    except (OSError, ValueError, httpx.HTTPError, DatasetsError) as error:
        raise ValueError(
            f"{source.name}: could not read split {source.split!r} of {source.path} at revision "
            f"{source.revision!r}: {error}\n\n"
            "hint: check name, split and network; or fetch the files and use kind=file"
        ) from error
    return loaded.to_list(), revision


def _commit(source: Source) -> str:
    """The commit that a revision names now; the revision itself where the Hub is out of reach."""
    import httpx
    from huggingface_hub import HfApi
    from huggingface_hub.errors import OfflineModeIsEnabled

    if Path(str(source.path)).is_dir():
        return "local"
    try:
        return HfApi().dataset_info(source.path, revision=source.revision, timeout=20).sha
    except (OfflineModeIsEnabled, ConnectionError, TimeoutError, httpx.TransportError):
        return source.revision
