"""Prefect's server for one process, where none is running.

Prefect would start one itself, but in the process group of the flow: a terminal sends Ctrl-C to the
whole group, the server would end at once, and the flow wait for minutes to tell it that it was
interrupted. Killed outright, the flow would leave a server that runs for ever. Ours has a guard. It
also starts before the flow has even imported Prefect, which is why nothing of Prefect is imported
above. One that dies is replaced, so that a run of days does not end with it: the next one reads the
same database, and who asks meanwhile waits, since the flow holds the socket that they listen on.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import cache
from tempfile import NamedTemporaryFile
from threading import Event, Lock, Thread
from typing import Any

from trainer.process import how_it_ended, under_guard, with_our_modules

SERVERS = 3  # that may die as they start, before the flow gives up
STARTED = 60.0  # seconds after which one that dies did not die as it started
POLL = 0.05  # seconds between looks whether it answers
ANSWERS = 2.0  # seconds after which it is looked whether it has died
ENDS = 5.0  # seconds that it has to end by itself
NAME = "Prefect's temporary server"
HINT = (
    "\n\nhint: `prefect server start` in another terminal may say why; where it runs, set "
    "PREFECT_API_URL to its address"
)


class TemporaryServer:
    """A server of Prefect that starts, and ends with this process."""

    def __init__(self):
        self._listening = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._listening.getsockname()[1]}/api"
        self._over = Event()  # of the block in which it is kept: a thread of each watches
        self._lock = Lock()
        self._begin()
        atexit.register(self.end)

    def _begin(self) -> None:
        self.process = subprocess.Popen(
            [*under_guard(), sys.executable, "-m", "flows.server"],
            env=with_our_modules(os.environ),
            stdin=self._listening,
            process_group=0,
        )

    def wait(self) -> str:
        """Wait until it answers; one that dies is replaced.

        Returns:
            The URL of its API.

        Raises:
            RuntimeError: too many died, or it takes too long.
        """
        import httpx
        from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS as PATIENCE

        deadline = time.monotonic() + PATIENCE.value()
        died = 0
        with httpx.Client(timeout=ANSWERS) as client:
            while not _answers(client, f"{self.url}/health"):
                code = self.process.poll()
                if code is not None:
                    died += 1
                    if died == SERVERS:
                        how = f"{NAME} {_how(code)} as it started, {died} times"
                        raise RuntimeError(f"{how}{_homeless() or HINT}")
                    self._begin()
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{NAME} does not answer at {self.url}{HINT}, or raise {PATIENCE.name}"
                    )
                time.sleep(POLL)
        return self.url

    @contextmanager
    def kept(self) -> Iterator[None]:
        """A block in which another takes its place where it dies."""
        over = self._over = Event()
        Thread(target=self._replace, args=(over,), daemon=True).start()
        try:
            yield
        finally:
            with self._lock:
                over.set()

    def _replace(self, over: Event) -> None:
        from prefect.logging import get_logger

        died = 0
        while True:
            begun = time.monotonic()
            code = self.process.wait()
            died = 1 if time.monotonic() - begun > STARTED else died + 1
            with self._lock:
                if over.is_set():
                    return
                why = f"{died} times"
                if died <= SERVERS:
                    get_logger().warning("%s %s: another takes its place", NAME, _how(code))
                    try:
                        self._begin()
                        continue
                    except OSError as error:
                        why = f"and no other can be started: {error}"
                self._listening.close()  # nobody is to wait any more
                get_logger().error("%s %s, %s%s", NAME, _how(code), why, HINT)
                return

    def end(self) -> None:
        """End it, and wait for that."""
        with self._lock:
            self._over.set()
        self._listening.close()
        self.process.terminate()
        try:
            self.process.wait(ENDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


def _homeless() -> str:
    """What is wrong with the folder of Prefect's database, and a hint, or ""."""
    from prefect.settings import PREFECT_HOME

    home = PREFECT_HOME.value()
    try:
        home.mkdir(parents=True, exist_ok=True)
        with NamedTemporaryFile(dir=home):
            return ""
    except OSError as error:
        return (
            f": cannot write in {home} ({error.strerror}), needed a folder for its database\n\n"
            "hint: set PREFECT_HOME to a folder that can be written to"
        )


def _how(code: int) -> str:
    return how_it_ended(code if code >= 0 else 128 - code)


def _answers(client: Any, url: str) -> bool:
    import httpx

    try:
        return client.get(url).status_code == httpx.codes.OK
    except httpx.TransportError:
        return False


def wanted() -> bool:
    """Whether Prefect knows of no server, and may have one started."""
    from prefect.settings import PREFECT_API_URL, PREFECT_SERVER_ALLOW_EPHEMERAL_MODE

    return not PREFECT_API_URL.value() and PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value()


_early: list[TemporaryServer] = []


def begin_early() -> None:
    """Start one before it is known whether it is wanted: `begin` takes it, or ends it."""
    _early.append(TemporaryServer())


@cache
def begin() -> TemporaryServer | None:
    """Start one, if it is `wanted`."""
    from prefect.logging import get_logger

    if not wanted():
        while _early:
            _early.pop().end()
        return None
    get_logger().info("Starting a temporary server; `stagecraft up` starts one that stays")
    return _early.pop() if _early else TemporaryServer()


@contextmanager
def answering() -> Iterator[None]:
    """A block in which what `begin` started answers, and Prefect uses it in this process.

    Raises:
        RuntimeError: it can't be started.
    """
    from prefect.context import refresh_global_settings_context
    from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY, temporary_settings

    server = begin()
    if server is None:
        yield
        return
    used = {"PREFECT_API_URL": server.wait(), "PREFECT_UI_URL": ""}  # it has no pages to view
    os.environ.update(used)
    refresh_global_settings_context()
    for name in used:
        del os.environ[name]  # runs that this process starts have servers of their own
    # Nobody there listens for signs of life, whose thread sleeps up to a second of a flow's end.
    with temporary_settings({PREFECT_FLOWS_HEARTBEAT_FREQUENCY: None}), server.kept():
        yield
