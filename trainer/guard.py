"""A guard between the flow and a trainer: nothing of a trainer outlives it.

python -m trainer.guard --grace 4 --scratch FOLDER [--stop-file FILE --stop-grace 12] -- COMMAND...

A trainer starts a tree of processes (Ray's daemons among them leave their session), which an
ordinary kill does not reach. The guard adopts every orphan of its tree, so that when the trainer
ends, when the guard is told to stop (SIGTERM, SIGINT), or when its parent dies, it can end them
all. It also removes what they leave in shared memory, and the scratch folder. Linux only.

A trainer that may have something to save is first asked to stop by a file: the signal would not
reach the process that can save, which is one of Ray's. It says that it looks for FILE by another
beside it, FILE.listening.
"""

import argparse
import contextlib
import ctypes
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL = 0.2  # seconds between looks at the command
LOOK = 3.0  # seconds between looks at what it has started and mapped
SHARED_MEMORY = Path("/dev/shm")
STOPPED = 143  # exit code of a run that was told to stop, as a shell reports SIGTERM


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _die_with_guard() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants() -> list[psutil.Process]:
    """Every living process below this one."""
    return [
        p for p in psutil.Process().children(recursive=True) if p.status() != psutil.STATUS_ZOMBIE
    ]


def shared_memory_files(processes: list[psutil.Process]) -> set[Path]:
    """Files under /dev/shm that these processes have mapped."""
    found = set()
    for process in processes:
        try:
            maps = Path(f"/proc/{process.pid}/maps").read_text()
        except OSError:  # it has just ended
            continue
        for line in maps.splitlines():
            path = line.rpartition(" ")[2]
            if path.startswith(f"{SHARED_MEMORY}/"):
                found.add(Path(path))
    return found


def end_all(timeout: float = 5.0) -> None:
    """Kill every descendant, those included that appear meanwhile."""
    deadline = time.monotonic() + timeout
    while (alive := descendants()) and time.monotonic() < deadline:
        for process in alive:
            try:
                process.kill()
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(alive, timeout=0.5)


class Guard:
    """Runs one command and answers for everything it starts."""

    def __init__(
        self,
        command: list[str],
        *,
        grace: float,
        stop_file: Path | None = None,
        stop_grace: float = 0.0,
    ):
        self.command = command
        self.grace = grace
        self.stop_file = stop_file
        self.stop_grace = stop_grace
        self.told_to_stop = False
        self.files: set[Path] = set()
        self.pids: set[int] = set()

    def run(self) -> int:
        """Run to the end, or until told to stop.

        Returns:
            The command's exit code, or 143 if it was stopped.
        """
        parent = os.getppid()
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
            signal.signal(number, self._stop)
        child = subprocess.Popen(self.command, preexec_fn=_die_with_guard)
        looked = 0.0
        while child.poll() is None and not self.told_to_stop:
            # A poll and not PDEATHSIG: that one fires when the parent's *thread* ends.
            if os.getppid() != parent:
                self.told_to_stop = True
            if time.monotonic() - looked > LOOK:
                looked = time.monotonic()
                self._look()
            time.sleep(POLL)
        if self.told_to_stop:
            self._wind_down(child)
        self._look()
        end_all()
        self._remove_shared_memory()
        return STOPPED if self.told_to_stop else child.returncode

    def _stop(self, *_: object) -> None:
        self.told_to_stop = True

    def _wind_down(self, child: subprocess.Popen) -> None:
        listening = self.stop_file and self.stop_file.with_suffix(".listening").exists()
        if listening and self.stop_grace:
            with contextlib.suppress(OSError):  # a full disk: then nothing could be saved either
                self.stop_file.touch()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(self.stop_grace)
        child.terminate()
        try:
            child.wait(self.grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _look(self) -> None:
        below = descendants()
        self.pids |= {process.pid for process in below}
        self.files |= shared_memory_files(below)

    def _remove_shared_memory(self) -> None:
        # Semaphores are mapped for moments only, but carry their maker's pid: sem.loky-4711-x.
        for path in SHARED_MEMORY.glob("sem.*"):
            if any(part.isdigit() and int(part) in self.pids for part in path.name.split("-")):
                path.unlink(missing_ok=True)
        for path in self.files:
            if not _mapped_by_others(path):
                path.unlink(missing_ok=True)


def _mapped_by_others(path: Path) -> bool:
    return path in shared_memory_files(list(psutil.process_iter()))


def main(arguments: list[str]) -> int:
    """Run a command line; the exit code is the command's, 128 + n where signal n ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--scratch", type=Path, required=True)
    parser.add_argument("--stop-file", type=Path)
    parser.add_argument("--stop-grace", type=float, default=0.0)
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    guard = Guard(
        asked.command, grace=asked.grace, stop_file=asked.stop_file, stop_grace=asked.stop_grace
    )
    code = guard.run()
    shutil.rmtree(asked.scratch, ignore_errors=True)
    return code if code >= 0 else 128 - code  # a signal as a shell reports it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
