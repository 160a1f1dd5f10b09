"""The matrix in a minute: real flows' steps, guards and stores; a stand-in learns (stand_in.py)."""

import random
import re
import shutil
import signal
import sqlite3
import time
from functools import partial
from pathlib import Path

import pytest
import truth
from attempts import manifests
from stand_in_trainer import prompts_in_order

from tasks.reindex import reindex

pytestmark = pytest.mark.timeout(600)
SETTINGS = ["experiment=lab/smoke", "stages.0.steps=12", "stages.1.steps=3"]
STAND_IN = "a stand-in"
NOTHING = {"processes": [], "shared memory": [], "scratch": []}
faults_of = partial(truth.faults_of, sampler=prompts_in_order)


def checkpoints(output: Path) -> list[dict]:
    return [manifest["checkpoint"] for manifest in manifests(output)]


@pytest.fixture
def start(attempts):
    return partial(attempts, module="stand_in")


@pytest.fixture(scope="module")
def trained(tmp_path_factory, attempts) -> Path:
    """An output folder with both stages finished; copy it, for others need it too."""
    output = tmp_path_factory.mktemp("trained") / "outputs"
    run = attempts(output, *SETTINGS, module="stand_in")
    assert run.end(170) == 0, run.text
    assert run.left() == NOTHING and faults_of(output) == []
    return output


@pytest.fixture
def finished(trained, tmp_path) -> Path:
    """A finished experiment of its own, in the place where it was trained."""
    kept = tmp_path / "kept"
    shutil.copytree(trained, kept)
    yield trained
    shutil.rmtree(trained)
    shutil.copytree(kept, trained)


@pytest.mark.parametrize("part", ["the flow", "the guard"])
def test_whatever_is_killed_nothing_is_left_and_the_next_run_goes_on(part, start, tmp_path, row):
    row.fault, row.trainer = f"SIGKILL of {part}", STAND_IN
    output = tmp_path / "outputs"
    run = start(output, *SETTINGS, "wait=0.3")
    run.wait_for(r"step 2/12", 170)
    time.sleep(random.Random(part).random())
    run.kill(part)
    code = run.end(60)
    assert code == {"the flow": -signal.SIGKILL}.get(part, 1), run.text
    if part != "the flow":
        assert "the trainer was killed by SIGKILL; its last lines:" in run.text
    row.sees = f"exit {code}" + (
        ": the trainer was killed by SIGKILL, and its last lines" if code > 0 else ""
    )
    row.left = run.left()
    assert row.left == NOTHING
    assert faults_of(output) == []
    [made] = truth.recorded_steps(output).values()

    again = start(output, *SETTINGS)
    assert again.end(170) == 0, again.text
    assert f"resumes after step {made}\n" in again.text
    assert again.left() == NOTHING and faults_of(output) == []
    assert len(truth.finished_stages(output)) == 2
    row.kept, row.then = f"{made} steps, all that were made", truth.resumed(again.text)


def test_a_killed_stage_ends_where_its_transition_holds_and_a_collapse_goes_back(
    start, tmp_path, row
):
    row.fault, row.trainer = "SIGKILL of the flow, then a collapse in the next stage", STAND_IN
    output = tmp_path / "outputs"
    # Rewards are .01, .02, ...: the mean of two is above .04 from step 5 on, above .02 from 3 on.
    rising = "when:[{{metric:reward/mean,above:{},window:2}}]"
    settings = [*SETTINGS, f"stages.0.transition={{policy:any,{rising.format(0.04)}}}"]
    settings += [f"stages.1.alarm={{{rising.format(0.02)}}}"]
    run = start(output, *settings, "wait=0.3")
    run.wait_for(r"step 2/12", 170)
    run.kill("the flow")
    run.end(60)
    again = start(output, *settings)
    assert again.end(170) == 1, again.text
    assert "ended after step 5 of 12: reward/mean, its mean over steps 4 to 5, is above 0.04" in (
        again.text
    )
    assert "step 3: collapsed. reward/mean" in again.text
    assert "back at the checkpoint of step 1" in again.text
    assert faults_of(output) == [] and again.left() == NOTHING
    first, second = manifests(output)
    assert (first["steps"], first["ended_by"]) == (5, "transition")
    assert second["attempts"][0]["alarm"]["good"] == 1
    row.sees = "ended after step 5 of 12; then: step 3: collapsed, back at the checkpoint of step 1"
    row.left, row.kept, row.then = again.left(), "the steps before the collapse", "as before"


def test_what_was_damaged_is_told_and_made_again_without_a_step(start, finished, row):
    row.fault, row.trainer = "stage 1's manifest is cut, stage 2's weights truncated", STAND_IN
    before = manifests(finished)
    first, second = (Path(one["checkpoint"]["path"]).parent for one in before)
    manifest = first / "stage.json"
    manifest.write_text(manifest.read_text()[: manifest.stat().st_size // 2])
    with (second / "checkpoint" / "weights.bin").open("r+b") as file:
        file.truncate(1000)
    run = start(finished, *SETTINGS)
    assert run.end(170) == 0, run.text
    assert "stage.json was damaged" in run.text and "kept as stage.json.corrupt-" in run.text
    assert "is not what its manifest says; it is made again" in run.text
    assert not re.search(r" step \d+/", run.text)
    assert faults_of(finished) == []
    row.sees = "manifest: was damaged, kept as stage.json.corrupt-<time>; checkpoint: is made again"
    row.kept, row.then = "every step", f"{truth.resumed(run.text)}; the same checkpoints"
    assert checkpoints(finished) == [one["checkpoint"] for one in before]


def test_a_checkpoint_that_is_gone_with_what_it_came_from_is_trained_again(start, finished, row):
    row.fault, row.trainer = "a finished stage's checkpoint and state are deleted", STAND_IN
    before = checkpoints(finished)
    gone = Path(before[0]["path"])
    shutil.rmtree(gone)
    shutil.rmtree(gone.with_name("verl"))
    run = start(finished, *SETTINGS)
    assert run.end(170) == 0, run.text
    assert "is missing although its stage had finished; it is made again" in run.text
    assert len(re.findall(r"1-L1-64  step ", run.text)) == 12
    row.sees = "is missing although its stage had finished; it is made again"
    row.kept, row.then = "the stage after it", "12 steps of stage 1, and the same checkpoint"
    assert run.text.count("already trained") == 1  # the stage after it
    assert faults_of(finished) == []
    assert checkpoints(finished) == before


def test_two_pipelines_at_once_train_each_stage_once(start, tmp_path, row):
    row.fault, row.trainer = "two pipelines need the same stages", STAND_IN
    output = tmp_path / "outputs"
    first = start(output, *SETTINGS, "wait=0.3")
    first.wait_for(r"step 1/12", 170)
    second = start(output, *SETTINGS)
    second.wait_for(rf"is being made by process {first.process.pid}: waiting for it", 170)
    assert (first.end(170), second.end(170)) == (0, 0), first.text + second.text
    assert first.left() == second.left() == NOTHING
    assert faults_of(output) == []
    row.sees = "the second: is being made by process N: waiting for it"
    row.kept, row.then = "one folder for each stage", "none is needed"
    for line in [f"1-L1-64  step {n}/12" for n in range(1, 13)] + ["2-L2-96  step 3/3"]:
        assert (first.text + second.text).count(line) == 1, line


def test_a_locked_database_stops_no_training_and_misses_nothing(start, tmp_path, mlflow_of, row):
    row.fault, row.trainer = "MLflow's database is locked for 8 s", STAND_IN
    output = tmp_path / "outputs"
    run = start(output, *SETTINGS, "wait=0.5")
    run.wait_for(r"step 1/12", 170)
    database = sqlite3.connect(output / "mlflow.db", isolation_level=None, timeout=20)
    database.execute("BEGIN EXCLUSIVE")
    time.sleep(8)
    database.execute("COMMIT")
    assert run.end(170) == 0, run.text
    assert faults_of(output) == []
    assert mlflow_of(f"sqlite:///{output / 'mlflow.db'}") == {"1-L1-64": 12, "2-L2-96": 3}
    row.sees, row.kept, row.then = "the run goes on", "every step, in MLflow too", "none is needed"


def test_mlflow_that_never_answers_stops_no_training_and_gets_all_later(
    start, tmp_path, mlflow_of, row
):
    row.fault, row.trainer = "MLflow does not answer from the start", STAND_IN
    output = tmp_path / "outputs"
    nowhere = {"MLFLOW_TRACKING_URI": "http://127.0.0.1:9", "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1"}
    run = start(output, *SETTINGS, environment=nowhere)
    assert run.end(170) == 0, run.text
    assert "http://127.0.0.1:9" in run.text  # where it did not get through, loudly
    assert faults_of(output) == []
    row.sees = next(line for line in run.text.splitlines() if "http://127.0.0.1:9" in line)
    row.kept, row.then = "every step", "`stagecraft reindex` brings all of them"
    store = f"sqlite:///{output / 'mlflow.db'}"
    reindex(output, store=store)
    assert mlflow_of(store) == {"1-L1-64": 12, "2-L2-96": 3}
