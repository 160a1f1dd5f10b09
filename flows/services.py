"""Prefect server, MLflow and a worker on this machine, started and stopped together.

python -m flows.services up [output=outputs] [prefect_port=4200] [mlflow_port=5000]
python -m flows.services status [output=outputs]
python -m flows.services down [output=outputs]

Everything listens on loopback only and lies under `<output>/.services`: databases, records, logs.
Runs of the worker write to `<output>/mlflow.db`, as those of a terminal do, and the MLflow server
shows that file: so a run does not depend on the MLflow server being up.
"""

import fcntl
import http.client
import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any
from uuid import uuid4

import psutil

from conf import telemetry
from flows.daemons import Daemon, listeners, owner, started_for, tell, wait_for_end

ROOT = Path(__file__).parents[1]
HOST = "127.0.0.1"
PORTS = {"prefect_port": 4200, "mlflow_port": 5000}
POOL, QUEUE = "local", "gpu"
HEARTBEAT = 30  # seconds between two signs of life of a flow run; Prefect allows no less
SILENCE = 90  # seconds without one, after which a run counts as dead: two may get lost
START = 180.0  # seconds that a service may take to become healthy
# Seconds, at most 15 together: for running flows to end, whose trainers' guards may take nine; for
# the worker to tell the server that they have; and for services to end when told, told twice, killed.
RUNS_END, RUNS_TOLD, TOLD, TOLD_TWICE, KILLED = 9.5, 2.0, 2.0, 0.5, 0.5


@dataclass(frozen=True)
class Services:
    """The three services of an output folder.

    Attributes:
        output: The folder that runs are written under, absolute.
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

    def port(self, daemon: Daemon) -> int:
        """The port of a service: where it listens, else the one asked for, else the default."""
        name = "prefect_port" if daemon is self.server else "mlflow_port"
        running = daemon.record["port"] if daemon.process() else None
        if running and self.asked.get(name, running) != running:
            raise ValueError(
                f"{name}: found {self.asked[name]}, but {daemon.name} of {self.output} runs on "
                f"port {running}\n\nhint: stagecraft down output={shlex.quote(str(self.output))}"
            )
        return running or self.asked.get(name, PORTS[name])

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
            return _answer(f"{self.api}/health") == "true"
        if daemon is self.mlflow:
            return _answer(f"{self.address(daemon)}/health") == "OK"
        found = json.loads(_answer(f"{self.api}/work_pools/{POOL}/workers/filter", {}) or "[]")
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
            "NO_PROXY": ",".join(filter(None, [os.environ.get("NO_PROXY"), HOST])),
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


def up(arguments: list[str]) -> int:
    """Start what does not run yet, deploy prefect.yaml, and show a line of health for each.

    Args:
        arguments: `output=`, `prefect_port=`, `mlflow_port=`, each optional.

    Returns:
        Exit code: 0 all healthy, 1 one does not start, 2 refused.
    """
    return _told(_up, arguments)


def down(arguments: list[str]) -> int:
    """Stop all three and the runs of the worker, which resume when they are run again.

    Args:
        arguments: `output=`, optional.

    Returns:
        Exit code: 0 nothing is left, 1 a process did not end, 2 refused.
    """
    return _told(_down, arguments)


def status(arguments: list[str]) -> int:
    """Show a line of health for each.

    Args:
        arguments: `output=`, optional.

    Returns:
        Exit code: 0 all healthy, 1 not all, 2 refused.
    """
    return _told(_status, arguments)


def _up(services: Services) -> int:
    (services.folder / "prefect").mkdir(parents=True, exist_ok=True)
    with _alone(services.folder):
        servers = [services.server, services.mlflow]
        for daemon in servers:
            _check_port(services, daemon)
        running = [daemon for daemon in services.all if daemon.process()]
        # The servers need nothing of each other, so they start together; the worker needs a pool.
        for daemon in servers:
            if daemon not in running:
                _start(services, daemon)
        for daemon in servers:
            _show_start(services, daemon, daemon in running)
        names = _deploy(services)
        if services.worker not in running:
            _start(services, services.worker)
        _show_start(services, services.worker, services.worker in running)
    _show("deployments", ", ".join(names))
    _show("automation", f"a run that shows no sign of life for {SILENCE} s is marked Crashed")
    _show("logs", str(services.folder))
    print(f"\nexport PREFECT_API_URL={services.api}")
    return 0


def _down(services: Services) -> int:
    if not services.folder.is_dir():
        print(f"nothing runs for {services.output}")
        return 0
    started = time.monotonic()
    with _alone(services.folder):
        there = started_for(services.folder)
        runs = _end_runs(services)
        tell([process for daemon in services.all if (process := daemon.process())])
        left = wait_for_end(there, TOLD)
        tell(left)
        left = wait_for_end(started_for(services.folder), TOLD_TWICE)
        tell(left, signal.SIGKILL)
        left = wait_for_end(started_for(services.folder), KILLED)
        for daemon in services.all:
            daemon.forget()
    if left:
        raise RuntimeError(f"still alive: {', '.join(str(process.pid) for process in left)}")
    if not there:
        print(f"nothing runs for {services.output}")
        return 0
    stopped = (
        f", {runs} run{'s' * (runs != 1)} among them: run again, stages resume" if runs else ""
    )
    print(f"stopped {len(there)} processes in {time.monotonic() - started:.1f} s{stopped}")
    return 0


def _status(services: Services) -> int:
    healthy = [services.healthy(daemon) for daemon in services.all]
    for daemon, well in zip(services.all, healthy, strict=True):
        process = daemon.process()
        _show_health(services, daemon, "healthy" if well else "no answer" if process else "")
    return 0 if all(healthy) else 1


def _check_port(services: Services, daemon: Daemon) -> None:
    """Refuse a port that something else listens on; end what a killed service of ours left."""
    port = services.port(daemon)
    for process in listeners(port):
        whose = owner(process) if process else ""
        if whose != str(services.folder):
            name = "prefect_port" if daemon is services.server else "mlflow_port"
            what = f"process {process.pid} ({_words(process)})" if process else "another user"
            by = f", started for {Path(whose).parent}" if whose else ""
            raise ValueError(
                f"port {port}, wanted for {daemon.name}, is held by {what}{by}\n\n"
                f"hint: end it, or take another port with {name}={port + 1}"
            )
        if daemon.process() is None:
            tell([process], signal.SIGKILL)
            wait_for_end([process], KILLED)


def _start(services: Services, daemon: Daemon) -> None:
    port = None if daemon is services.worker else services.port(daemon)
    daemon.start(services.command(daemon), services.environment(), ROOT, port)


def _deploy(services: Services) -> list[str]:
    """Names of the deployments of prefect.yaml, which are on the server now."""
    done = subprocess.run(
        [sys.executable, "-m", "flows.deployments"],
        cwd=ROOT,
        env=services.environment(),
        capture_output=True,
        text=True,
    )
    names = re.findall(r"Deployment '([\w-]+/[\w-]+)'", done.stdout)
    if done.returncode or not names:
        raise RuntimeError(f"prefect.yaml could not be deployed:\n{done.stdout}{done.stderr}")
    return names


def _end_runs(services: Services) -> int:
    """Tell the worker's runs to end, those too that begin meanwhile, and see the server told.

    Returns:
        How many there were.
    """
    told: list[psutil.Process] = []
    deadline = time.monotonic() + RUNS_END
    while time.monotonic() < deadline:
        runs = [p for p in started_for(services.folder) if "prefect.engine" in _words(p)]
        tell([run for run in runs if run not in told])
        told += [run for run in runs if run not in told]
        if not runs:
            break
        time.sleep(0.2)
    deadline = time.monotonic() + RUNS_TOLD
    wanted = {"flow_runs": {"state": {"type": {"any_": ["RUNNING"]}}}}
    while told and time.monotonic() < deadline:
        if _answer(f"{services.api}/flow_runs/count", wanted) in ("", "0"):
            break
        time.sleep(0.2)
    return len(told)


def _show_start(services: Services, daemon: Daemon, was_running: bool) -> None:
    seconds = daemon.wait_until(lambda: services.healthy(daemon), START)
    text = "already running, healthy" if was_running else f"healthy in {seconds:.1f} s"
    _show_health(services, daemon, text)


def _show_health(services: Services, daemon: Daemon, text: str) -> None:
    process = daemon.process()
    pid = f"pid {process.pid:<8}" if process else ""
    _show(daemon.name, f"{services.address(daemon):<23} {pid}{text or 'not running'}")


def _show(name: str, text: str) -> None:
    print(f"{name:<15} {text}", flush=True)


def _words(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())[:120]
    except psutil.Error:
        return "?"


def _answer(url: str, body: Any = None) -> str:
    """What a server on this machine says to a GET, or to a POST of JSON; empty where it does not."""
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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Only one `up` or `down` of a folder at a time; the kernel lets go of what a dead one held."""
    with (folder / "lock").open("a") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _told(action: Callable[[Services], int], arguments: list[str]) -> int:
    try:
        return action(_parsed(arguments))
    except ValueError as error:
        print(error, file=sys.stderr)
        return 2
    except RuntimeError as error:
        print(error, file=sys.stderr)
        return 1


def _parsed(arguments: list[str]) -> Services:
    given = dict(argument.partition("=")[::2] for argument in arguments)
    known = ("output", *PORTS)
    for key, value in given.items():
        if key not in known or not value:
            raise ValueError(
                f"found {key}={value}, needed {', '.join(f'{name}=...' for name in known)}\n\n"
                "hint: stagecraft up output=outputs"
            )
        if key in PORTS and not (value.isdecimal() and 0 < int(value) < 65536):
            raise ValueError(f"{key}: found {value!r}, needed a port\n\nhint: {key}={PORTS[key]}")
    ports = {key: int(given[key]) for key in PORTS if key in given}
    return Services(Path(given.get("output", "outputs")).absolute(), ports)


def main(arguments: list[str]) -> int:
    """`up`, `down` or `status`, with their arguments.

    Returns:
        Exit code.
    """
    actions = {"up": up, "down": down, "status": status}
    if not arguments or arguments[0] not in actions:
        print(f"usage: python -m flows.services {'|'.join(actions)} [output=outputs]")
        return 2
    return actions[arguments[0]](arguments[1:])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
