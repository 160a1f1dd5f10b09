"""Processes that compare answers, each within a time and a memory that nothing can exceed."""

import atexit
import json
import logging
import os
import queue
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from threading import Lock

START_SECONDS = 120.0
FORK_SECONDS = 20.0
WAIT_SECONDS = 600.0  # for a free worker: many times what a full queue of hostile answers takes
LOG = logging.getLogger(__name__)


@dataclass(frozen=True)
class Limits:
    """What comparing may cost.

    Attributes:
        seconds: Wall-clock time of one answer.
        memory: MiB that one answer may take.
        workers: Processes that compare at once; 0: one per core of this process.
    """

    seconds: float = 3.0
    memory: int = 1024
    workers: int = 0

    def size(self) -> int:
        """Processes that compare at once."""
        return self.workers or len(os.sched_getaffinity(0))


class Outcome(StrEnum):
    """What became of a comparison."""

    EQUAL = "equal"
    DIFFERENT = "different"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    LOST = "worker lost"


class _Worker:
    """One comparing process, and the socket to it."""

    def __init__(self, pid: int, channel: socket.socket) -> None:
        self.pid, self.channel = pid, channel

    def ask(self, line: bytes, seconds: float) -> dict:
        """Its reply.

        Raises:
            TimeoutError: it took longer.
            OSError, ValueError: it died.
        """
        deadline = time.monotonic() + seconds
        self.channel.settimeout(max(seconds, 0.001))
        self.channel.sendall(line)
        reply = b""
        while not reply.endswith(b"\n"):
            self.channel.settimeout(max(deadline - time.monotonic(), 0.001))
            part = self.channel.recv(4096)
            if not part:
                raise ConnectionResetError("the comparing process died")
            reply += part
        return json.loads(reply)


class Pool:
    """Comparing processes: started when first needed, replaced when they are killed or lost.

    Threads may share one. As many comparisons run at once as there are workers; other callers
    wait, so nothing queues up but their own threads.
    """

    def __init__(self, limits: Limits = Limits()) -> None:
        """Start nothing yet."""
        self.limits = limits
        self._control_lock, self._warm_lock = Lock(), Lock()
        self._process: subprocess.Popen[bytes] | None = None
        self._control: socket.socket | None = None
        self._free: queue.LifoQueue[_Worker | None] = queue.LifoQueue()
        for _ in range(limits.size()):
            self._free.put(None)

    @property
    def pid(self) -> int | None:
        """The process that forks the workers, if it runs."""
        return self._process.pid if self._process else None

    def compare(self, answer: str, truths: Sequence[str]) -> Outcome:
        """Whether an answer equals any of the truths, as math-verify sees it.

        A worker that is lost costs one more try, within the same time.

        Raises:
            RuntimeError: when no process can be started, or none came free.
        """
        line = json.dumps({"answer": answer, "truths": list(truths)}).encode() + b"\n"
        try:
            worker = self._free.get(timeout=WAIT_SECONDS)
        except queue.Empty:
            raise RuntimeError(
                f"none of {self.limits.size()} grading processes came free in {WAIT_SECONDS:.0f} s"
                "\n\nhint: raise reward.workers, or lower reward.seconds"
            ) from None
        outcome = Outcome.LOST
        try:
            left = self.limits.seconds
            for _ in range(2):
                worker = worker or self._fork()
                started = time.monotonic()
                outcome, worker = self._asked(worker, line, left)
                left -= time.monotonic() - started
                if outcome is not Outcome.LOST or left <= 0:
                    break
                LOG.warning("a grading process was lost and is replaced")
        finally:
            self._free.put(worker)
        return outcome

    def warm(self) -> None:
        """Start every process, so that the next comparison does not wait for one."""
        if self._process is None:
            with self._warm_lock:
                if self._process is None:
                    ready = [self._free.get() for _ in range(self.limits.size())]
                    try:
                        for worker in filter(None, ready):  # of a process that is no more
                            worker.channel.close()
                        ready = [None] * len(ready)
                        ready = [self._fork() for _ in ready]
                    finally:
                        for worker in ready:
                            self._free.put(worker)

    def _asked(
        self, worker: _Worker, line: bytes, seconds: float
    ) -> tuple[Outcome, _Worker | None]:
        """What came of it, and the worker unless it is gone."""
        try:
            reply = worker.ask(line, seconds)
        except TimeoutError:
            self._kill(worker)
            return Outcome.TIMEOUT, None
        except (OSError, ValueError):
            self._kill(worker)
            return Outcome.LOST, None
        if reply.get("last"):
            self._kill(worker)
            worker = None
        if reply.get("error") == "MemoryError":
            return Outcome.OUT_OF_MEMORY, worker
        if reply["correct"]:
            return Outcome.EQUAL, worker
        return (Outcome.DIFFERENT if reply.get("parsed") else Outcome.UNPARSABLE), worker

    def close(self) -> None:
        """End every process. The pool starts them again when it is used again."""
        with self._control_lock:
            self._stop()

    def _fork(self) -> _Worker:
        with self._control_lock:
            for last in (False, True):
                try:
                    if self._process is None or self._process.poll() is not None:
                        self._start()
                    self._control.settimeout(FORK_SECONDS)
                    self._control.sendall(b"fork\n")
                    pid, fds, _, _ = socket.recv_fds(self._control, 32, 1)
                    return _Worker(int(pid), socket.socket(fileno=fds[0]))
                except (OSError, ValueError, IndexError) as error:
                    self._stop()
                    if last:
                        raise RuntimeError(
                            "no grading process can be started\n\nhint: see the machine's limits "
                            "on processes and memory"
                        ) from error
        raise AssertionError("unreachable")

    def _kill(self, worker: _Worker) -> None:
        worker.channel.close()
        with self._control_lock, suppress(OSError, AttributeError):
            self._control.sendall(f"kill {worker.pid}\n".encode())

    def _start(self) -> None:
        self._stop()
        self._control, theirs = socket.socketpair()
        script = Path(__file__).with_name("worker.py")
        # -P: not to find modules beside the script under the names of the standard library's.
        command = [sys.executable, "-P", str(script), str(theirs.fileno())]
        with theirs:
            self._process = subprocess.Popen(
                [*command, str(self.limits.seconds), str(self.limits.memory)],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                pass_fds=[theirs.fileno()],
                env={**os.environ, "OMP_NUM_THREADS": "1", "OPENBLAS_NUM_THREADS": "1"},
            )
        self._control.settimeout(START_SECONDS)
        said = b""
        with suppress(OSError):
            while not said.endswith(b"\n") and (part := self._control.recv(4096)):
                said += part
        if said != b'{"canary": [true, false]}\n':
            self._stop()
            raise RuntimeError(
                "the grading process did not start, or graded two problems with known answers "
                f"wrong; it said {said.decode() or 'nothing'!r}\n\n"
                f"hint: try {sys.executable} -c 'import math_verify'"
            )

    def _stop(self) -> None:
        if self._control:
            self._control.close()  # which ends the process and its forks
            self._control = None
        if self._process:
            with suppress(subprocess.TimeoutExpired):
                self._process.wait(2)
            self._process.kill()
            self._process.wait()
            self._process = None


_pools: dict[int, Pool] = {}
_limits = Limits()
_lock = Lock()


def configure(limits: Limits) -> None:
    """Set what comparing may cost in this process, from its next comparison on."""
    global _limits
    with _lock:
        if limits != _limits:
            _limits = limits
            if owned := _pools.pop(os.getpid(), None):
                owned.close()


def shared() -> Pool:
    """The pool of this process. A fork gets its own: it must not share its parent's sockets."""
    owner = os.getpid()
    with _lock:
        if owner not in _pools:
            _pools.clear()  # a parent's, if anybody's
            _pools[owner] = Pool(_limits)
            atexit.register(_close, owner)
        return _pools[owner]


def _close(owner: int) -> None:
    # A fork inherits what is registered here, but the processes are not its to end.
    if os.getpid() == owner and owner in _pools:
        _pools[owner].close()
