"""Bring a set of problems to disk: from the lab's generator, the Hub, or local files."""

import os
from collections.abc import Iterator
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path

from conf.schema import Data, Source
from tasks import adapters, hub, readers
from tasks.artifacts import MANIFEST, Dataset, digest_of, file_digest, folder_digest
from tasks.held_out import HELD_OUT_VERSION, held_out
from tasks.readers import READERS, Rows
from tasks.upstream import called, to_table

# Raise it when a change of ours alters the columns that come of the same files.
READER_VERSION = 3


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
        ValueError: when a file is missing, cut or unreadable, a column is missing or holds
            something else than it should, the set is empty, or the Hub cannot be reached and holds
            no copy on this machine. Then nothing is written.
    """
    upstream = _upstream_digest(source)
    folder = _folder(source, data, output, upstream)
    if (folder / MANIFEST).is_file():
        return Dataset.load(folder)
    parts, files, revision = _opened(source)
    format_ = "plain" if source.columns else source.format
    table = to_table(parts, source.name, data.instruction, format_)
    if source.held_out:
        table = held_out(table, source.held_out, source.seed, source.part)
    return Dataset.write(
        folder,
        source.name,
        table,
        source=source.model_dump(mode="json"),
        instruction=data.instruction,
        revision=revision,
        files={file.name: file_digest(file) for file in files},
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
    # Where a copy lies says nothing about what is in it.
    what = source.model_dump(mode="json", exclude={"mirror"})
    versions = [READER_VERSION, *([HELD_OUT_VERSION] if source.held_out else [])]
    key = digest_of([what, data.instruction, upstream, *versions])
    return Path(output) / "data" / f"{source.name}-{key[:12]}"


def _upstream_digest(source: Source) -> str:
    """What names the content before it is read: of files their bytes, of the lab its code."""
    if source.kind == "file":
        return digest_of([file_digest(file) for file in paths(source)])
    if source.kind == "lab":
        return file_digest(find_spec("trainer.lab.task").origin)
    folder = Path(str(source.path))
    return folder_digest(folder) if folder.is_dir() else ""


def _opened(source: Source) -> tuple[Iterator[tuple[str, Rows]], list[Path], str]:
    """The rows of a source in parts, not yet read; the files they are in; and their revision."""
    if source.kind == "lab":
        from trainer.lab.task import problems

        rows = problems(rows=source.rows, seed=source.seed, split=source.split)
        return iter([(source.name, rows)]), [], "lab"
    files, revision = hub.fetched(source) if source.kind == "hub" else (paths(source), "local")
    return _read(source, files), files, revision


def _read(source: Source, files: list[Path]) -> Iterator[tuple[str, Rows]]:
    # Those that the source names have to be there: all are read, for the message that lists them.
    wanted = () if source.columns else adapters.columns(source.format)
    found = 0
    for file in files:
        before = found
        for place, rows in readers.parts(file, source.name, wanted):
            if source.columns:
                rows = called(rows, source.columns, place, found - before)
            found += len(rows)
            yield place, rows
    if not found:
        raise ValueError(
            f"{source.name}: found no rows in {', '.join(map(str, files))}, needed at least one"
            "\n\nhint: set its path to a file that has some"
        )
