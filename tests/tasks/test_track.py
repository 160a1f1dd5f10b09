"""Runs against a real MLflow store, a sqlite file."""

import json
import math
import os
import subprocess
import sys
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tasks.track import Tracker, flat, lineage_tags, metric_name, store_uri


@dataclass
class Problems:
    """As much of a data set as tracking reads."""

    path: Path
    name: str = "train"
    digest: str = "ab" * 32
    rows: int = 40_315
    manifest: dict = field(default_factory=lambda: {"columns": ["id", "prompt"]})


@pytest.fixture(scope="module")
def output(tmp_path_factory):
    """One store for all tests here: making its tables takes seconds."""
    return tmp_path_factory.mktemp("output")


@pytest.fixture
def tracker(output, request, monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    return Tracker(output, request.node.name)


def run_of(tracker, run_id):
    return tracker._client.get_run(run_id)


def test_a_stage_keeps_its_settings_steps_data_and_lineage_below_its_pipeline(tracker, tmp_path):
    with (
        tracker.pipeline_run({"seed": 0}, lineage_tags(git_commit="c0ffee")) as pipeline,
        tracker.child_run(
            pipeline,
            "short",
            "stage",
            flat({"stage": {"steps": 2}}),
            lineage_tags(config_digest="d1", upstream_run="r1", checkpoint_digest="e1"),
            [Problems(tmp_path / "prompts.parquet")],
            first_step=10,
        ) as child,
    ):
        child.log_step({"reward/mean": 0.25, "avg@8": 0.5, "note": "text", "absent": None}, 1)
        child.log_step({"reward/mean": 0.5, "grad_norm": math.nan}, 2)

    run = run_of(tracker, child.run_id)
    assert run.info.status == "FINISHED" and run.info.run_name == "short"
    assert run.data.params == {"stage.steps": "2"}
    assert run.data.tags["mlflow.parentRunId"] == pipeline
    assert {
        "stagecraft.kind": "stage",
        "stagecraft.config_digest": "d1",
        "stagecraft.upstream_run": "r1",
        "stagecraft.checkpoint_digest": "e1",
    }.items() <= run.data.tags.items()
    assert child.logged == 4
    steps = tracker._client.get_metric_history(child.run_id, "reward/mean")
    assert [(point.step, point.value) for point in steps] == [(1, 0.25), (2, 0.5)]
    assert run.data.metrics["avg_at_8"] == 0.5
    assert math.isnan(run.data.metrics["grad_norm"])

    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("train", ("ab" * 32)[:36])
    assert json.loads(data.dataset.profile) == {"num_rows": 40_315}
    assert {tag.key: tag.value for tag in data.tags}["stagecraft.digest"] == "ab" * 32

    parent = run_of(tracker, pipeline)
    assert parent.info.status == "FINISHED" and parent.data.params == {"seed": "0"}
    assert parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
    curve = tracker._client.get_metric_history(pipeline, "reward/mean")
    assert [point.step for point in curve] == [11, 12]


def test_a_checkpoint_is_recorded_by_reference(tracker, tmp_path):
    folder = tmp_path / "long-0123" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    with (
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "long", "stage", {}, {}) as child,
    ):
        child.log_metrics({"loss": 1})
        model_id = child.log_checkpoint(folder, "f" * 64, step=16)
    model = tracker._client.get_logged_model(model_id)
    assert model.status == "READY" and model.source_run_id == child.run_id
    assert model.tags["stagecraft.uri"] == folder.as_uri()
    assert model.tags["stagecraft.digest"] == "f" * 64
    [made] = run_of(tracker, child.run_id).outputs.model_outputs
    assert (made.model_id, made.step) == (model_id, 16)
    assert not list((tmp_path.parent).rglob("mlartifacts/**/model.safetensors"))


def test_a_failure_is_told_and_handed_on(tracker):
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}) as child,
    ):
        raise RuntimeError("out of memory")
    for run_id in (pipeline, child.run_id):
        run = run_of(tracker, run_id)
        assert run.info.status == "FAILED"
        assert "out of memory" in run.data.tags["stagecraft.error"]


@pytest.mark.parametrize("wish", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_ends_killed(tracker, wish):
    with (
        pytest.raises(wish),
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}) as child,
    ):
        raise wish
    assert {run_of(tracker, run).info.status for run in (pipeline, child.run_id)} == {"KILLED"}


def test_a_stage_without_metrics_fails(tracker):
    with (
        pytest.raises(ValueError, match=r"stage 'short' ended without a single metric.*\n\nhint: "),
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}) as child,
    ):
        child.log_step({"note": "no number"}, 1)
    assert run_of(tracker, child.run_id).info.status == "FAILED"


def test_a_second_attempt_may_have_other_settings(tracker):
    with tracker.pipeline_run({}, {}) as pipeline:
        for first in (1, 5):
            with tracker.child_run(pipeline, "short", "stage", {"first": first}, {}) as child:
                child.log_step({"loss": 1}, first)
    run = run_of(tracker, child.run_id)
    assert run.data.tags["stagecraft.attempt"] == "2" and run.data.params == {"first": "5"}


def test_long_settings_are_cut_and_stay_distinguishable(tracker):
    with tracker.pipeline_run({"a": "x" * 9_000, "b": "x" * 9_001, "c": "short"}, {}) as pipeline:
        pass
    params = run_of(tracker, pipeline).data.params
    assert params["a"] != params["b"] and len(params["a"]) <= 6_000 and params["c"] == "short"


def test_more_settings_and_metrics_than_mlflow_takes_at_once_are_all_kept(tracker):
    many = {f"m{index}": index for index in range(1_200)}
    with tracker.pipeline_run(dict(list(many.items())[:250]), {}) as pipeline:
        tracker.log(pipeline, many, step=3)
    run = run_of(tracker, pipeline)
    assert len(run.data.params) == 250 and run.data.metrics == many


def test_a_run_whose_process_was_killed_is_closed_by_the_next(tracker, output):
    left_open = (
        "import os, sys; from tasks.track import Tracker\n"
        "tracker = Tracker(sys.argv[1], sys.argv[2])\n"
        "with tracker.pipeline_run({}, {}) as run: print(run, flush=True); os._exit(9)\n"
    )
    name = tracker._client.get_experiment(tracker.experiment_id).name
    killed = subprocess.run(
        [sys.executable, "-c", left_open, output, name],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=120,
    )
    orphan = killed.stdout.strip()
    assert killed.returncode == 9 and not killed.stderr  # no chatter either
    assert run_of(tracker, orphan).info.status == "RUNNING"
    with tracker.pipeline_run({}, {}) as first, tracker.pipeline_run({}, {}):
        assert run_of(tracker, first).info.status == "RUNNING"  # its process lives
    assert run_of(tracker, orphan).info.status == "KILLED"


def test_the_report_is_kept_and_its_summary_shown(tracker, tmp_path):
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "reward.svg").write_text("<svg/>")
    (tmp_path / "report.html").write_text("<p>")
    (tmp_path / "report.md").write_text("# lab\n\nBetter.\n\n## Accuracy\n\n|a|\n\n## Cost\n\nx\n")
    with tracker.pipeline_run({}, {}) as pipeline:
        tracker.log_report(pipeline, tmp_path)
    kept = {file.path for file in tracker._client.list_artifacts(pipeline, "report")}
    assert kept == {"report/figures", "report/report.html", "report/report.md"}
    note = run_of(tracker, pipeline).data.tags["mlflow.note.content"]
    assert note == "# lab\n\nBetter.\n\n## Accuracy\n\n|a|\n"


def test_files_and_folders_can_be_kept_with_a_stage(tracker, tmp_path):
    (tmp_path / "settings.json").write_text("{}")
    with (
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "lab", "evaluation", {}, {}, require_metrics=False) as child,
    ):
        child.log_artifact(tmp_path / "settings.json")
        child.log_artifact(tmp_path, "all")
    files = {file.path for file in tracker._client.list_artifacts(child.run_id)}
    assert files == {"settings.json", "all"}


def test_a_deleted_experiment_is_restored(tracker, output):
    tracker._client.delete_experiment(tracker.experiment_id)
    name = tracker._client.get_experiment(tracker.experiment_id).name
    assert Tracker(output, name).experiment_id == tracker.experiment_id
    assert tracker._client.get_experiment(tracker.experiment_id).lifecycle_stage == "active"


def test_the_store_lies_below_the_output_folder_unless_the_environment_says_otherwise(monkeypatch):
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    assert store_uri("here") == f"sqlite:///{Path.cwd()}/here/mlflow.db"
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "sqlite:////elsewhere.db")
    assert store_uri("here") == "sqlite:////elsewhere.db"


@pytest.mark.parametrize(
    ("name", "admitted"),
    [
        ("reward/mean", "reward/mean"),
        ("eval/aime 2024/avg@16", "eval/aime 2024/avg_at_16"),
        ("val-core/(x)//acc", "val-core/_x_/acc"),
        ("/../a", "a"),
        ("", "_"),
    ],
)
def test_metric_names_become_what_mlflow_admits(tracker, name, admitted):
    assert metric_name(name) == admitted
    with tracker.pipeline_run({}, {}) as run:
        assert tracker.log(run, {name: 1}) == 1
    assert run_of(tracker, run).data.metrics == {admitted: 1}


def test_importing_tracking_does_not_import_mlflow():
    code = "import sys, tasks.track; sys.exit('mlflow' in sys.modules or 'pandas' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2]).returncode == 0
    )
