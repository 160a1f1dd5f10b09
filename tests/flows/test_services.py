"""Server, MLflow and worker for real, on free ports and in a folder of their own."""

import json
import os
import re
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest

from flows import services as command
from flows.daemons import listeners

ROOT = Path(__file__).parents[2]
MARK = "STAGECRAFT_SERVICES"
SLEEPER = """
import subprocess, sys
from prefect import flow

@flow
def sleeper():
    subprocess.run([sys.executable, "-c", "import time; time.sleep(600)"])
"""
SLEEPER_YAML = """
name: sleeper
pull:
  - prefect.deployments.steps.set_working_directory: {directory: "{{ $PWD }}"}
deployments:
  - name: local
    entrypoint: sleeper.py:sleeper
    work_pool: {name: local, work_queue_name: gpu, job_variables: {stream_output: false}}
"""


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


def services(*arguments: str, cwd: Path = ROOT) -> subprocess.CompletedProcess:
    """`python -m flows.services` as a person would run it from any folder."""
    clean = {k: v for k, v in os.environ.items() if not k.startswith(("PREFECT_", "MLFLOW_"))}
    return subprocess.run(
        [sys.executable, "-m", "flows.services", *arguments],
        cwd=cwd,
        env={**clean, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=300,
    )


def left_behind(folder: Path) -> list[str]:
    """Command lines of living processes that were started for a folder of services."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == str(folder)
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(" ".join(process.cmdline()))
        except psutil.Error:
            continue
    return found


def pids(text: str) -> list[str]:
    return re.findall(r"pid (\d+)", text)


class Here:
    """Services that a test started: their folder, ports, and what `up` printed."""

    def __init__(self, output: Path):
        self.output, self.folder = output, output / ".services"
        self.ports = (free_port(), free_port())
        self.options = ["--output", str(output)]
        self.up = services(
            "up", *self.options,
            "--prefect-port", str(self.ports[0]), "--mlflow-port", str(self.ports[1]),
            cwd=output.parent,
        )  # fmt: skip

    def api(self, path: str, body: dict | None = None):
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.ports[0]}/api/{path}",
            data=None if body is None else json.dumps(body).encode(),
            headers={"Content-Type": "application/json"},
        )
        for _ in range(20):
            try:
                return json.load(urllib.request.urlopen(request, timeout=10))
            except urllib.error.HTTPError as error:
                if error.code != 503:  # the server's database is busy: its clients ask again too
                    raise
                time.sleep(0.5)
        raise AssertionError(f"{path} was refused as busy for 10 s")

    def run(self, deployment: str, **parameters) -> str:
        """Start a deployment; the run's id."""
        id_ = self.api(f"deployments/name/{deployment}")["id"]
        return self.api(f"deployments/{id_}/create_flow_run", {"parameters": parameters})["id"]

    def state(self, run: str, *wanted: str, seconds: float = 90) -> dict:
        """The run's state, once it is one of those wanted."""
        deadline = time.monotonic() + seconds
        while (state := self.api(f"flow_runs/{run}")["state"])["type"] not in wanted:
            assert time.monotonic() < deadline, state
            time.sleep(0.3)
        return state


@pytest.fixture(scope="module")
def here(tmp_path_factory):
    started = Here(tmp_path_factory.mktemp("services") / "outputs")
    try:
        assert started.up.returncode == 0, started.up.stdout + started.up.stderr
        yield started
    finally:
        services("down", *started.options)
    assert left_behind(started.folder) == []


@pytest.fixture(scope="module")
def sleeping(here, tmp_path_factory) -> str:
    """A run of a flow that would take ten minutes, in the gpu queue."""
    folder = tmp_path_factory.mktemp("sleeper")
    (folder / "sleeper.py").write_text(SLEEPER)
    (folder / "prefect.yaml").write_text(SLEEPER_YAML)
    subprocess.run(
        [sys.executable, "-m", "prefect", "--no-prompt", "deploy", "--all"],
        cwd=folder,
        env={
            **os.environ,
            "PWD": str(folder),
            "PREFECT_HOME": str(folder / "home"),
            "PREFECT_API_URL": f"http://127.0.0.1:{here.ports[0]}/api",
        },
        check=True,
        capture_output=True,
        timeout=120,
    )
    run = here.run("sleeper/local")
    here.state(run, "RUNNING")
    return run


# --- In this order: what runs, what is refused, and last how it ends ----------------------------


@pytest.mark.slow
def test_up_says_that_each_is_healthy_and_how_to_reach_it(here):
    lines = here.up.stdout.splitlines()
    for name, line in zip(("prefect-server", "mlflow", "worker"), lines, strict=False):
        assert re.fullmatch(rf"{name} .* pid \d+ +healthy in \d+\.\d s", line), line
    assert (
        "pipeline/local, train-stage/local, evaluate/local, study/local, report/local"
        in here.up.stdout
    )
    assert lines[-1] == f"export PREFECT_API_URL=http://127.0.0.1:{here.ports[0]}/api"


@pytest.mark.slow
def test_everything_listens_on_loopback_only(here):
    ours = [p for p in psutil.process_iter() if str(p.pid) in pids(here.up.stdout)]
    tree = [*ours, *(child for process in ours for child in process.children(recursive=True))]
    open_ = {
        connection.laddr.ip
        for process in tree
        for connection in process.net_connections("tcp")
        if connection.status == psutil.CONN_LISTEN
    }
    assert open_ == {"127.0.0.1"}


@pytest.mark.slow
def test_everything_lies_in_one_folder_and_nothing_calls_home(here):
    assert (here.folder / "prefect" / "prefect.db").is_file()
    assert (here.output / "mlflow.db").is_file()
    for process in psutil.process_iter():
        if str(process.pid) in pids(here.up.stdout):
            environment = process.environ()
            assert environment["PREFECT_HOME"] == str(here.folder / "prefect")
            assert environment["PREFECT_SERVER_ANALYTICS_ENABLED"] == "false"
            assert environment["MLFLOW_DISABLE_TELEMETRY"] == environment["DO_NOT_TRACK"] == "true"


@pytest.mark.slow
def test_the_gpu_queue_admits_one_and_dead_runs_are_looked_for(here):
    queue = here.api("work_pools/local/queues/gpu")
    assert queue["concurrency_limit"] == 1
    for name in ("pipeline", "train-stage", "evaluate"):
        deployment = here.api(f"deployments/name/{name}/local")
        assert deployment["work_queue_name"] == "gpu"
        assert deployment["job_variables"] == {"stream_output": False}
        assert deployment["parameters"] == {"output": str(here.output)}
        [step] = deployment["pull_steps"]
        assert step["prefect.deployments.steps.set_working_directory"]["directory"] == str(ROOT)
    [automation] = here.api("automations/filter", {})
    assert automation["enabled"] and automation["trigger"]["within"] == 90


@pytest.mark.slow
def test_up_again_starts_nothing_and_asks_for_no_ports(here):
    before = here.api("automations/filter", {})
    again = services("up", *here.options)
    assert again.returncode == 0, again.stderr
    assert again.stdout.count("already running, healthy") == 3
    assert pids(again.stdout) == pids(here.up.stdout)
    assert here.api("automations/filter", {}) == before  # nor written: its time is in it
    assert services("status", *here.options).returncode == 0


@pytest.mark.slow
def test_a_deployed_run_that_is_refused_says_why(here):
    run = here.run("pipeline/local", experiment="lab/fastcrl")
    state = here.state(run, "FAILED", "COMPLETED", "CRASHED")
    assert state["type"] == "FAILED" and "did you mean lab/fastcurl" in state["message"]


@pytest.mark.slow
def test_another_port_is_refused_while_it_runs(here):
    done = services("up", *here.options, "--prefect-port", str(free_port()))
    assert done.returncode == 2
    assert f"is in use on port {here.ports[0]}\n\nhint: stagecraft down" in done.stderr


@pytest.mark.slow
def test_services_of_another_folder_are_foreign(here, tmp_path):
    done = services("up", "--output", str(tmp_path / "o"), "--prefect-port", str(here.ports[0]))
    assert done.returncode == 2
    assert f"started for {here.output}\n\nhint: end it, or take" in done.stderr
    assert not (tmp_path / "o").exists()


def test_a_foreign_server_is_refused_and_left_alone(tmp_path):
    port = free_port()
    foreign = subprocess.Popen(
        [sys.executable, "-m", "http.server", "--bind", "127.0.0.1", str(port)],
        cwd=tmp_path,
        stderr=subprocess.DEVNULL,
    )
    try:
        while socket.socket().connect_ex(("127.0.0.1", port)):
            time.sleep(0.05)
        done = services("up", "--output", str(tmp_path / "o"), "--mlflow-port", str(port),
                        "--prefect-port", str(free_port()))  # fmt: skip
        assert done.returncode == 2
        assert f"port {port}, wanted for mlflow, is held by process {foreign.pid}" in done.stderr
        assert f"hint: end it, or take another port with --mlflow-port {port + 1}" in done.stderr
        assert foreign.poll() is None
        assert left_behind(tmp_path / "o" / ".services") == []
    finally:
        foreign.kill()
        foreign.wait()


def test_one_port_for_two_services_is_refused_before_anything_starts(tmp_path):
    done = services("up", "--output", str(tmp_path / "o"), "--prefect-port", "5000")
    assert done.returncode == 2
    assert "found port 5000 for prefect-server and for mlflow, needed one for each" in done.stderr
    assert "hint: " in done.stderr and "--mlflow-port 5001" in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("option", ["--prefect-port", "--mlflow-port"])
@pytest.mark.parametrize("port", ["70000", "65536", "0", "-1"])
def test_a_port_that_there_is_none_of_is_refused_before_anything_starts(tmp_path, option, port):
    done = services("up", "--output", str(tmp_path / "o"), option, port)
    assert (done.returncode, done.stdout) == (2, "")
    assert f"found {option} {port}, needed a port from 1 to 65535\n\nhint: " in done.stderr
    assert not (tmp_path / "o").exists()


@pytest.mark.parametrize("name", ["/proc/none/o", "file/o"])
def test_a_folder_that_can_not_be_written_is_refused_with_a_hint(tmp_path, name):
    (tmp_path / "file").touch()
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    done = services("up", "--output", name, *ports, cwd=tmp_path)
    assert (done.returncode, done.stdout) == (2, "")
    assert "needed a folder to write to\n\nhint: name one with --output" in done.stderr
    assert "Traceback" not in done.stderr


FAKED = """
import json, sys
from flows import deploying, machine, services

broken = sys.argv.pop(1)
asleep = "import time; time.sleep(600)"
dies = f"import subprocess, sys; subprocess.Popen([sys.executable, '-c', {asleep!r}])"
machine.Services.command = lambda self, one: [
    sys.executable, "-c", dies if one.name == broken else asleep
]
def healthy(self, one):
    there = one.process()
    return there is not None and one.name != broken and there.status() != "stopped"

machine.Services.healthy = healthy
services.deploy = lambda *_: ["none/local"]
deploying.HUNG = 0.5
sys.exit(services.main())
"""


@pytest.fixture
def faked(tmp_path):
    """`up` of programs that sleep, one of them ending at once but not what it has started."""
    ports = ["--prefect-port", str(free_port()), "--mlflow-port", str(free_port())]
    options = ["--output", str(tmp_path / "o")]

    def up(broken: str) -> subprocess.CompletedProcess:
        line = [sys.executable, "-c", FAKED, broken, "up", *options, *ports]
        return subprocess.run(line, cwd=ROOT, capture_output=True, text=True, timeout=60)

    yield up
    services("down", *options)


@pytest.mark.parametrize("broken", ["mlflow", "worker"])
def test_an_up_that_fails_leaves_nothing_running(faked, tmp_path, broken):
    done = faked(broken)
    folder = tmp_path / "o" / ".services"
    assert done.returncode == 1 and f"{broken} has ended" in done.stderr, done.stderr
    assert "prefect-server  ended again\n" in done.stdout
    assert left_behind(folder) == [] and list(folder.glob("*.json")) == []


def test_an_up_that_fails_leaves_alone_what_ran_before(faked, tmp_path):
    assert (done := faked("none")).returncode == 0, done.stderr
    record = tmp_path / "o" / ".services" / "mlflow.json"
    noted = json.loads(record.read_text())
    psutil.Process(noted["pid"]).kill()
    done = faked("mlflow")
    assert done.returncode == 1 and "ended again" not in done.stdout
    assert len(left_behind(record.parent)) == 2 and json.loads(record.read_text()) == noted


@pytest.mark.parametrize("name", ["prefect-server", "mlflow"])
def test_up_starts_a_server_again_that_hangs(faked, tmp_path, name):
    before = pids(faked("none").stdout)
    hung = json.loads((tmp_path / "o" / ".services" / f"{name}.json").read_text())["pid"]
    os.kill(hung, signal.SIGSTOP)
    again = faked("none")
    assert again.returncode == 0, again.stderr
    assert f"{name:<15} has answered nothing for " in again.stdout
    assert again.stdout.count("already running, healthy") == 2
    assert len(left_behind(tmp_path / "o" / ".services")) == 3
    assert set(before) - set(pids(again.stdout)) == {str(hung)}


def test_a_listener_that_ends_while_it_is_looked_up_is_none(monkeypatch):
    with subprocess.Popen(["true"]) as ended:
        pass
    address = SimpleNamespace(port=4200)
    there = [SimpleNamespace(status=psutil.CONN_LISTEN, laddr=address, pid=ended.pid)]
    monkeypatch.setattr(psutil, "net_connections", lambda _: there)
    assert listeners(4200) == []


@pytest.fixture
def standing(tmp_path):
    """Starts a program as one of the worker's runs, for services of which nothing else is left."""
    folder, started = tmp_path / "out" / ".services", []
    folder.mkdir(parents=True)

    def start(*command: str) -> subprocess.Popen:
        started.append(subprocess.Popen(command, env={**os.environ, MARK: str(folder)}))
        return started[-1]

    yield start
    for process in started:
        process.kill()
        process.wait()


RUN = """
import subprocess, sys
from pathlib import Path
from trainer.process import run_guarded

stop = Path("stop")
run_guarded("saver", [], log=Path("log"), environment={}, progress=lambda: False,
            stall_timeout=60, stop_file=stop, grace=30, warm="warm" in sys.argv)
"""
SAVER = """
import time
from pathlib import Path

Path("stop.listening").touch()
while not Path("stop").exists():
    time.sleep(0.1)
time.sleep(3)  # longer than flows without a trainer have to end: see below
Path("saved").touch()
Path("stop.listening").unlink()
"""


@pytest.mark.slow
@pytest.mark.parametrize(("killed", "warm"), [(False, "warm"), (True, "cold")])
def test_down_leaves_a_trainer_the_time_to_save(
    killed, warm, standing, tmp_path, monkeypatch, capsys
):
    monkeypatch.setattr(command, "RUNS_END", 1.0)
    (tmp_path / "saver.py").write_text(SAVER)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PYTHONPATH", f"{tmp_path}:{ROOT}")
    told = "import signal; signal.signal(signal.SIGTERM, signal.default_int_handler)"
    run = standing(sys.executable, "-c", told + RUN, "prefect.engine", warm)
    deadline = time.monotonic() + 60
    while not (tmp_path / "stop.listening").exists():
        assert time.monotonic() < deadline and run.poll() is None
        time.sleep(0.1)
    if killed:
        run.kill()
        run.wait()
    assert command.main(["down", "--output", str(tmp_path / "out")]) == 0
    told = capsys.readouterr().out
    assert (tmp_path / "saved").exists(), told
    assert "trainers save their last step, which may take 30 s\n" in told
    assert left_behind(tmp_path / "out" / ".services") == []


def test_a_run_is_told_to_end_however_long_the_path_of_its_python(standing, tmp_path):
    python = tmp_path / ("long" * 40) / "python"
    python.parent.mkdir()
    python.symlink_to(sys.executable)
    run = standing(str(python), "-c", "import time; time.sleep(60)", "prefect.engine")
    done = services("down", "--output", str(tmp_path / "out"))
    assert ", including 1 run; start it again and its stages resume\n" in done.stdout
    assert run.wait() == -signal.SIGTERM


@pytest.mark.parametrize("name", ["link", "link/../link", "out/../out"])
def test_a_folder_is_the_same_by_every_name(name, standing, tmp_path):
    (tmp_path / "link").symlink_to(tmp_path / "out")
    run = standing(sys.executable, "-c", "import time; time.sleep(60)")
    done = services("down", "--output", str(tmp_path / name))
    assert re.fullmatch(r"stopped 1 process in \d\.\d s\n", done.stdout)
    assert run.wait() == -signal.SIGTERM


def test_down_where_nothing_runs_does_nothing(tmp_path):
    done = services("down", "--output", str(tmp_path / "never"))
    assert (done.returncode, done.stdout) == (0, f"nothing is running for {tmp_path / 'never'}\n")
    assert not (tmp_path / "never").exists()


@pytest.mark.slow
def test_up_starts_again_what_was_killed(here):
    worker = int(pids(here.up.stdout)[2])
    psutil.Process(worker).kill()
    assert services("status", *here.options).returncode == 1
    again = services("up", *here.options)
    assert again.returncode == 0, again.stderr
    assert pids(again.stdout)[:2] == pids(here.up.stdout)[:2]
    assert pids(again.stdout)[2] != str(worker)


@pytest.mark.slow
def test_a_second_run_waits_for_the_first(here, sleeping):
    waiting = here.run("sleeper/local")
    time.sleep(8)  # the worker looks every three seconds
    assert here.api(f"flow_runs/{waiting}")["state"]["type"] == "SCHEDULED"
    here.api(f"flow_runs/{waiting}/set_state", {"state": {"type": "CANCELLED"}})


@pytest.mark.slow
def test_down_ends_everything_within_15_seconds_runs_included(here, sleeping):
    assert any("time.sleep(600)" in line for line in left_behind(here.folder))
    started = time.monotonic()
    done = services("down", *here.options)
    assert done.returncode == 0, done.stderr
    assert time.monotonic() - started < 15
    assert "including 1 run;" in done.stdout
    assert left_behind(here.folder) == []
    assert "nothing is running" in services("down", *here.options).stdout


def test_what_is_no_clone_is_refused_before_anything_starts(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(command, "ROOT", tmp_path)
    assert command.main(["up", "--output", str(tmp_path / "out")]) == 2
    said = capsys.readouterr().err
    assert f"found no prefect.yaml in {tmp_path}, needed a clone" in said and "hint: " in said
    assert not (tmp_path / "out").exists()
