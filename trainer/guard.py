"""A guard between the flow and a trainer: nothing of a trainer outlives it.

python -m trainer.guard --grace 4 --parent PID --scratch FOLDER [--stop-file ...] -- COMMAND...
python -m trainer.guard --fork ... -- -m MODULE ARGUMENTS...

A trainer starts a tree of processes (Ray's daemons among them leave their session), which an
ordinary kill does not reach. The guard adopts every orphan of its tree, so that when the trainer
ends, when the guard is told to stop (SIGTERM, SIGINT), or when its parent dies, it can end them
all. It also removes what they made and left in shared memory, and the scratch folder. Linux only.

A guard that is itself a fork of `trainer.standby` has what the trainer imports, and forks it.

A trainer that may have something to save is first asked to stop by a file: the signal would not
reach the process that can save, which is one of Ray's. It looks for FILE as long as another file
stands beside it, FILE.listening.

A guard can be killed too. It keeps a note of what to end and remove in the scratch folder, whose
lock the kernel lets go of when it dies: `leftovers.sweep` then does what it did not come to.
"""

import argparse
import contextlib
import ctypes
import fcntl
import json
import os
import select
import shutil
import signal
import subprocess
import sys
import time
from io import FileIO
from pathlib import Path

import psutil

from trainer.leftovers import (
    NOTE,
    SHARED_MEMORY,
    kill,
    remove_shared_memory,
    shared_memory_files,
    there_before,
)
from trainer.warm import SHOWN, run_as_main

PR_SET_PDEATHSIG, PR_SET_CHILD_SUBREAPER = 1, 36
POLL = 0.2  # seconds between looks at the command
LOOK = 3.0  # seconds between looks at what it has started and mapped
LOOK_AGAIN = 0.5  # the same, where a file of shared memory has come or gone
STOPPED = 143  # exit code of a run that was told to stop, as a shell reports SIGTERM
LISTENING = ".listening"  # ending of the file beside the stop file, while that is looked for
SIGNALS = (signal.SIGTERM, signal.SIGINT, signal.SIGHUP)  # that tell a guard to stop


def _prctl(option: int, value: int) -> None:
    if ctypes.CDLL(None, use_errno=True).prctl(option, value, 0, 0, 0) != 0:
        raise OSError(ctypes.get_errno(), "prctl failed")


def _die_with_guard() -> None:
    _prctl(PR_SET_PDEATHSIG, signal.SIGKILL)


def descendants() -> list[psutil.Process]:
    """Every living process below this one."""
    found = []
    for process in psutil.Process().children(recursive=True):
        with contextlib.suppress(psutil.NoSuchProcess):  # it has ended since they were listed
            if process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
    return found


def end_all(timeout: float = 5.0) -> None:
    """Kill every descendant, those included that appear meanwhile."""
    deadline = time.monotonic() + timeout
    while (alive := descendants()) and time.monotonic() < deadline:
        kill(alive)


class _Fork:
    """A fork of this process that runs a module: as much of `Popen` as the guard needs."""

    def __init__(self, command: list[str], note: FileIO | None):
        self.returncode: int | None = None
        self.pid = os.fork()
        if self.pid == 0:
            _die_with_guard()
            if note:
                note.close()  # or its lock would outlive the guard
            for number in SIGNALS:
                signal.signal(number, signal.SIG_DFL)
            signal.signal(signal.SIGINT, signal.default_int_handler)
            SHOWN.show(sys.executable, *command)
            run_as_main(command)

    def poll(self) -> int | None:
        if self.returncode is None:
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                self.returncode = os.waitstatus_to_exitcode(status)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.poll() is None:
            ended = os.pidfd_open(self.pid)
            select.select([ended], [], [], timeout)
            os.close(ended)
            if self.poll() is None:
                raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return self.returncode

    def terminate(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGTERM)

    def kill(self) -> None:
        if self.poll() is None:
            os.kill(self.pid, signal.SIGKILL)


class Guard:
    """Runs one command and answers for everything it starts."""

    def __init__(
        self,
        command: list[str],
        *,
        grace: float,
        parent: int | None = None,
        scratch: Path | None = None,
        stop_file: Path | None = None,
        stop_grace: float = 0.0,
        fork: bool = False,
    ):
        self.command = command
        self.fork = fork
        self.grace = grace
        self.parent = parent or os.getppid()
        self.scratch = scratch
        self.stop_file = stop_file
        self.stop_grace = stop_grace
        self.told_to_stop = False
        self.files: set[Path] = set()
        self.pids: set[int] = set()
        self.before = there_before()
        self.note = _opened(scratch / NOTE) if scratch else None
        if self.note:
            fcntl.flock(self.note, fcntl.LOCK_EX)

    def run(self) -> int:
        """Run to the end, or until told to stop.

        Returns:
            The command's exit code, or 143 if it was stopped.
        """
        _prctl(PR_SET_CHILD_SUBREAPER, 1)
        for number in SIGNALS:
            signal.signal(number, self._stop)
        self._write_note()
        if os.getppid() != self.parent:  # it died before we came to look
            return self._end(STOPPED)
        if self.fork:
            child = _Fork(self.command, self.note)
        else:
            child = subprocess.Popen(self.command, preexec_fn=_die_with_guard)
        looked, changed = 0.0, 0
        while child.poll() is None and not self.told_to_stop:
            # A poll and not PDEATHSIG: that one fires when the parent's *thread* ends.
            if os.getppid() != self.parent:
                self.told_to_stop = True
            # A file that comes just before its maker dies must be seen in between.
            now = SHARED_MEMORY.stat().st_mtime_ns
            if time.monotonic() - looked > (LOOK if now == changed else LOOK_AGAIN):
                looked, changed = time.monotonic(), now
                self._look()
            with contextlib.suppress(subprocess.TimeoutExpired):
                child.wait(POLL)
        if self.told_to_stop:
            self._wind_down(child)
        return self._end(STOPPED if self.told_to_stop else child.returncode)

    def _end(self, code: int) -> int:
        """End and remove all that is left, and give the exit code."""
        self._look()
        end_all()
        remove_shared_memory(self.files, self.pids, self.before)
        if self.scratch:
            shutil.rmtree(self.scratch, ignore_errors=True)
        return code

    def _stop(self, *_: object) -> None:
        self.told_to_stop = True

    def _wind_down(self, child: subprocess.Popen | _Fork) -> None:
        if self.stop_file:
            self._ask(child, self.stop_file)
        child.terminate()
        try:
            child.wait(self.grace)
        except subprocess.TimeoutExpired:
            child.kill()
            child.wait()

    def _ask(self, child: subprocess.Popen | _Fork, stop_file: Path) -> None:
        """Ask a command that listens to stop, and wait while it saves what it has."""
        listening = stop_file.with_suffix(LISTENING)
        deadline = time.monotonic() + self.stop_grace
        try:
            if listening.exists():
                stop_file.touch()
        except OSError:  # a full disk: then nothing could be saved either
            return
        while listening.exists() and child.poll() is None and time.monotonic() < deadline:
            time.sleep(POLL)

    def _look(self) -> None:
        below = descendants()
        self.pids |= {process.pid for process in below}
        self.files |= shared_memory_files(below)
        self._write_note()

    def _write_note(self) -> None:
        if not self.note:
            return
        known = {
            "pids": sorted(self.pids),
            "files": sorted(map(str, self.files)),
            "before": sorted(self.before),
        }
        text = json.dumps(known).encode()
        with contextlib.suppress(OSError):
            # A full disk refuses here, and what was noted before stays, which is most of it.
            os.posix_fallocate(self.note.fileno(), 0, len(text))
            os.pwrite(self.note.fileno(), text, 0)
            os.ftruncate(self.note.fileno(), len(text))


def _opened(note: Path) -> FileIO:
    """The note to write to, with what it holds; without a buffer, which a fork would share."""
    return FileIO(os.open(note, os.O_RDWR | os.O_CREAT, 0o666), "r+")


def main(arguments: list[str]) -> int:
    """Run a command line; the exit code is the command's, 128 + n where signal n ended it."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--grace", type=float, required=True)
    parser.add_argument("--parent", type=int, help="who starts it; it ends with that process")
    parser.add_argument("--scratch", type=Path, help="a folder to remove at the end")
    parser.add_argument("--stop-file", type=Path)
    parser.add_argument("--stop-grace", type=float, default=0.0)
    parser.add_argument("--fork", action="store_true", help="the command is a module: -m MODULE")
    parser.add_argument("command", nargs="+")
    asked = parser.parse_args(arguments)
    guard = Guard(
        asked.command,
        grace=asked.grace,
        parent=asked.parent,
        scratch=asked.scratch,
        stop_file=asked.stop_file,
        stop_grace=asked.stop_grace,
        fork=asked.fork,
    )
    code = guard.run()
    return code if code >= 0 else 128 - code  # a signal as a shell reports it


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
