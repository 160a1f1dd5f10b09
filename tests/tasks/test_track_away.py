"""MLflow away: from the start, in the middle, at the end. Real servers, real locks, real kills."""

import json
import os
import signal
import socket
import sqlite3
import subprocess
import sys
import time
from contextlib import closing, contextmanager, suppress
from pathlib import Path
from urllib.request import urlopen

import pytest
from mlflow import MlflowClient

from conf import telemetry
from tasks import track, track_reach
from tasks.artifacts import digest_of
from tasks.journal import Journal, journals
from tasks.reindex import reindex
from tasks.track import Tracker
from trainer.records import append_record

ROOT = Path(__file__).parents[2]
IDENTITY = {"start": "s"}
DIGEST = digest_of(IDENTITY)
LOCK = """
import sqlite3, sys
held = sqlite3.connect(sys.argv[1], isolation_level=None)
held.execute("BEGIN EXCLUSIVE")
print("locked", flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """The bytes of a store without runs: making its tables takes seconds."""
    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path.read_bytes()


@pytest.fixture
def store(empty_store, tmp_path):
    path = tmp_path / "mlflow.db"
    path.write_bytes(empty_store)
    return path


@pytest.fixture(autouse=True)
def impatient(monkeypatch):
    monkeypatch.setattr(track_reach, "PATIENCE", 1)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "1")
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")


@contextmanager
def locked(path: Path):
    """The file held by another process, as a backup or a stuck server holds it."""
    holder = subprocess.Popen(
        [sys.executable, "-c", LOCK, str(path)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    try:
        assert holder.stdout.readline() == "locked\n"
        yield
    finally:
        holder.communicate()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def step(number: int) -> dict:
    return {"step": number, "time": 1.7e9 + number, "loss": number / 2, "reward/mean": 1.0}


def train(tracker, folder: Path, steps: int, at=lambda number: None, first=1):
    """A pipeline of one stage that makes its steps; `at` is called before each. Our two ids."""
    given = {"folder": folder, "first_step": first, "steps_before": 0}
    digest = {"stagecraft.config_digest": DIGEST}
    with (
        tracker.pipeline_run({"seed": 0}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {"lr": 0.1}, digest, **given) as child,
    ):
        manifest = json.loads((folder / "stage.json").read_text())
        manifest["attempts"].append({"run": child.id, "first_step": first, "outcome": "running"})
        (folder / "stage.json").write_text(json.dumps(manifest))
        for number in range(first, steps + 1):
            at(number)
            append_record(folder / "metrics.jsonl", step(number))
            child.log_step(step(number))
    return pipeline, child.id


@pytest.fixture
def folder(tmp_path):
    """A stage's folder with as much of a manifest as tracking reads."""
    place = tmp_path / "out" / "stages" / f"short-{DIGEST[:12]}"
    place.mkdir(parents=True)
    manifest = {"kind": "stage", "name": "short", "attempts": [], "outcome": "running"}
    manifest |= {"identity": IDENTITY, "digest": DIGEST}
    (place / "stage.json").write_text(json.dumps(manifest))
    return place


def runs(uri: str, experiment: str = "lab") -> dict:
    """MLflow's runs by our ids; and that there is but one of each."""
    client = MlflowClient(uri)
    found = client.search_runs([client.get_experiment_by_name(experiment).experiment_id])
    by_id = {run.data.tags["stagecraft.id"]: run for run in found}
    assert len(by_id) == len(found)
    return by_id


def curve(uri: str, run) -> list[tuple]:
    points = MlflowClient(uri).get_metric_history(run.info.run_id, "loss")
    return sorted((point.step, point.value) for point in points)


def whole(steps: int) -> list[tuple]:
    return [(number, number / 2) for number in range(1, steps + 1)]


def assert_whole(uri: str, ids, steps: int, status: str = "FINISHED") -> None:
    there = runs(uri)
    for name in ids:
        assert curve(uri, there[name]) == whole(steps)
        assert there[name].info.status == status
    assert there[ids[1]].data.params == {"lr": "0.1"}
    assert there[ids[1]].data.tags["mlflow.parentRunId"] == there[ids[0]].info.run_id


def test_a_locked_database_stops_nothing_is_told_once_and_gets_all_by_the_next_run(
    store, folder, tmp_path, capsys
):
    tracker = Tracker(tmp_path / "out", "lab", f"sqlite:///{store}")
    began = time.monotonic()
    with locked(store):
        ids = train(tracker, folder, 30)
    assert time.monotonic() - began < 8  # two tries of a second each, and starting the other one
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1
    assert f"MLflow at sqlite:///{store} takes no metrics: " in said and "locked" in said
    assert f"stagecraft reindex --output {tmp_path / 'out'}" in said
    assert f"each step is in metrics.jsonl in its stage's folder below {folder.parent}" in said

    with Tracker(tmp_path / "out", "lab", tracker.uri).pipeline_run({}, {}):
        assert_whole(tracker.uri, ids, 30)


def test_a_database_that_is_locked_in_the_middle_gets_what_it_missed_in_the_same_stage(
    store, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(track, "RETRY", 0.0)
    monkeypatch.setattr(track, "_SHARE", 1.0)
    tracker = Tracker(tmp_path / "out", "lab", f"sqlite:///{store}")
    lock = locked(store)

    def at(number):
        if number == 4:
            lock.__enter__()
        if number == 7:
            lock.__exit__(None, None, None)

    ids = train(tracker, folder, 9, at)
    assert_whole(tracker.uri, ids, 9)
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1 and said.count("and has caught up") == 1
    assert all(Journal.read(each).delivered for each in journals(tmp_path / "out"))


def test_a_read_only_database_stops_nothing(store, folder, tmp_path, capsys):
    with Tracker(tmp_path / "out", "lab", f"sqlite:///{store}").pipeline_run({}, {}):
        pass
    read_only = f"sqlite:///file:{store}?mode=ro&uri=true"
    ids = train(Tracker(tmp_path / "out", "lab", read_only), folder, 3)
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1 and "attempt to write a readonly database" in said
    assert reindex(tmp_path / "out", f"sqlite:///{store}").stages == 1
    assert_whole(f"sqlite:///{store}", ids, 3)


@pytest.mark.parametrize("place", ["/proc/nowhere/mlflow.db", "/dev/null/mlflow.db"])
def test_a_folder_that_cannot_be_written_stops_nothing(place, folder, tmp_path, capsys):
    began = time.monotonic()
    train(Tracker(tmp_path / "out", "lab", f"sqlite:///{place}"), folder, 3)
    assert time.monotonic() - began < 8
    assert capsys.readouterr().out.count("WARNING") == 1


def test_a_dead_server_costs_seconds_and_reindex_delivers(store, folder, tmp_path, capsys):
    uri = f"http://127.0.0.1:{free_port()}"
    tracker = Tracker(tmp_path / "out", "lab", uri)
    began = time.monotonic()
    ids = train(tracker, folder, 200)
    assert time.monotonic() - began < 8
    said = capsys.readouterr().out
    assert said.count("WARNING") == 1 and f"MLflow at {uri}" in said and "refused" in said
    # To another store, for instance the file that the server will show.
    assert reindex(tmp_path / "out", f"sqlite:///{store}").stages == 1
    assert_whole(f"sqlite:///{store}", ids, 200)


def test_a_server_that_takes_a_request_and_never_answers_costs_seconds(folder, tmp_path, capsys):
    with socket.socket() as deaf:
        deaf.bind(("127.0.0.1", 0))
        deaf.listen()
        tracker = Tracker(tmp_path / "out", "lab", f"http://127.0.0.1:{deaf.getsockname()[1]}")
        began = time.monotonic()
        train(tracker, folder, 200)
    assert time.monotonic() - began < 8
    assert capsys.readouterr().out.count("WARNING") == 1


def test_a_failure_while_mlflow_is_away_is_told_later(store, folder, tmp_path):
    def at(number):
        if number == 3:
            raise RuntimeError("no progress and no line in the log for 1800 s: stopped")

    tracker = Tracker(tmp_path / "out", "lab", f"sqlite:///{store}")
    with locked(store), pytest.raises(RuntimeError):
        train(tracker, folder, 9, at)
    with Tracker(tmp_path / "out", "lab", tracker.uri).pipeline_run({}, {}) as after:
        pass
    there = runs(tracker.uri)
    assert there.pop(after).info.status == "FINISHED"
    for run in there.values():
        assert run.info.status == "FAILED"
        assert "no progress" in run.data.tags["stagecraft.reason"]
        assert curve(tracker.uri, run) == whole(2)


KILLED = """
import sys
sys.path[:0] = [sys.argv[1], sys.argv[1] + "/tests/tasks"]
from pathlib import Path
from tasks import track_reach
from tasks.track import Tracker
from test_track_away import train

track_reach.PATIENCE = 1

def at(number):
    if number == 3:
        print("trains", flush=True)
        sys.stdin.readline()

train(Tracker(Path(sys.argv[2]), "lab", sys.argv[3]), Path(sys.argv[4]), 9, at)
"""


@pytest.mark.parametrize("away", [False, True], ids=["with MLflow", "without MLflow"])
def test_a_killed_stage_ends_killed_and_the_attempt_after_it_has_the_whole_curve(
    away, store, folder, tmp_path
):
    uri = f"sqlite:///{store}"
    words = [sys.executable, "-c", KILLED, ROOT, tmp_path / "out", uri, folder]
    with locked(store) if away else open(os.devnull):
        child = subprocess.Popen(
            [str(word) for word in words], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        while child.stdout.readline() not in ("trains\n", ""):
            pass
        os.kill(child.pid, signal.SIGKILL)
        child.communicate()
    assert child.returncode == -signal.SIGKILL
    [dead] = journals(tmp_path / "out")
    killed = Journal.read(dead)
    assert [run.outcome for run in (killed.run, *killed.children)] == ["running"] * 2
    if not away:
        assert {run.info.status for run in runs(uri).values()} == {"RUNNING"}

    # Whoever runs next, on whichever host, finds that nobody holds it.
    killed.host = "another-host"
    killed.write()
    (folder / "metrics.jsonl").write_text(json.dumps(step(1)) + "\n")  # from the checkpoint on
    ids = train(Tracker(tmp_path / "out", "lab", uri), folder, 5, first=2)
    assert_whole(uri, ids, 5)
    there = runs(uri)
    for name in (killed.run.id, killed.children[0].id):
        assert there[name].info.status == "KILLED"
        assert "another-host" in there[name].data.tags["stagecraft.reason"]
        steps = [number for number, _ in curve(uri, there[name])]
        assert steps[:1] == [1] and len(set(steps)) == len(steps)


# --- a real server -----------------------------------------------------------------------------


class Server:
    """MLflow's own server on a file, on one port, to be killed and started again."""

    def __init__(self, store: Path, log: Path):
        self.store, self.log = store, log
        self.port = free_port()
        self.uri = f"http://127.0.0.1:{self.port}"
        self.process = None

    def start(self) -> None:
        words = ["-m", "mlflow", "server", "--host", "127.0.0.1", "--port", str(self.port)]
        words += ["--workers", "1", "--backend-store-uri", f"sqlite:///{self.store}"]
        words += ["--artifacts-destination", str(self.store.parent / "artifacts")]
        self.process = subprocess.Popen(
            [sys.executable, *words],
            stdout=self.log.open("ab"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
            env={**os.environ, **telemetry.OFF, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"},
        )
        deadline = time.monotonic() + 90
        while True:
            with suppress(OSError), urlopen(f"{self.uri}/health", timeout=5) as answer:
                if answer.status == 200:
                    return
            assert self.process.poll() is None and time.monotonic() < deadline, self.log.read_text()
            time.sleep(0.2)

    def kill(self) -> None:
        if self.process and self.process.poll() is None:
            os.killpg(self.process.pid, signal.SIGKILL)
            self.process.wait()


@pytest.fixture
def server(store, tmp_path):
    server = Server(store, tmp_path / "server.log")
    yield server
    server.kill()


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_server_that_is_killed_twice_in_a_stage_has_each_step_once_in_the_end(
    server, folder, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(track, "RETRY", 0.0)
    monkeypatch.setattr(track, "_SHARE", 1.0)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    server.start()
    tracker = Tracker(tmp_path / "out", "lab", server.uri)

    def at(number):
        if number in (4, 12):
            server.kill()
        if number == 8:
            server.start()

    ids = train(tracker, folder, 15, at)
    server.start()
    there = runs(server.uri)
    assert {run.info.status for run in there.values()} == {"RUNNING"}  # it was away at the end
    with Tracker(tmp_path / "out", "lab", server.uri).pipeline_run({}, {}):
        pass
    assert_whole(server.uri, ids, 15)
    said = capsys.readouterr().out
    assert said.count("WARNING") == 2 and said.count("and has caught up") == 1


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_a_report_reaches_a_server_that_came_too_late(server, folder, tmp_path, monkeypatch):
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_TIMEOUT", "20")
    tracker = Tracker(tmp_path / "out", "lab", server.uri)
    report = tmp_path / "out" / "reports" / "lab"
    report.mkdir(parents=True)
    (report / "report.html").write_text("<p>")
    with tracker.pipeline_run({}, {}) as pipeline:
        tracker.log_report(pipeline, report)
    server.start()
    reindex(tmp_path / "out", server.uri)
    run = runs(server.uri)[pipeline]
    [file] = MlflowClient(server.uri).list_artifacts(run.info.run_id, "report")
    assert file.path == "report/report.html" and run.info.status == "FINISHED"


def test_a_process_killed_while_it_makes_the_database_leaves_none_that_is_half_made(tmp_path):
    """MLflow makes its tables in dozens of steps, and can go on after none of them."""
    store = tmp_path / "mlflow.db"
    code = (
        "import sys\n"
        "from tasks.track_reach import reached\n"
        "with reached(f'sqlite:///{sys.argv[1]}') as client: client.create_experiment('x')\n"
    )
    own = {**os.environ, "XDG_CACHE_HOME": str(tmp_path / "cache")}  # there is none to copy
    made = subprocess.Popen([sys.executable, "-c", code, store], cwd=ROOT, env=own)
    deadline = time.monotonic() + 120
    # Its journal, which comes and goes, ends in -journal.
    while not any(path.stat().st_size > 20_000 for path in tmp_path.glob(".mlflow.db.*[!l]")):
        assert made.poll() is None and time.monotonic() < deadline
        time.sleep(0.005)
    made.kill()
    made.wait(10)
    assert not store.exists()
    subprocess.run([sys.executable, "-c", code, store], cwd=ROOT, check=True, timeout=120)
    with closing(sqlite3.connect(store)) as file:
        assert ("x",) in file.execute("SELECT name FROM experiments").fetchall()
    left = {path.name.removesuffix("-journal") for path in tmp_path.glob(".mlflow.db.*")}
    assert len(left) == 1  # of what was killed
