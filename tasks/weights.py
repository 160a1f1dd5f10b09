"""Weights that are read for hours: they stay where they are, and are what their digest says.

A stage that trains from another's checkpoint, and an evaluation of it, hold that stage's `readers`
with others; who wants to move or delete the stage holds it alone, or leaves the stage.
"""

import fcntl
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path

from tasks.artifacts import folder_digest

READERS = "readers"
_SETTLED = 10**8  # nanoseconds: a file may change again within one tick of its disk's clock
_Stamp = tuple[tuple[str, int, int, int, int], ...]
_known: dict[Path, tuple[str, _Stamp]] = {}


def read_digest(folder: Path) -> str:
    """The digest of a folder's content, see `tasks.artifacts.folder_digest`; remembered.

    Raises:
        NotADirectoryError: when there is no such folder.
    """
    began, stamp = time.time_ns(), _stamp(folder)
    digest = folder_digest(folder)
    if all(changed < began - _SETTLED for *_, changed in stamp):
        _known[folder.resolve()] = digest, stamp
    return digest


def unchanged(folder: Path, digest: str) -> bool:
    """Whether a folder's content has this digest.

    It is not read again where this process has read it, and since then no file there has another
    size, inode, or time of change.
    """
    if not folder.is_dir():
        return False
    return _known.get(folder.resolve()) == (digest, _stamp(folder)) or read_digest(folder) == digest


@contextmanager
def reading(stage: Path) -> Iterator[None]:
    """Keep a stage's folder where it is, with others who read its checkpoint."""
    with ExitStack() as until:
        with suppress(OSError):  # we may only read there: then it is checked, and not kept
            file = until.enter_context((stage / READERS).open("a"))
            fcntl.flock(file, fcntl.LOCK_SH)
        yield


@contextmanager
def unread(stage: Path) -> Iterator[bool]:
    """Whether nobody reads a stage's checkpoint; until the block ends, nobody begins to."""
    with (stage / READERS).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
        else:
            yield True


def _stamp(folder: Path) -> _Stamp:
    files = sorted(path for path in folder.rglob("*") if path.is_file())
    found = [(path.relative_to(folder).as_posix(), path.stat()) for path in files]
    return tuple(
        (name, one.st_size, one.st_ino, one.st_mtime_ns, one.st_ctime_ns) for name, one in found
    )
