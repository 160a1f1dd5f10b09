"""Flows without learning and sampling: stand-ins for the two processes that take the time."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from itertools import pairwise
from pathlib import Path
from statistics import mean, stdev
from types import SimpleNamespace

import pytest
from prefect.logging.handlers import APILogWorker
from prefect.settings import PREFECT_API_URL, temporary_settings
from prefect.settings import PREFECT_FLOWS_HEARTBEAT_FREQUENCY as HEARTBEAT

from flows.temporary_server import TemporaryServer
from tasks import generations
from tasks import train_stage as training
from tasks.artifacts import read_json
from tasks.stages import alone
from trainer.generate import Request, Response, made, missing, write_part
from trainer.lab import BASE
from trainer.records import append_record, read_records


def pytest_addoption(parser):
    parser.addoption("--methods-table", help="folder to write methods.md to")


@pytest.fixture(scope="session")
def empty_prefect(tmp_path_factory) -> Path:
    """An empty database of Prefect: to make its tables takes longer than all that is done with it.

    One for all processes of pytest.
    """
    base = tmp_path_factory.getbasetemp()
    folder = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "prefect-empty"
    with alone(folder):
        if not (folder / "prefect.db").exists():
            home = tmp_path_factory.mktemp("prefect")
            subprocess.run(
                [sys.executable, "-m", "prefect", "server", "database", "upgrade", "--yes"],
                env={**os.environ, "PREFECT_HOME": str(home)},
                capture_output=True,
                check=True,
            )
            os.replace(home / "prefect.db", folder / "prefect.db")
    return folder / "prefect.db"


@pytest.fixture(scope="session")
def prefect_home(empty_prefect, tmp_path_factory) -> Callable[[], str]:
    """The function that makes a folder for Prefect, with an empty database."""

    def make() -> str:
        home = tmp_path_factory.mktemp("prefect")
        shutil.copyfile(empty_prefect, home / "prefect.db")
        return str(home)

    return make


@pytest.fixture(scope="session")
def prefect_server(prefect_home) -> str:
    """The address of a server with a database of its own: one for all, since it takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PREFECT_HOME", prefect_home())
        patch.delenv("PREFECT_API_URL", raising=False)
        server = TemporaryServer()
    yield server.wait()
    # What Prefect has yet to send it would try to send for a minute, to a server that is gone.
    APILogWorker.drain_all(timeout=60)
    server.end()


@pytest.fixture(scope="module")
def prefect(prefect_server):
    """Flows of this process are kept there."""
    # As with a temporary server: the thread of signs of life sleeps through a flow's end.
    with temporary_settings({PREFECT_API_URL: prefect_server, HEARTBEAT: None}):
        yield


@pytest.fixture(scope="module")
def mlflow_store(tmp_path_factory):
    """One database for all tests of a module, which work beside it: making one takes seconds."""
    with pytest.MonkeyPatch.context() as patch:
        store = tmp_path_factory.mktemp("store") / "mlflow.db"
        patch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{store}")
        patch.chdir(store.parent)
        yield


@pytest.fixture
def output(tmp_path) -> str:
    return str(tmp_path / "out")


@pytest.fixture
def quick(monkeypatch) -> SimpleNamespace:
    """Stages and scores take no time.

    `trained` and `scored` are the folders that did run; `begun` is how many of them had, each time
    that the trainer of a next stage was begun.
    """
    done = SimpleNamespace(trained=[], scored=[], begun=[])

    def launch(folder: Path, *_, first_step, on_step, **__):
        stage = read_json(folder / "stage.json")["settings"]["stage"]
        for step in range(first_step, stage["steps"] + 1):
            append_record(folder / "metrics.jsonl", _record(step, stage))
            on_step(_record(step, stage))
        shutil.copytree(BASE, folder / "checkpoint")  # for its tokenizer
        (folder / "checkpoint" / "model.safetensors").write_text(f"weights of {folder.name}")
        (folder / "checkpoint" / "handoff.json").write_text(json.dumps({"parameters": 3}))
        done.trained.append(stage["name"])

    def sample(_module, arguments, **_) -> int:
        folder = Path(arguments[0])
        asked = read_json(folder / "request.json")
        wanted = missing(Request(**asked), made(folder))
        write_part(folder, [Response(*job, "</think>\\boxed{0}", 5, False) for job in wanted], 2.0)
        done.scored.append(asked["checkpoint"])
        return 0

    monkeypatch.setattr(training, "launch", launch)
    monkeypatch.setattr(generations, "run_guarded", sample)
    monkeypatch.setattr(
        training, "begin_ahead", lambda *_: done.begun.append((len(done.trained), len(done.scored)))
    )
    return done


def _record(step: int, stage: dict) -> dict:
    return {
        "step": step,
        "time": 1.7e9 + step,
        "reward/mean": step / 8,
        "truncated_share": 0.0,
        "response_length/mean": 20.0,
        "tokens_per_second": 1000.0,
        "seconds/step": 2.0,
        "updates": stage["batch_size"] // stage["mini_batch_size"],
        "prompts": stage["batch_size"],
        "rollouts": stage["batch_size"] * stage["group_size"],
        "tokens/generated": 640,
        "tokens/trained": 640,
    }


@pytest.fixture(scope="session")
def groups_not_together():
    """The function that checks recorded advantages; see `_groups_not_together`."""
    return _groups_not_together


def _groups_not_together(path: Path, steps: int) -> int:
    """Check what each update of a stage was given against grpo by hand, prompt by prompt.

    Args:
        path: `advantages.jsonl`, kept where STAGECRAFT_KEEP_ADVANTAGES is set.
        steps: Steps that it holds, each made once or more.

    Returns:
        Steps in which the rows of a prompt did not lie together: there, advantages by position
        would have failed.
    """
    records = read_records(path)
    assert {record["step"] for record in records} == set(range(1, steps + 1))
    scattered = 0
    for record in records:
        groups: dict[str, list[dict]] = {}
        for rollout in record["rollouts"]:
            groups.setdefault(rollout["prompt"], []).append(rollout)
        changes = sum(a["prompt"] != b["prompt"] for a, b in pairwise(record["rollouts"]))
        scattered += changes >= len(groups)
        for group in groups.values():
            rewards = [rollout["reward"] for rollout in group]
            assert len(rewards) == 4  # the smoke experiment's
            for rollout in group:
                expected = (rollout["reward"] - mean(rewards)) / (stdev(rewards) + 1e-6)
                found = rollout["advantages"]
                assert found == pytest.approx([expected] * len(found), abs=1e-4)
        assert any(rollout["advantages"][0] for rollout in record["rollouts"])
    return scattered
