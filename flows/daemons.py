"""Programs that outlive the shell that started them: start, find again, end.

Each has a record on disk, `<name>.json` with pid and time of birth, and a log, `<name>.log`. The
folder of the records is also in the environment of all that is started and of all that these start
in turn: so what is ours can be told from what is not, even when a record is lost.
"""

import os
import signal
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import psutil

from tasks.artifacts import read_json, write_json
from trainer.process import last_lines

MARK = "STAGECRAFT_SERVICES"  # its value: the folder of the records
POLL = 0.1  # seconds between looks


@dataclass(frozen=True)
class Daemon:
    """A program by its name and the folder that its record and log lie in.

    Attributes:
        name: Name of the record and the log.
        folder: Where they lie, absolute.
    """

    name: str
    folder: Path

    @property
    def log(self) -> Path:
        """The file that its output is appended to."""
        return self.folder / f"{self.name}.log"

    @property
    def record(self) -> dict:
        """What was noted when it was started: pid, born, port, command; empty if it never was."""
        path = self.folder / f"{self.name}.json"
        return read_json(path) if path.is_file() else {}

    def process(self) -> psutil.Process | None:
        """The program, if it is alive. Another one that got its pid since is not taken for it."""
        record = self.record
        try:
            process = psutil.Process(record["pid"]) if record else None
            if process and abs(process.create_time() - record["born"]) < 1 and alive(process):
                return process
        except psutil.NoSuchProcess:
            pass
        return None

    def session(self) -> list[psutil.Process]:
        """What lives of its session: the program, and what it started, also where it has ended."""
        leader = self.record.get("pid")
        return [one for one in started_for(self.folder) if _session(one) == leader]

    def start(
        self, command: Sequence[str], environment: Mapping[str, str], cwd: Path, port: int | None
    ) -> None:
        """Start it in a session of its own.

        Args:
            command: Program and arguments.
            environment: All of its environment; the mark is added.
            cwd: Where it runs.
            port: What it listens on, for the record.
        """
        with self.log.open("ab") as output:
            process = subprocess.Popen(
                command,
                cwd=cwd,
                env={**environment, MARK: str(self.folder)},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=subprocess.STDOUT,
                start_new_session=True,
                preexec_fn=_hear_interrupts,
            )
        born = psutil.Process(process.pid).create_time()
        record = {"pid": process.pid, "born": born, "port": port, "command": list(command)}
        try:
            self.note(record)
        except OSError:  # a full disk: nobody would find it again
            process.kill()
            process.wait()
            raise

    def note(self, record: dict) -> None:
        """Write its record."""
        write_json(self.folder / f"{self.name}.json", record)

    def forget(self) -> None:
        """Remove its record. The log stays."""
        (self.folder / f"{self.name}.json").unlink(missing_ok=True)

    def wait_until(self, healthy: Callable[[], bool], timeout: float) -> float:
        """Wait until it is healthy.

        Returns:
            Seconds from its start until then.

        Raises:
            RuntimeError: it ended, or was not healthy in time.
        """
        started = time.monotonic()
        while not healthy():
            waited = time.monotonic() - started
            if self.process() is None or waited > timeout:
                how = (
                    "has ended"
                    if self.process() is None
                    else f"is not healthy after {waited:.0f} s"
                )
                raise RuntimeError(
                    f"{self.name} {how}; the end of its log:\n{last_lines(self.log, 8)}\n\n"
                    f"hint: see {self.log}"
                )
            time.sleep(POLL)
        return time.time() - self.record["born"]


def _session(process: psutil.Process) -> int:
    try:
        return os.getsid(process.pid)
    except ProcessLookupError:
        return 0


def _hear_interrupts() -> None:
    # A script's background job ignores SIGINT, and so would all it starts: Prefect's worker, which
    # turns its first SIGTERM into a SIGINT, would then need a second one.
    signal.signal(signal.SIGINT, signal.SIG_DFL)


def alive(process: psutil.Process) -> bool:
    """Whether it runs; a zombie does not."""
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def owner(process: psutil.Process) -> str:
    """The folder of records that a process was started for; empty for one that is not ours."""
    try:
        return process.environ().get(MARK, "")
    except psutil.Error:  # gone, or of another user
        return ""


def started_for(folder: Path) -> list[psutil.Process]:
    """Every living process that was started for a folder of records, directly or not."""
    return [
        process
        for process in psutil.process_iter()
        if process.pid != os.getpid() and owner(process) == str(folder) and alive(process)
    ]


def listeners(port: int) -> list[psutil.Process | None]:
    """Who listens on a TCP port of this machine; None stands for a process of another user."""
    found = []
    for connection in psutil.net_connections("tcp"):
        if connection.status == psutil.CONN_LISTEN and connection.laddr.port == port:
            with suppress(psutil.NoSuchProcess):  # it has ended since
                found.append(psutil.Process(connection.pid) if connection.pid else None)
    return found


def tell(processes: Sequence[psutil.Process], number: int = signal.SIGTERM) -> None:
    """Send a signal to each that is still there."""
    for process in processes:
        try:
            process.send_signal(number)
        except psutil.NoSuchProcess:
            continue


def wait_for_end(processes: Sequence[psutil.Process], timeout: float) -> list[psutil.Process]:
    """Wait until all have ended.

    Returns:
        Those that have not, after `timeout` seconds.
    """
    deadline = time.monotonic() + timeout
    while (left := [p for p in processes if alive(p)]) and time.monotonic() < deadline:
        time.sleep(POLL)
    return left
