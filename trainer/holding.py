"""Who works in a folder says so until it ends, however it ends: the kernel lets go of its lock.

A flow that is killed leaves a trainer, which its guard gives the time to save its last step. What
that trainer still writes must not meet the trainer of the next flow.
"""

import fcntl
from pathlib import Path
from typing import TextIO

ENDING = ".lock"
_held: list[TextIO] = []  # until this process ends


def hold(folder: Path, name: str) -> None:
    """Say that this process works in `folder`. Programs that it starts don't hold it on.

    Args:
        folder: Where.
        name: What it is there: one process at a time is.

    Raises:
        RuntimeError: another process is it already.
    """
    file = (folder / f"{name}{ENDING}").open("a")
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        file.close()
        raise RuntimeError(
            f"{folder}: found another {name} at work, needed none\n\n"
            "hint: start it by a flow, which waits for what a killed one has left"
        ) from None
    _held.append(file)


def at_work(folder: Path) -> list[str]:
    """Names under which processes hold a folder at this moment."""
    return [path.stem for path in sorted(folder.glob(f"*{ENDING}")) if not _let_go(path, False)]


def wait_for(folder: Path, name: str) -> None:
    """Wait until nobody holds a folder under this name."""
    _let_go(folder / f"{name}{ENDING}", True)


def _let_go(path: Path, wait: bool) -> bool:
    try:
        file = path.open()
    except FileNotFoundError:
        return True
    with file:
        try:
            # Shared, so that two who look do not take each other for one that works.
            fcntl.flock(file, fcntl.LOCK_SH | (0 if wait else fcntl.LOCK_NB))
        except BlockingIOError:
            return False
    return True
