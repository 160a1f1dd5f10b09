"""A process that stands by while a pipeline runs, to become its guards and what they guard.

It has torch and transformers imported, so that a stage or an evaluation, and with it each of the
stage's Ray workers, begins at once. It holds nothing else: no model, no Ray, no open file. It ends
when the pipeline's process does.

    python -m trainer.standby FILE_NUMBER ....

The dots make room: a process shows no longer a command line in `ps` than it was started with.
"""

import contextlib
import gc
import importlib
import json
import os
import select
import signal
import socket
import subprocess
import sys
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path

from trainer.warm import MARK, SHOWN, become, leave, ready_to_fork, receive_with_files

ROOM = 420  # characters of a command line that a fork can show
NOBODY = "/tmp/stagecraft-________"  # as long as a guard's scratch folder, in whose place it stands
PID = 8  # characters that a fork says its own in
STARTS = 120.0  # seconds that it may take to import and fork, before Python is started instead
LOOK = 1.0  # seconds between looks whether the pipeline's process is there
# What glibc, Python, torch and transformers look at once, when they are loaded.
READ_ONCE = (
    "HF_", "OMP_WAIT", "KMP_", "MKL_", "PYTHON", "CUDA_", "TOKENIZERS_", "LD_", "TORCH",
    "MALLOC_", "GLIBC_",
)  # fmt: skip
FOR_STAGES = "trainer.heavy_for_stages"  # what the processes of a stage import beside
# What torch and scikit-learn set as they are imported, in the pipeline's process, too.
SET_BY_IMPORTS = ("TORCHINDUCTOR_CACHE_DIR", "KMP_INIT_AT_FORK", "KMP_DUPLICATE_LIB_OK")


@cache
def possible() -> bool:
    """Whether this system tells of a fork's end: Linux 5.3, and no sandbox that forbids it."""
    try:
        os.close(os.pidfd_open(os.getpid()))
    except (OSError, AttributeError):
        return False
    return True


class Forked:
    """A running fork: what `subprocess.Popen` is to a process that was started."""

    def __init__(self, pid: int, told: socket.socket):
        self.pid = pid
        self.returncode: int | None = None
        self._told = told
        try:
            self._ended = os.pidfd_open(pid)
        except ProcessLookupError:  # has ended, and said so
            self._ended = None

    def poll(self) -> int | None:
        """The exit code, -9 where something killed it; None while it runs."""
        return self._look(0.0)

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end.

        Raises:
            subprocess.TimeoutExpired: it has not ended.
        """
        code = self._look(timeout)
        if code is None:
            raise subprocess.TimeoutExpired(f"process {self.pid}", timeout)
        return code

    def send_signal(self, number: int) -> None:
        """Send a signal, if it still runs."""
        if self.poll() is None:
            with contextlib.suppress(ProcessLookupError):
                signal.pidfd_send_signal(self._ended, number)

    def kill(self) -> None:
        """SIGKILL."""
        self.send_signal(signal.SIGKILL)

    def _look(self, seconds: float | None) -> int | None:
        if self.returncode is None:
            if self._ended is not None:
                if not select.select([self._ended], [], [], seconds)[0]:
                    return None
                os.close(self._ended)
            self._told.setblocking(False)
            try:
                code = self._told.recv(16)
            except BlockingIOError:
                code = b""
            self._told.close()
            self.returncode = int(code) if code else -signal.SIGKILL
        return self.returncode


class Standby:
    """The process that stands by, seen from the pipeline's.

    Attributes:
        pid: Its own; what it forks are its children.
    """

    def __init__(self, environment: Mapping[str, str]):
        """Start it.

        Args:
            environment: Of what it will become; only what is not read at import may differ later.
        """
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self._ours = ours
        self._read_once = _read_once(environment)
        with theirs:
            self._process = subprocess.Popen(
                [sys.executable, "-m", "trainer.standby", str(theirs.fileno()), "." * ROOM],
                env={**environment, MARK: NOBODY},
                pass_fds=[theirs.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.DEVNULL,
                stderr=subprocess.DEVNULL,
                start_new_session=True,
            )
        self.pid = self._process.pid

    @property
    def alive(self) -> bool:
        """Whether it stands by."""
        return self._process.poll() is None

    def fits(self, environment: Mapping[str, str]) -> bool:
        """Whether it lives, and its forks may have this environment."""
        return self.alive and self._read_once == _read_once(environment)

    def start(
        self,
        command: Sequence[str],
        environment: Mapping[str, str],
        output: int,
        imports: Sequence[str] = (),
    ) -> Forked | None:
        """Fork it to run `-m MODULE ARGUMENTS...` in a session of its own.

        Args:
            command: What would follow `python`.
            environment: All of it.
            output: File that the program writes to.
            imports: Modules to import before, for this program and all that follow.

        Returns:
            The fork; None if there was none, and the program has to be started otherwise.
        """
        request = json.dumps(
            {
                "command": list(command),
                "folder": os.getcwd(),
                "environment": dict(environment),
                "imports": list(imports),
            }
        )
        ours, theirs = socket.socketpair()
        ours.settimeout(STARTS)
        try:
            with theirs, Path(os.devnull).open() as nothing:
                files = [nothing.fileno(), output, output, theirs.fileno()]
                socket.send_fds(self._ours, [request.encode()], files)
            pid = ours.recv(PID, socket.MSG_WAITALL)  # nothing where it has died meanwhile
        except OSError:
            pid = b""
        if not pid:
            ours.close()  # of a fork that comes later: it finds nobody to report to, and ends
            return None
        return Forked(int(pid), ours)

    def end(self) -> None:
        """End it, and with it the guards that it has become."""
        self._ours.close()
        self._process.kill()
        self._process.wait()


def _read_once(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name.startswith(READ_ONCE) and name not in SET_BY_IMPORTS
    }


def serve(control: socket.socket) -> None:
    """Fork for each request, until the other side is gone. In a fork it leaves by `SystemExit`."""
    _import(["trainer.heavy"])
    parent = os.getppid()
    control.settimeout(LOOK)
    while os.getppid() == parent:
        try:
            text, files = receive_with_files(control)
        except TimeoutError:
            continue
        if not text:
            return
        request = json.loads(text)
        _import(request["imports"])
        if os.fork() == 0:
            control.close()
            told = socket.socket(fileno=files.pop())
            _run(request, files, told)
        for file in files:
            os.close(file)
        _import([FOR_STAGES])  # once what was asked for first has begun


def _import(modules: Sequence[str]) -> None:
    if any(module not in sys.modules for module in modules):
        gc.disable()  # what is imported stays: `ready_to_fork` freezes it
        for module in modules:
            importlib.import_module(module)
        ready_to_fork()


def _run(request: dict, files: list[int], told: socket.socket) -> None:
    """Be the program of a request, and tell its exit code."""
    pid = os.getpid()
    os.setsid()
    told.sendall(f"{pid:0{PID}}".encode())
    SHOWN.show(sys.executable, *request["command"])
    SHOWN.show_variable(MARK, request["environment"].get(MARK, ""))
    code = 1  # of an error that nobody caught
    try:
        become(request, files)
    except SystemExit as end:
        code = end.code if isinstance(end.code, int) else int(end.code is not None)
        raise
    finally:
        if os.getpid() == pid:  # and not a fork of the program
            with contextlib.suppress(OSError):  # nobody waits for it any more
                told.sendall(str(code).encode())
            if code != 1:  # 1 may be an error, which Python has yet to tell
                leave(code)


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
