"""What killed processes leave behind, and how to be rid of it: memory, orphans, folders."""

import contextlib
import fcntl
import json
import os
import re
import shutil
import time
from collections.abc import Iterable
from pathlib import Path

import psutil

from trainer.warm import MARK

SHARED_MEMORY = Path("/dev/shm")
NOTE = "guard.json"  # in a guard's scratch folder: what it would end and remove
# What lies in one before there is a guard: settings of a trainer begun ahead, and what it says.
SETTINGS, OUTPUT = "ray.json", "output"
UNUSED = 600.0  # seconds after which a scratch folder that no guard took is nobody's


def there_before() -> set[int]:
    """The inodes of what lies in /dev/shm: a program that starts now has made none of it."""
    return {entry.inode() for entry in os.scandir(SHARED_MEMORY)}


def shared_memory_files(processes: list[psutil.Process]) -> set[Path]:
    """Files that lie directly in /dev/shm and that these processes have mapped.

    There torch (torch_PID_x), Python (psm_x, sem.x), vLLM, verl and NCCL make theirs; Ray's store
    unlinks its own as it makes it. What lies in folders below are data of the user: weights are
    mapped as they are loaded.
    """
    found = set()
    for process in processes:
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:  # it has just ended
            continue
        for line in maps.splitlines():
            path = Path(line.rpartition(" ")[2])
            if path.parent == SHARED_MEMORY:
                found.add(path)
    return found


def remove_shared_memory(files: Iterable[Path], pids: Iterable[int], before: set[int]) -> None:
    """Remove what nobody maps any more: `files`, and what `pids` named after themselves.

    Args:
        files: What `shared_memory_files` found.
        pids: Of the processes that have ended.
        before: What `there_before` gave as they began, and stays whoever maps it.
    """
    for path in {*files, *_named_after(set(pids))}:
        with contextlib.suppress(OSError):  # gone, or of another user
            if path.stat().st_ino not in before and not _mapped_by_others(path):
                path.unlink()


def _named_after(pids: set[int]) -> Iterable[Path]:
    """Files of this user that carry their maker's pid: sem.loky-4711-x, torch_4711_x_0.

    Semaphores are mapped for moments only, and a short-lived process may be gone before a look.
    """
    for path in SHARED_MEMORY.iterdir():
        number = next(filter(str.isdecimal, re.split(r"[._-]", path.name)), "0")
        if int(number) in pids:
            with contextlib.suppress(OSError):
                if path.is_file() and path.stat().st_uid == os.getuid():
                    yield path


def sweep(parent: Path) -> list[Path]:
    """Do for guards that were killed what they did not come to.

    Args:
        parent: Folder that each scratch folder lies in, named `stagecraft-...`.

    Returns:
        The scratch folders that were removed, after the processes that they belonged to ended.
    """
    return [scratch for scratch in parent.glob("stagecraft-*") if _swept(scratch)]


def _swept(scratch: Path) -> bool:
    try:
        file = (scratch / NOTE).open("rb+")
    except FileNotFoundError:  # whoever made it died before there was a guard, or is about it now
        return _forgotten(scratch)
    except OSError:  # of another user
        return False
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            return False
        text = file.read()
        # Nothing is written but under the lock: what is empty may be a guard's about to take it.
        if not text and time.time() - os.fstat(file.fileno()).st_mtime <= UNUSED:
            return False
        pids, files, before = _noted(text)
        left = marked(scratch)
        files |= shared_memory_files(left)
        pids |= {process.pid for process in left}
        deadline = time.monotonic() + 5
        while (left := marked(scratch)) and time.monotonic() < deadline:
            kill(left)
        if before is not None:
            remove_shared_memory(files, pids, before)
        shutil.rmtree(scratch, ignore_errors=True)
    return not scratch.exists()


def _noted(text: bytes) -> tuple[set[int], set[Path], set[int] | None]:
    """Pids and files of a note, and what was there before.

    None of one that a full disk cut short: marks tell who is left, and nothing what may be removed.
    """
    try:
        noted = json.loads(text)
        return set(noted["pids"]), set(map(Path, noted["files"])), set(noted["before"])
    except (ValueError, KeyError, TypeError):
        return set(), set(), None


def _forgotten(scratch: Path) -> bool:
    """Remove a folder that no guard took, with no more than what lies in one before that."""
    try:
        if time.time() - scratch.stat().st_mtime <= UNUSED:
            return False
        ours = {SETTINGS, OUTPUT}
        if {path.name for path in scratch.iterdir()} <= ours:
            for name in ours:
                (scratch / name).unlink(missing_ok=True)
        scratch.rmdir()
        return True
    except OSError:  # gone, of another user, or somebody's own folder of such a name
        return False


def marked(scratch: Path) -> list[psutil.Process]:
    """Living processes that a guard with this scratch folder answered for, wherever they went."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == str(scratch)
            if ours and process.pid != os.getpid() and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def kill(processes: list[psutil.Process]) -> None:
    """Kill them, and wait for half a second at most until they are gone."""
    for process in processes:
        try:
            process.kill()
        except psutil.NoSuchProcess:
            continue
    psutil.wait_procs(processes, timeout=0.5)


def _mapped_by_others(path: Path) -> bool:
    return path in shared_memory_files(list(psutil.process_iter()))
