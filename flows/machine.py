"""The services of an output folder: how each is started, where it answers, whether it is well."""

import http.client
import json
import os
import shlex
import socket
import sys
import urllib.request
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

from conf import telemetry
from flows.daemons import Daemon
from flows.loopback import exempted

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
PORTS = {"prefect_port": 4200, "mlflow_port": 5000}
OPTIONS = ("--prefect-port", "--mlflow-port")
LAST_PORT = 65535
POOL, QUEUE = "local", "gpu"
HEARTBEAT = 30  # seconds between two signs of life of a flow run; Prefect allows no less
SILENCE = 90  # seconds without one, after which a run counts as dead: two may get lost


@dataclass(frozen=True)
class Services:
    """The three services of an output folder.

    Attributes:
        output: The folder that runs are written under, absolute and without links.
        asked: Ports that were asked for, by name.
    """

    output: Path
    asked: dict[str, int]

    @cached_property
    def folder(self) -> Path:
        """Where records, logs and Prefect's database lie."""
        return self.output / ".services"

    @cached_property
    def server(self) -> Daemon:
        """Prefect's server."""
        return Daemon("prefect-server", self.folder)

    @cached_property
    def mlflow(self) -> Daemon:
        """MLflow's server."""
        return Daemon("mlflow", self.folder)

    @cached_property
    def worker(self) -> Daemon:
        """Prefect's worker."""
        return Daemon("worker", self.folder)

    @cached_property
    def all(self) -> list[Daemon]:
        """In the order in which they are shown."""
        return [self.server, self.mlflow, self.worker]

    @cached_property
    def servers(self) -> list[Daemon]:
        """Those that listen on a port, in the order of `PORTS`."""
        return [self.server, self.mlflow]

    def port(self, daemon: Daemon) -> int:
        """The port of a service: where it listens or last did, the one asked for, the default.

        Raises:
            ValueError: another one was asked for while it runs, or the worker that calls it.
        """
        name = "prefect_port" if daemon is self.server else "mlflow_port"
        was = daemon.record.get("port")
        callers = (daemon, self.worker) if daemon is self.server else (daemon,)
        if was and self.asked.get(name, was) != was and any(one.process() for one in callers):
            raise ValueError(
                f"found --{name.replace('_', '-')} {self.asked[name]}, but {daemon.name} of "
                f"{self.output} is in use on port {was}\n\n"
                f"hint: stagecraft down --output {shlex.quote(str(self.output))}"
            )
        return self.asked.get(name, was or PORTS[name])

    @property
    def api(self) -> str:
        """URL of Prefect's API."""
        return f"http://{HOST}:{self.port(self.server)}/api"

    def address(self, daemon: Daemon) -> str:
        """What a person opens to see a service, or where a worker takes its runs from."""
        if daemon is self.worker:
            return f"pool {POOL}"
        return f"http://{HOST}:{self.port(daemon)}"

    def healthy(self, daemon: Daemon) -> bool:
        """Whether a service runs and answers."""
        if daemon.process() is None:
            return False
        if daemon is self.server:
            return answer(f"{self.api}/health") == "true"
        if daemon is self.mlflow:
            return answer(f"{self.address(daemon)}/health") == "OK"
        found = json.loads(answer(f"{self.api}/work_pools/{POOL}/workers/filter", {}) or "[]")
        name = daemon.record["command"][-1]
        return any(one["name"] == name and one["status"] == "ONLINE" for one in found)

    def environment(self) -> dict[str, str]:
        """Of every service: nothing calls home, and no Prefect settings but those made here."""
        inherited = {k: v for k, v in os.environ.items() if not k.startswith("PREFECT_")}
        return {
            **inherited,
            **telemetry.OFF,
            "PREFECT_HOME": str(self.folder / "prefect"),
            "PREFECT_API_URL": self.api,
            "PREFECT_SERVER_UI_SHOW_PROMOTIONAL_CONTENT": "false",
            "PREFECT_FLOWS_HEARTBEAT_FREQUENCY": str(HEARTBEAT),
            "PREFECT_WORKER_QUERY_SECONDS": "3",
            "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
            "STAGECRAFT_OUTPUT": str(self.output),
            "PYTHONWARNINGS": "ignore",
            **exempted(os.environ),
        }

    def command(self, daemon: Daemon) -> list[str]:
        """What starts a service."""
        if daemon is self.worker:
            words = ["prefect", "worker", "start", "--pool", POOL, "--name"]
            words += [f"{socket.gethostname()}-{uuid4().hex[:6]}"]
        elif daemon is self.server:
            words = ["prefect", "server", "start", "--host", HOST, "--port", str(self.port(daemon))]
        else:
            words = ["mlflow", "server", "--host", HOST, "--port", str(self.port(daemon))]
            words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.output}/mlflow.db"]
            words += ["--artifacts-destination", (self.output / "mlartifacts").as_uri()]
        return [sys.executable, "-m", *words]


def answer(url: str, body: Any = None) -> str:
    """What a server of this machine says to a GET, or to a POST of JSON; nothing: it is silent."""
    request = urllib.request.Request(
        url,
        data=None if body is None else json.dumps(body).encode(),
        headers={"Content-Type": "application/json"},
    )
    try:
        # No proxy: it could not reach our loopback.
        with urllib.request.build_opener(urllib.request.ProxyHandler({})).open(
            request, None, 3
        ) as got:
            return got.read().decode().strip()
    except (OSError, http.client.HTTPException):
        return ""
