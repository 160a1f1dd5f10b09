"""Start Python programs by forking a process that has imported what they need.

A laptop's stage starts six processes that all import torch and transformers: four seconds of
processor each, on two cores most of the time to the first step. Here one process imports, then
stands by, and each further Python program is a fork of it, which shares its memory and starts at
once.

A fork keeps what libraries read at import: environment variables that are looked at once
(`HF_HUB_OFFLINE`) must be the same for all. What is known only to the programs (Ray's library reads
its raylet's number when it is loaded) may be imported when the first of them is asked for, as it
would. A process that has touched a GPU can't be forked.

As a script it is what Ray calls in place of Python (`py_executable`), one line, no packages:

    python -I -S warm.py SOCKET PROGRAM ARGUMENTS...

It asks the process that listens at SOCKET to run PROGRAM with its own environment, folder and
output, and ends. Where nobody listens (another machine of the cluster), it becomes that program.
"""

import array
import contextlib
import ctypes
import gc
import importlib
import json
import os
import runpy
import shlex
import signal
import socket
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path
from typing import NoReturn

LONGEST = 2**20  # bytes of a request: an environment and a command line
STANDARD = (0, 1, 2)
SAME = ("RAY_RAYLET_PID", "RAY_JOB_ID")  # what Ray's library reads when it is loaded
MARK = "RAY_TMPDIR"  # a guard's scratch folder, in the environment of all that it answers for


class _Shown:
    """What /proc, and so `ps`, shows for this process and its forks: a command, an environment."""

    def __init__(self):
        fields = Path("/proc/self/stat").read_text().rpartition(")")[2].split()
        start, end, self.variables, variables_end = map(int, fields[45:49])
        self.command, self.size = start, end - start
        self.original = ctypes.string_at(start, self.size)
        self.environment = ctypes.string_at(self.variables, variables_end - self.variables)

    def show(self, *command: str) -> None:
        """Show this command, cut to the length of the original."""
        line = b"\0".join(word.encode() for word in command)
        line = line[: self.size - 1].ljust(self.size, b"\0")  # without its end Linux shows a word
        ctypes.memmove(self.command, line, self.size)

    def restore(self) -> None:
        """Show the original: Ray names its workers only where it finds what Python was given."""
        ctypes.memmove(self.command, self.original, self.size)

    def show_variable(self, name: str, value: str) -> None:
        """Show another value, as long as the one that this process was started with."""
        before = b"\0" + self.environment
        at = before.find(f"\0{name}=".encode())
        if at < 0:
            return
        end = before.index(b"\0", at + 1)
        line = f"{name}={value}".encode()
        if len(line) == end - at - 1:
            ctypes.memmove(self.variables + at, line, len(line))


SHOWN = _Shown()  # at import: a fork must know what its first ancestor was started with


def stand_by(path: Path, then: Sequence[str] = ()) -> str:
    """Fork a copy of this process that stands by to become other programs; it ends with this one.

    To be called at the end of a program's imports, before it starts a thread, and outside of any
    `try`: in a forked program this call does not return, but leaves with `SystemExit`.

    Args:
        path: Where it listens: a socket, 107 characters at most.
        then: Modules that it imports in the environment of the first program that it is asked for:
            what can be shared among programs of the same `SAME` alone.

    Returns:
        The command, for a shell, that starts a Python program by it, `PROGRAM ARGUMENTS...` to be
        added.
    """
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(path))
    listener.listen(64)
    parent = os.getpid()
    gc.freeze()  # here, too: a collection in this process copies as many pages
    if os.fork() == 0:
        _end_with(parent)
        SHOWN.show(sys.executable, "-m", "trainer.warm", str(path))
        _serve(listener, then)
    listener.close()
    # Ray gives it to bash as it is: a folder's name may have a space.
    return shlex.join([sys.executable, "-I", "-S", str(Path(__file__).resolve()), str(path)])


def _end_with(parent: int) -> None:
    ctypes.CDLL(None).prctl(1, signal.SIGKILL, 0, 0, 0)  # PR_SET_PDEATHSIG
    if os.getppid() != parent:
        os._exit(0)


def _serve(listener: socket.socket, then: Sequence[str]) -> None:
    """Fork for each request. Leaves only in a fork, by its program's end."""
    ready_to_fork()
    imported_for, settled = None, {}
    while True:
        connection, _ = listener.accept()
        with connection:
            try:
                request, files = _receive(connection)
            except (OSError, ValueError):  # whoever asked is gone
                continue
            if then and imported_for is None:
                imported_for = _same(request)
                settled = _import(then, request["environment"])
            if os.fork() == 0:
                listener.close()
                connection.close()
                SHOWN.restore()
                if imported_for not in (None, _same(request)):
                    become(request, files, afresh=True)
                request["environment"] = {**settled, **request["environment"]}
                become(request, files)
            _close(files)


def _same(request: dict) -> list[str | None]:
    return [request["environment"].get(name) for name in SAME]


def _import(modules: Sequence[str], environment: dict[str, str]) -> dict[str, str]:
    """Import in an environment, and give the variables that the modules set."""
    os.environ.clear()
    os.environ.update(environment)
    gc.disable()  # what is imported stays: `ready_to_fork` freezes it
    for module in modules:
        try:
            importlib.import_module(module)
        except Exception:  # the program will say the same, to whoever started it
            traceback.print_exc()
    ready_to_fork()
    return {name: os.environ[name] for name in os.environ.keys() - environment.keys()}


def ready_to_fork() -> None:
    """Make forks cheap, and leave them to themselves."""
    gc.enable()
    gc.freeze()  # a collection in a fork would write to, and so copy, every page
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for a program


def _receive(connection: socket.socket) -> tuple[dict, list[int]]:
    text, files = receive_with_files(connection)
    try:
        while not text.endswith(b"\n"):
            more = connection.recv(LONGEST)
            if not more:
                raise ValueError("a request that was cut off")
            text += more
        return json.loads(text), files
    except (OSError, ValueError):
        _close(files)
        raise


def _close(files: list[int]) -> None:
    for file in files:
        os.close(file)


def receive_with_files(connection: socket.socket) -> tuple[bytes, list[int]]:
    """What came, and the files that came with it: standard input, output, error, and one more."""
    size = array.array("i").itemsize * (len(STANDARD) + 1)
    text, ancillary, _, _ = connection.recvmsg(LONGEST, socket.CMSG_SPACE(size))
    files = array.array("i")
    for level, kind, data in ancillary:
        if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS):
            files.frombytes(data[: len(data) - len(data) % files.itemsize])
    return text, list(files)


def become(request: dict, files: list[int], afresh: bool = False) -> None:
    """Run a program, or `-m` a module, as if Python had been started for it. Does not return.

    Args:
        request: What `ask` sends.
        files: Standard input, output and error.
        afresh: Start Python for it indeed: what this fork has imported is not for this program.

    Raises:
        SystemExit: the program's end.
    """
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    for number, file in zip(STANDARD, files, strict=True):
        os.dup2(file, number)
        os.close(file)
    os.chdir(request["folder"])
    os.environ.clear()
    os.environ.update(request["environment"])
    if request.get("leads"):  # Ray ends a worker with the group of processes that it leads
        os.setpgid(0, 0)
    os.nice(max(0, request.get("niceness", 0) - os.nice(0)))  # less of it is not for everyone
    if "oom_score" in request:
        with contextlib.suppress(OSError):  # an ordinary user may only raise it
            Path("/proc/self/oom_score_adj").write_text(request["oom_score"])
    if afresh:
        os.execv(sys.executable, [sys.executable, *request["command"]])
    run_as_main(request["command"])


def run_as_main(command: list[str]) -> None:
    """Run `PROGRAM ARGUMENTS...` or `-m MODULE ARGUMENTS...` in this fork. Does not return.

    Raises:
        SystemExit: the program's end.
    """
    _forget()
    if command[0] == "-m":
        _, module, *arguments = command
        sys.argv = ["-m", *arguments]
        runpy.run_module(module, run_name="__main__", alter_sys=True)
    else:
        sys.argv = command
        sys.path.insert(0, str(Path(command[0]).parent))
        runpy.run_path(command[0], run_name="__main__")
    sys.exit(0)


def leave(code: int = 0) -> NoReturn:
    """End this process at once: to take apart what was imported takes a fork half a second.

    Nothing that was registered for its end is called: for processes that hold nothing.
    """
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(code)


def _forget() -> None:
    """Settle what a fork inherits and a new process would not have, or have anew."""
    if "numpy" in sys.modules:  # the one generator that does not seed itself anew in a fork
        sys.modules["numpy"].random.seed()
    threads = os.environ.get("OMP_NUM_THREADS", "")
    if "torch" in sys.modules and threads.isdecimal():  # read once, when torch is loaded
        sys.modules["torch"].set_num_threads(int(threads))


def ask(path: str, command: list[str]) -> None:
    """Have a program run by whoever stands by at `path`, or become it."""
    request = {
        "command": command,
        "folder": os.getcwd(),
        "environment": dict(os.environ),
        "niceness": os.nice(0),
        "leads": os.getpgid(0) == os.getpid(),
        "oom_score": Path("/proc/self/oom_score_adj").read_text(),
    }
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(path)
            socket.send_fds(connection, [json.dumps(request).encode() + b"\n"], list(STANDARD))
    except OSError:
        os.execv(sys.executable, [sys.executable, *command])


if __name__ == "__main__":
    ask(sys.argv[1], sys.argv[2:])
