"""Against real stores, sqlite files."""

import json
import shutil
from pathlib import Path

import pytest

from conf.load import load
from tasks.artifacts import folder_digest, read_json, write_json
from tasks.download import download
from tasks.evaluate import evaluation_digest
from tasks.reindex import reindex
from tasks.track import Tracker

SAMPLING = {"samples": 2, "temperature": 1.0, "engine": "torch"}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store without runs, to copy: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    Tracker(folder, "Default", f"sqlite:///{folder}/mlflow.db")
    return folder / "mlflow.db"


@pytest.fixture
def store(empty_store, tmp_path, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return f"sqlite:///{shutil.copy(empty_store, tmp_path / 'mlflow.db')}"


@pytest.fixture
def smoke(tmp_path):
    return load("experiment=lab/smoke", f"output={tmp_path / 'out'}")


def score(smoke, checkpoint: dict) -> None:
    """An evaluation on disk, as `tasks.evaluate` writes it."""
    benchmark = download(smoke.evaluation.benchmarks[0], smoke.data, smoke.output)
    manifest = {
        "kind": "evaluation",
        "benchmark": benchmark.name,
        "checkpoint": {key: str(value) for key, value in checkpoint.items()},
        "data_digest": benchmark.digest,
        "sampling": SAMPLING,
        "problems": benchmark.rows,
        "metrics": {"k": 2, "avg_at_k": 0.5, "response_length_wrong": None},
        "tokens": 9,
        "seconds": 4.0,
        "environment": {"git_commit": "c0ffee"},
    }
    digest = evaluation_digest(checkpoint["digest"], benchmark.digest, SAMPLING)
    folder = f"{smoke.output}/evaluations/{benchmark.name}-{digest[:12]}"
    write_json(f"{folder}/evaluation.json", manifest)


@pytest.fixture
def done(smoke, train):
    """Two finished stages, each scored, and the base."""
    stages = train(smoke)
    score(smoke, stages[0]["start"])
    for stage in stages:
        score(smoke, stage["checkpoint"])
    return stages


def runs(smoke, store, **tags):
    tracker = Tracker(smoke.output, smoke.name, store)
    return tracker, [
        tracker._client.get_run(run_id) for run_id in reversed(tracker.finished_runs(**tags))
    ]


def test_a_fresh_store_gets_every_stage_and_score_with_all_it_had(smoke, store, done):
    made = reindex(smoke.output, store)
    assert (made.stages, made.evaluations, made.found, made.remarks) == (2, 3, 0, [])

    tracker, [parent] = runs(smoke, store, kind="pipeline")
    assert parent.info.run_name == f"reindexed {smoke.output}"
    _, found = runs(smoke, store, kind="stage")
    first, second = sorted(found, key=lambda run: run.info.run_name)
    manifest = done[0]
    assert first.info.run_name == "1-L1-64"
    assert first.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert first.data.params["stage.steps"] == "2" and first.data.params["seed"] == "0"
    assert first.info.start_time == int(manifest["attempts"][0]["started"] * 1000)
    assert first.info.end_time == int(manifest["attempts"][0]["ended"] * 1000)
    curve = tracker._client.get_metric_history(first.info.run_id, "reward/mean")
    assert [(point.step, point.value) for point in curve] == [(1, 0.125), (2, 0.25)]
    assert curve[0].timestamp == int((1.7e9 + 1) * 1000)
    [data] = first.inputs.dataset_inputs
    assert data.dataset.name == "lab_train-L1"
    assert json.loads(data.dataset.profile) == {"num_rows": manifest["data"]["rows"]}
    [model] = first.outputs.model_outputs
    tags = tracker._client.get_logged_model(model.model_id).tags
    assert tags["stagecraft.uri"] == (manifest["folder"] / "checkpoint").as_uri()
    assert tags["stagecraft.digest"] == folder_digest(manifest["folder"] / "checkpoint")
    assert second.data.tags["stagecraft.upstream_run"] == first.info.run_id

    _, scores = runs(smoke, store, kind="evaluation")
    by_name = {run.info.run_name: run for run in scores}
    assert set(by_name) == {f"{label} on lab_test" for label in ("base", "1-L1-64", "2-L2-96")}
    last = by_name["2-L2-96 on lab_test"]
    assert last.data.metrics == {"eval/lab_test/k": 2, "eval/lab_test/avg_at_k": 0.5}
    assert last.data.tags["stagecraft.upstream_run"] == second.info.run_id
    assert "stagecraft.upstream_run" not in by_name["base on lab_test"].data.tags


def test_again_adds_nothing_and_a_lost_run_comes_back(smoke, store, done):
    reindex(smoke.output, store)
    again = reindex(smoke.output, store)
    assert (again.stages, again.evaluations, again.found) == (0, 0, 5)

    tracker, [parent] = runs(smoke, store, kind="pipeline")
    _, [lost] = runs(smoke, store, kind="stage", name="2-L2-96")
    tracker._client.delete_run(lost.info.run_id)
    back = reindex(smoke.output, store)
    assert (back.stages, back.evaluations, back.found) == (1, 0, 4)
    _, [made] = runs(smoke, store, kind="stage", name="2-L2-96")
    assert made.data.tags["mlflow.parentRunId"] == parent.info.run_id


def test_runs_that_the_pipeline_made_are_left_alone(smoke, store, train):
    tracker = Tracker(smoke.output, smoke.name, store)
    with tracker.pipeline_run({}, {}) as parent:
        [stage] = train(smoke, stages=1, tracker=tracker, parent=parent)
        digest = evaluation_digest("x", "y", SAMPLING)
        with tracker.child_run(
            parent, "x", "evaluation", {}, {"stagecraft.config_digest": digest}
        ) as run:
            run.log_metrics({"score": 1})
    made = reindex(smoke.output, store)
    assert (made.stages, made.evaluations, made.found) == (0, 0, 1)
    _, [run] = runs(smoke, store, kind="stage")
    assert run.info.run_id == stage["mlflow_run_id"]


def test_a_score_from_before_the_grader_counted_is_found_by_its_folder(smoke, store, done):
    [folder] = (f for f in Path(smoke.output, "evaluations").iterdir() if "base" in
                (f / "evaluation.json").read_text().partition("digest")[0])  # fmt: skip
    folder.rename(folder.with_name("lab_test-0123456789ab"))
    assert reindex(smoke.output, store).evaluations == 3
    assert reindex(smoke.output, store).found == 5
    _, [run] = runs(smoke, store, digest="0123456789ab")
    assert run.info.run_name == "base on lab_test"


def test_an_attempt_that_failed_before_does_not_stand_for_the_stage(smoke, store, train):
    tracker = Tracker(smoke.output, smoke.name, store)
    with tracker.pipeline_run({}, {}) as parent, pytest.raises(RuntimeError):
        train(smoke, stop=(0, 1, RuntimeError("disk full")), tracker=tracker, parent=parent)
    train(smoke, stages=1)  # finished while nothing was kept
    made = reindex(smoke.output, store)
    assert (made.stages, made.found) == (1, 0)
    _, [run] = runs(smoke, store, kind="stage")
    assert run.data.tags["stagecraft.first_step"] == "1"
    curve = tracker._client.get_metric_history(run.info.run_id, "reward/mean")
    assert [point.step for point in curve] == [1, 2]  # the whole stage, not the last attempt


def test_a_score_of_a_stage_that_is_gone_is_not_taken_for_the_bases(smoke, store, done):
    shutil.rmtree(done[1]["folder"])
    assert reindex(smoke.output, store).evaluations == 3
    tracker = Tracker(smoke.output, "reindexed", store)
    [lost] = tracker.finished_runs(kind="evaluation")
    name = tracker._client.get_run(lost).info.run_name
    assert name == f"{done[1]['folder'].name} on lab_test"


def test_unfinished_and_damaged_stages_are_left_out_and_told(smoke, store, train):
    stages = train(smoke)
    (stages[0]["folder"] / "metrics.jsonl").write_text("{broken\n")
    shutil.rmtree(stages[1]["folder"] / "checkpoint")
    shutil.rmtree(smoke.output + "/data")
    third = stages[1]["folder"].with_name("3-x-0123456789ab")
    write_json(third / "stage.json", {"kind": "stage"})
    made = reindex(smoke.output, store)
    assert made.stages == 1
    damaged, first, second = made.remarks
    assert "was damaged" in damaged and "is left out" in first
    assert "its checkpoint is gone" in second
    _, [run] = runs(smoke, store, kind="stage")
    assert run.info.run_name == "2-L2-96" and not run.outputs.model_outputs
    assert run.inputs.dataset_inputs[0].dataset.name == "lab_train-L2"  # by the manifest alone


def test_stages_of_before_the_manifest_named_its_experiment_find_a_place(smoke, store, done):
    for stage in done:
        path = stage["folder"] / "stage.json"
        manifest = read_json(path)
        del manifest["experiment"]
        write_json(path, manifest)
    reindex(smoke.output, store)
    tracker = Tracker(smoke.output, "reindexed", store)
    assert len(tracker.finished_runs(kind="stage")) == 2


def test_a_base_that_two_experiments_share_is_scored_in_both(smoke, store, done, train):
    twin = smoke.model_copy(update={"name": "twin", "seed": 1})
    train(twin, stages=1)
    made = reindex(smoke.output, store)
    assert made.evaluations == 4
    _, scores = runs(twin, store, kind="evaluation")
    assert [run.info.run_name for run in scores] == ["base on lab_test"]


def test_an_output_folder_may_have_a_quote_in_its_name(smoke, store, train, tmp_path):
    other = smoke.model_copy(update={"output": str(tmp_path / "o'hara")})
    train(other, stages=1)
    (tmp_path / "o'hara" / "evaluations" / "x").mkdir(parents=True)
    write_json(tmp_path / "o'hara/evaluations/x/evaluation.json", {"kind": "evaluation"})
    made = reindex(other.output, store)
    assert made.stages == 1 and made.remarks == ["x is left out, its manifest is damaged"]
    train(other)
    assert reindex(other.output, store).stages == 1
    assert len(runs(other, store, kind="pipeline")[1]) == 1


def test_a_folder_that_is_not_there_is_refused(tmp_path, store):
    with pytest.raises(ValueError, match=r"no folder .*nowhere\n\nhint: "):
        reindex(tmp_path / "nowhere", store)
