"""Start a program of ours in its own process tree, watch it, and stop all of it when it must."""

import atexit
import contextlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import BinaryIO

import psutil

from trainer.guard import STOPPED
from trainer.leftovers import sweep
from trainer.standby import Forked, Standby, possible
from trainer.warm import MARK

GRACE = 4.0  # seconds that a program has to end by itself once it got SIGTERM
POLL = 0.3  # seconds between looks at it
DUMP = 30.0  # seconds that writing down the stacks of a stalled program may take
TEMPORARY = Path("/tmp")
PY_SPY = Path(sys.executable).with_name("py-spy")  # installed with us, not always on the PATH


class StalledError(RuntimeError):
    """A program made no progress for longer than it may."""


class Guarded:
    """A program of ours that runs under a guard.

    Attributes:
        pid: The guard's.
    """

    def __init__(
        self,
        guard: subprocess.Popen | Forked,
        scratch: Path,
        grace: float,
        standby: Standby | None = None,
    ):
        """For `start` to call.

        Args:
            guard: The guard's process.
            scratch: Its scratch folder.
            grace: Seconds that the program has to save something before it is told to end.
            standby: The process that the guard is a fork of.
        """
        self.pid = guard.pid
        self._guard = guard
        self._scratch = scratch
        self._grace = grace
        self._standby = standby

    @property
    def runs(self) -> bool:
        """Whether it has not ended yet."""
        return self._guard.poll() is None

    def watch(self, log: Path, progress: Callable[[], bool], stall_timeout: float) -> int:
        """Wait for its end; arguments, result and errors are those of `run_guarded`."""
        try:
            _watch(self._guard, log, progress, stall_timeout)
        finally:
            self.end()
        code = self._guard.returncode
        if code == STOPPED and self._standby and not self._standby.alive:
            # The guard ended because the process that it was forked of did.
            return 128 + signal.SIGKILL
        return code if code >= 0 else 128 - code

    def end(self) -> None:
        """End it with all that it started, and wait for that."""
        try:
            _stop(self._guard, GRACE + self._grace + 5)
            if self._guard.returncode < 0:
                sweep(TEMPORARY)  # the guard was killed, and ended and removed nothing
        finally:
            # Interrupted once more, we leave a trainer behind that may still save, and needs what
            # lies there: its guard removes it.
            if not self.runs:
                shutil.rmtree(self._scratch, ignore_errors=True)


def new_scratch() -> Path:
    """A folder for a guard and all that it answers for. What killed guards left is removed.

    Ray keeps sockets there, whose paths may be 107 characters at most: so not beside a log.
    """
    sweep(TEMPORARY)
    return Path(tempfile.mkdtemp(prefix="stagecraft-", dir=TEMPORARY))


def start(
    module: str,
    arguments: Sequence[str],
    scratch: Path,
    output: BinaryIO,
    environment: Mapping[str, str],
    *,
    stop_file: Path | None = None,
    grace: float = 0.0,
    warm: bool = False,
    only_warm: bool = False,
    imports: Sequence[str] = (),
) -> Guarded | None:
    """Start `python -m module arguments...` under a guard, as `run_guarded` does.

    Args:
        module: What to run.
        arguments: Its command line.
        scratch: What `new_scratch` gave; removed when it ends.
        output: File that the program writes to.
        environment: All of it, what `whole` gave.
        stop_file: See `run_guarded`, as for the rest.
        grace: Seconds.
        warm: Fork a process that has the imports, if there can be one.
        only_warm: And otherwise start nothing.
        imports: Modules that the process to be forked imports before.

    Returns:
        The program; None where it was not to be started.
    """
    options = ["--scratch", str(scratch)]
    if stop_file:  # last the path: of a long command line `ps` may not show the end
        options += ["--stop-grace", str(grace), "--stop-file", str(stop_file)]
    elif grace:
        options += ["--grace", str(grace)]
    marked = {**environment, MARK: str(scratch)}
    guard = standby = None
    if warm and possible():
        standby = _standby(marked)
        line = [*_guard(standby.pid), "--fork", *options, "--", "-m", module, *arguments]
        guard = standby.start(line, marked, output.fileno(), imports)
    if only_warm and guard is None:
        return None
    guard = guard or subprocess.Popen(
        [*under_guard(*options), sys.executable, "-m", module, *arguments],
        stdout=output,
        stderr=subprocess.STDOUT,
        stdin=subprocess.DEVNULL,
        env=marked,
        start_new_session=True,  # a Ctrl-C in the terminal reaches us, and we tell it
    )
    return Guarded(guard, scratch, grace, standby)


def run_guarded(
    module: str,
    arguments: Sequence[str],
    *,
    log: Path,
    environment: Mapping[str, str],
    progress: Callable[[], bool],
    stall_timeout: float,
    stop_file: Path | None = None,
    grace: float = 0.0,
    warm: bool = False,
) -> int:
    """Run `python -m module arguments...` to its end, under a guard.

    Args:
        module: What to run.
        arguments: Its command line.
        log: File that its output is appended to. A file and no pipe: it outlives this process.
        environment: Added to this process's environment; an empty value takes a variable away.
        progress: Called every 0.3 s, and once after the end. True if there was any.
        stall_timeout: Seconds without progress and without a line in the log.
        stop_file: File that a program looks for which has something to save before it ends.
        grace: Seconds that it has for that, before SIGTERM. Without such a file: that it has to
            end by itself after SIGTERM, and what it started with it.
        warm: It imports torch and transformers and uses no GPU: fork a process that has them.

    Returns:
        Its exit code; 128 + n if signal n ended it, 143 if it was told to stop.

    Raises:
        StalledError: it stalled; it has been stopped.
        KeyboardInterrupt: passed on, after every process has ended; at a second one at once, while
            the guard goes on to let the program save and to end all.
    """
    scratch = new_scratch()
    program = None
    try:
        with log.open("ab") as output:
            program = start(
                module,
                arguments,
                scratch,
                output,
                whole(environment),
                stop_file=stop_file,
                grace=grace,
                warm=warm,
            )
    finally:
        if program is None:
            shutil.rmtree(scratch, ignore_errors=True)
    return program.watch(log, progress, stall_timeout)


_lock = threading.Lock()
_standing: list[Standby] = []


def _standby(environment: Mapping[str, str]) -> Standby:
    """The process that stands by for this one, whose forks may have `environment`; started once."""
    with _lock:
        for standby in [one for one in _standing if not one.alive]:
            standby.end()  # its socket is still ours
            atexit.unregister(standby.end)
            _standing.remove(standby)
        for standby in _standing:
            if standby.fits(environment):
                return standby
        standby = Standby(environment)
        atexit.register(standby.end)  # it would go by itself, a moment after us
        _standing.append(standby)
        return standby


def under_guard(*options: str) -> list[str]:
    """What to put before a command so that it ends with this process, and all it starts with it.

    Args:
        options: More options of `trainer.guard`.
    """
    return [sys.executable, *_guard(os.getpid()), *options, "--"]


def _guard(parent: int) -> list[str]:
    """What runs a guard that ends with `parent`, which it is a child of: told, not looked up.

    By the time that it could look, the parent may be gone, and another be its parent.
    """
    return ["-m", "trainer.guard", "--grace", str(GRACE), "--parent", str(parent)]


def with_our_modules(environment: Mapping[str, str]) -> dict[str, str]:
    """An environment in which Python finds this project, from whatever folder."""
    root = str(Path(__file__).parents[1])
    path = os.pathsep.join(filter(None, [root, environment.get("PYTHONPATH")]))
    return {**environment, "PYTHONPATH": path}


def how_it_ended(code: int) -> str:
    """What an exit code says, in words."""
    if code == 143:
        return "was told to stop"
    if code - 128 in {*signal.Signals}:
        return f"was killed by {signal.Signals(code - 128).name}"
    return f"ended with exit code {code}"


def last_lines(log: Path, count: int = 15) -> str:
    """The end of a log, for a message."""
    return "\n".join(log.read_text(errors="replace").splitlines()[-count:])


def dump_stacks(pid: int, path: Path) -> None:
    """Write where every Python process below `pid` stands, by py-spy, as far as it may look."""
    parts = []
    deadline = time.monotonic() + DUMP
    with contextlib.suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            if time.monotonic() > deadline:
                parts.append(f"no more looked at after {DUMP:.0f} s\n")
                break
            command = [str(PY_SPY), "dump", "--pid", str(process.pid)]
            try:
                done = subprocess.run(command, capture_output=True, text=True, timeout=10)
                parts.append(done.stdout or f"{process.pid}: {done.stderr}")
            except (OSError, subprocess.TimeoutExpired) as error:
                parts.append(f"{process.pid}: {error!r}\n")
    path.write_text("\n".join(parts))


def whole(more: Mapping[str, str]) -> dict[str, str]:
    """This process's environment with more; an empty value takes a variable away."""
    merged = with_our_modules({**os.environ, **more})
    return {name: value for name, value in merged.items() if value != "" or name not in more}


def _watch(
    guard: subprocess.Popen | Forked, log: Path, progress: Callable[[], bool], stall_timeout: float
) -> None:
    alive, size = time.monotonic(), 0
    while True:
        ended = guard.poll() is not None  # asked first, so that the last progress is still seen
        moved = progress()
        if ended:
            return
        if moved or log.stat().st_size != size:
            alive, size = time.monotonic(), log.stat().st_size
        if time.monotonic() - alive > stall_timeout:
            stacks = log.with_name("stacks.txt")
            dump_stacks(guard.pid, stacks)
            raise StalledError(
                f"no progress and no line in the log for {stall_timeout:.0f} s: stopped\n\n"
                f"hint: {stacks} says where each process stood, {log} what came before; "
                "a slow machine needs a larger hardware.stall_timeout"
            )
        with contextlib.suppress(subprocess.TimeoutExpired):
            guard.wait(POLL)


def _stop(guard: subprocess.Popen | Forked, seconds: float) -> None:
    if guard.poll() is None:
        guard.send_signal(signal.SIGTERM)
        try:
            guard.wait(seconds)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()
