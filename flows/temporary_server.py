"""Prefect's server for one process, where none is running.

Prefect would start one itself, but in the process group of the flow: a terminal sends Ctrl-C to the
whole group, the server would end at once, and the flow wait for minutes to tell it that it was
interrupted. Killed outright, the flow would leave a server that runs for ever. Ours has a guard. It
also starts before the flow does, beside other work, and one that dies as it starts is replaced.
"""

import atexit
import os
import socket
import subprocess
import sys
import time
from functools import cache

import httpx
import prefect
from prefect.context import refresh_global_settings_context
from prefect.logging import get_logger
from prefect.settings import (
    PREFECT_API_URL,
    PREFECT_SERVER_ALLOW_EPHEMERAL_MODE,
    get_current_settings,
)
from prefect.settings import PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS as PATIENCE

from trainer.process import how_it_ended, under_guard, with_our_modules

SERVERS = 3  # that may die as they start, before the flow gives up
POLL = 0.05  # seconds between looks whether it answers
ENDS = 5.0  # seconds that it has to end by itself
# What Prefect gives its own temporary server: no pages, and no services for other clients.
ALONE = {"PREFECT_UI_ENABLED": "0", "PREFECT__SERVER_EPHEMERAL": "1", "PREFECT__SERVER_FINAL": "1"}
NAME = "Prefect's temporary server"
HINT = (
    "\n\nhint: `prefect server start` in another terminal may say why; where it runs, set "
    "PREFECT_API_URL to its address"
)


class TemporaryServer:
    """A server of Prefect that starts, and ends with this process."""

    def __init__(self):
        self._begin()
        atexit.register(self.end)

    def _begin(self) -> None:
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        self.url = f"http://127.0.0.1:{port}/api"
        folder = str(prefect.__module_path__.parent)
        command = [sys.executable, "-m", "uvicorn", "--app-dir", folder, "--factory"]
        command += ["prefect.server.api.server:create_app", "--host", "127.0.0.1"]
        command += ["--port", str(port), "--log-level", "error", "--lifespan", "on"]
        settings = get_current_settings().to_environment_variables(exclude_unset=True)
        self.process = subprocess.Popen(
            [*under_guard(), *command],
            env=with_our_modules({**os.environ, **ALONE, **settings}),
            process_group=0,
        )

    def wait(self) -> str:
        """Wait until it answers; one that dies is replaced.

        Returns:
            The URL of its API.

        Raises:
            RuntimeError: too many died, or it takes too long.
        """
        deadline = time.monotonic() + PATIENCE.value()
        died = 0
        with httpx.Client() as client:
            while not self._answers(client):
                code = self.process.poll()
                if code is not None:
                    died += 1
                    said = how_it_ended(code if code >= 0 else 128 - code)
                    if died == SERVERS:
                        raise RuntimeError(f"{NAME} {said} as it started, {died} times{HINT}")
                    self._begin()
                if time.monotonic() > deadline:
                    raise RuntimeError(
                        f"{NAME} does not answer at {self.url}{HINT}, or raise {PATIENCE.name}"
                    )
                time.sleep(POLL)
        return self.url

    def _answers(self, client: httpx.Client) -> bool:
        try:
            return client.get(f"{self.url}/health").status_code == httpx.codes.OK
        except httpx.TransportError:
            return False

    def end(self) -> None:
        """End it, and wait for that."""
        self.process.terminate()
        try:
            self.process.wait(ENDS)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()


@cache
def begin() -> TemporaryServer | None:
    """Start one, unless Prefect knows of a server, or may not start any."""
    if PREFECT_API_URL.value() or not PREFECT_SERVER_ALLOW_EPHEMERAL_MODE.value():
        return None
    get_logger().info("Starting a temporary server; `stagecraft up` starts one that stays")
    return TemporaryServer()


def wait() -> None:
    """Wait until what `begin` started answers, and let Prefect use it in this process.

    Raises:
        RuntimeError: it can't be started.
    """
    server = begin()
    if server and not PREFECT_API_URL.value():
        used = {"PREFECT_API_URL": server.wait(), "PREFECT_UI_URL": ""}  # it has no pages to view
        os.environ.update(used)
        refresh_global_settings_context()
        for name in used:
            del os.environ[name]  # runs that this process starts have servers of their own
