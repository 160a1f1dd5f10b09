"""Prefect's worker and server, and the MLflow server, killed under a run that was deployed."""

import json
import os
import re
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path

import psutil
import pytest
from attempts import ROOT
from truth import faults_of, finished_stages, recorded_steps

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(4000)]
STEPS = 200  # long enough for what is done to the services meanwhile
MARK = "STAGECRAFT_SERVICES"
ENDED = ("COMPLETED", "FAILED", "CRASHED", "CANCELLED")


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Services:
    """What `stagecraft up` started for an output folder, on ports of its own."""

    def __init__(self, output: Path):
        self.output = output
        self.port = free_port()
        self.mlflow_port = free_port()

    def up(self) -> str:
        """Start what does not run; what it printed."""
        ports = ["--prefect-port", str(self.port), "--mlflow-port", str(self.mlflow_port)]
        return self._call("up", *ports)

    def down(self) -> str:
        """Stop everything; what it printed."""
        return self._call("down")

    def _call(self, what: str, *options: str) -> str:
        clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
        done = subprocess.run(
            [sys.executable, "-m", "flows.services", what, "--output", str(self.output), *options],
            cwd=ROOT,
            env={**clean, "PYTHONPATH": str(ROOT)},
            capture_output=True,
            text=True,
            timeout=600,
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def kill(self, name: str) -> None:
        """SIGKILL a service, with its children: they would be its like in another second."""
        record = json.loads((self.output / ".services" / f"{name}.json").read_text())
        process = psutil.Process(record["pid"])
        for one in [process, *([] if name == "worker" else process.children(recursive=True))]:
            one.kill()

    def api(self, path: str, body: dict | None = None):
        """Prefect's answer; asked again for a minute while its database is busy."""
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        deadline = time.monotonic() + 60
        while True:
            try:
                return json.load(urllib.request.urlopen(request, timeout=20))
            except (urllib.error.URLError, TimeoutError):
                if time.monotonic() > deadline:
                    raise
                time.sleep(1)

    def start(self, deployment: str, **parameters) -> str:
        """Id of a new run of a deployment."""
        id_ = self.api(f"deployments/name/{deployment}")["id"]
        return self.api(f"deployments/{id_}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, run: str) -> dict:
        """What Prefect says of a run."""
        return self.api(f"flow_runs/{run}")["state"]

    def wait_for_end(self, run: str, seconds: float) -> dict:
        """The run's last state."""
        deadline = time.monotonic() + seconds
        while (state := self.state(run))["type"] not in ENDED:
            assert time.monotonic() < deadline, state
            time.sleep(2)
        return state

    def steps(self) -> int:
        """Steps that its runs have recorded."""
        return sum(recorded_steps(self.output).values())

    def wait_for_steps(self, more: int, seconds: float) -> None:
        """Until so many more steps are recorded."""
        wanted, deadline = self.steps() + more, time.monotonic() + seconds
        while self.steps() < wanted:
            assert time.monotonic() < deadline, f"{self.steps()} steps after {seconds:.0f} s"
            time.sleep(0.3)

    def left(self) -> list[str]:
        """Command lines of living processes that were started for it."""
        found = []
        for process in psutil.process_iter():
            try:
                ours = process.environ().get(MARK) == str(self.output / ".services")
                if ours and process.status() != psutil.STATUS_ZOMBIE:
                    found.append(" ".join(process.cmdline())[:160])
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def services(tmp_path_factory):
    made = Services(tmp_path_factory.mktemp("services") / "outputs")
    try:
        made.up()
        yield made
    finally:
        made.down()
    assert made.left() == []


@pytest.fixture(scope="module")
def settings(stall) -> list[str]:
    return [f"stages.0.steps={STEPS}", stall]


@pytest.fixture(scope="module")
def run(services, settings) -> str:
    """A run of the lab pipeline that has made a step."""
    id_ = services.start("pipeline/local", experiment="lab/smoke", overrides=settings)
    services.wait_for_steps(1, 900)
    return id_


def test_a_worker_that_is_killed_takes_no_run_along(services, run, row):
    row.fault = "SIGKILL of Prefect's worker"
    services.kill("worker")
    services.wait_for_steps(2, 300)
    assert services.state(run)["type"] == "RUNNING"
    told = services.up()
    assert len(re.findall("already running, healthy", told)) == 2
    row.sees = "the run goes on; `stagecraft up` starts the worker again"
    row.kept, row.then = "everything", "none is needed"
    assert faults_of(services.output) == []


def test_an_mlflow_server_that_is_killed_stops_nothing(services, run, row):
    row.fault = "SIGKILL of the MLflow server"
    services.kill("mlflow")
    services.wait_for_steps(2, 300)
    assert services.state(run)["type"] == "RUNNING"
    services.up()
    row.sees = "the run goes on: it writes to the file that the server shows"
    row.kept, row.then = "everything", "none is needed"
    assert faults_of(services.output) == []


def test_a_run_outlives_prefects_server_or_the_next_one_goes_on(services, settings, run, row):
    row.fault = "SIGKILL of Prefect's server for as long as three steps take"
    services.kill("prefect-server")
    services.wait_for_steps(3, 300)
    services.up()
    state = services.wait_for_end(run, 1800)
    row.sees = f"the run is {state['name']}" + (f": {state['message']}" if state["message"] else "")
    row.kept = f"{services.steps()} steps, all that were made"
    if state["type"] == "COMPLETED":
        row.then = "none is needed"
    else:
        again = services.start("pipeline/local", experiment="lab/smoke", overrides=settings)
        assert services.wait_for_end(again, 1800)["type"] == "COMPLETED"
        row.then = "finished"
    assert faults_of(services.output) == []
    assert len(finished_stages(services.output)) == 2


def test_mlflow_has_every_step_after_all_that(services, run, mlflow_of):
    uri = f"sqlite:///{services.output / 'mlflow.db'}"
    assert mlflow_of(uri) == {"1-L1-64": STEPS, "2-L2-96": 2}
