"""Runs against a real MLflow store, a sqlite file."""

import json
import math
import os
import subprocess
import sys
import time
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from mlflow import MlflowClient

from tasks import track, track_store
from tasks.artifacts import digest_of, write_json
from tasks.journal import Journal, Run, journals
from tasks.labels import flat, lineage_tags, metric_name
from tasks.track import Tracker, store_uri
from trainer.records import append_record

ROOT = Path(__file__).parents[2]


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


def client(tracker) -> MlflowClient:
    return MlflowClient(tracker.uri)


def run_of(tracker, name):
    """MLflow's run of one of ours."""
    at = client(tracker)
    experiment = at.get_experiment_by_name(tracker.experiment_name)
    [run] = at.search_runs([experiment.experiment_id], f"tags.`stagecraft.id` = '{name}'")
    return run


def curve(tracker, name, metric) -> list[tuple]:
    points = client(tracker).get_metric_history(run_of(tracker, name).info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def step(number, **metrics):
    return {"step": number, "time": 1.7e9 + number, **(metrics or {"loss": number / 2})}


def test_a_stage_keeps_its_settings_steps_data_and_lineage_below_its_pipeline(tracker, tmp_path):
    with (
        tracker.pipeline_run({"seed": 0}, lineage_tags(git_commit="c0ffee")) as pipeline,
        tracker.child_run(
            pipeline,
            "short",
            "stage",
            flat({"stage": {"steps": 2}}),
            lineage_tags(config_digest="d1", start_digest="e1"),
            [Problems(tmp_path / "prompts.parquet")],
            steps_before=10,
        ) as child,
    ):
        more = {"reward/mean": 0.25, "avg@8": 0.5, "note": "text", "absent": None}
        child.log_step({"step": 1, "time": 1.7e9, **more})
        child.log_step({"step": 2, "time": 1.7e9 + 5, "reward/mean": 0.5, "grad_norm": math.nan})

    run = run_of(tracker, child.id)
    assert run.info.status == "FINISHED" and run.info.run_name == "short"
    assert run.data.params == {"stage.steps": "2"}
    parent = run_of(tracker, pipeline)
    assert run.data.tags["mlflow.parentRunId"] == parent.info.run_id
    expected = {"stagecraft.kind": "stage", "stagecraft.config_digest": "d1"}
    assert expected.items() <= run.data.tags.items()
    assert set(run.data.metrics) == {"reward/mean", "avg_at_8", "grad_norm"}
    points = client(tracker).get_metric_history(run.info.run_id, "reward/mean")
    found = [(point.step, point.value, point.timestamp) for point in points]
    assert found == [(1, 0.25, 1_700_000_000_000), (2, 0.5, 1_700_000_005_000)]
    assert math.isnan(run.data.metrics["grad_norm"])

    [data] = run.inputs.dataset_inputs
    assert (data.dataset.name, data.dataset.digest) == ("train", ("ab" * 32)[:36])
    assert json.loads(data.dataset.profile) == {"num_rows": 40_315}
    assert {tag.key: tag.value for tag in data.tags}["stagecraft.digest"] == "ab" * 32

    assert parent.info.status == "FINISHED" and parent.data.params == {"seed": "0"}
    assert parent.data.tags["mlflow.source.git.commit"] == "c0ffee"
    assert curve(tracker, pipeline, "reward/mean") == [(11, 0.25), (12, 0.5)]


def test_a_checkpoint_is_recorded_by_reference_and_leads_to_the_run_that_made_it(tracker, tmp_path):
    folder = tmp_path / "long-0123" / "checkpoint"
    folder.mkdir(parents=True)
    (folder / "model.safetensors").write_bytes(b"weights")
    start, read = lineage_tags(start_digest="f" * 64), lineage_tags(checkpoint_digest="f" * 64)
    with tracker.pipeline_run({}, {}) as pipeline:
        with tracker.child_run(pipeline, "long", "stage", {}, {}) as child:
            child.log_checkpoint(folder, "f" * 64, step=16)
        with tracker.child_run(pipeline, "longer", "stage", {}, start) as after:
            pass
        with tracker.child_run(pipeline, "long on lab", "evaluation", {}, read) as score:
            pass
    run = run_of(tracker, child.id)
    [made] = run.outputs.model_outputs
    model = client(tracker).get_logged_model(made.model_id)
    assert made.step == 16
    assert model.status == "READY" and model.source_run_id == run.info.run_id
    assert model.tags["stagecraft.uri"] == folder.as_uri()
    assert model.tags["stagecraft.digest"] == "f" * 64
    assert not list((tmp_path.parent).rglob("mlartifacts/**/model.safetensors"))
    assert run.data.tags["stagecraft.checkpoint"] == folder.as_uri()
    for follower in (after, score):
        assert run_of(tracker, follower.id).data.tags["stagecraft.upstream_run"] == run.info.run_id


def test_a_failure_is_told_and_handed_on(tracker):
    with (
        pytest.raises(RuntimeError, match="out of memory"),
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}) as child,
    ):
        raise RuntimeError("out of memory")
    for name in (pipeline, child.id):
        run = run_of(tracker, name)
        assert run.info.status == "FAILED"
        assert run.data.tags["stagecraft.reason"] == "out of memory"


@pytest.mark.parametrize("wish", [KeyboardInterrupt, SystemExit])
def test_an_interrupted_run_ends_killed(tracker, wish):
    with (
        pytest.raises(wish),
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}) as child,
    ):
        child.log_step(step(1))
        raise wish
    assert {run_of(tracker, run).info.status for run in (pipeline, child.id)} == {"KILLED"}
    assert curve(tracker, child.id, "loss") == [(1, 0.5)]


def test_an_interruption_while_a_step_is_sent_loses_no_step(tracker, monkeypatch):
    calls = []

    def log_batch(self, run_id, metrics=(), **more):
        calls.append([entry.step for entry in metrics])
        raise KeyboardInterrupt

    with (
        pytest.raises(KeyboardInterrupt),
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}) as child,
    ):
        child.log_step(step(1))
        tracker._next_step = 0
        with monkeypatch.context() as patch:
            patch.setattr(MlflowClient, "log_batch", log_batch)
            child.log_step(step(2))
    assert calls == [[2]]
    assert curve(tracker, child.id, "loss") == [(1, 0.5), (2, 1.0)]
    assert run_of(tracker, child.id).info.status == "KILLED"


def test_the_run_of_a_resumed_attempt_has_the_whole_curve_each_step_once(tracker, tmp_path):
    for number in (1, 2, 3):  # step 3 came after the last whole checkpoint
        append_record(tmp_path / "metrics.jsonl", step(number))
    given = {"folder": tmp_path, "first_step": 3, "steps_before": 100}
    with (
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}, **given) as child,
    ):
        for number in (3, 4):
            child.log_step(step(number, loss=-1.0))
    whole = [(1, 0.5), (2, 1.0), (3, -1.0), (4, -1.0)]
    assert curve(tracker, child.id, "loss") == whole
    assert curve(tracker, pipeline, "loss") == [(100 + number, loss) for number, loss in whole]


def test_a_second_attempt_may_have_other_settings(tracker):
    with tracker.pipeline_run({}, {}) as pipeline:
        for first in (1, 5):
            with tracker.child_run(pipeline, "short", "stage", {"first": first}, {}) as child:
                child.log_step(step(first))
    assert run_of(tracker, child.id).data.params == {"first": "5"}


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


def test_the_runs_of_a_killed_process_are_closed_by_the_next_but_not_those_of_a_living(
    tracker, output
):
    left_open = (
        "import os, sys; from tasks.track import Tracker\n"
        "tracker = Tracker(sys.argv[1], sys.argv[2])\n"
        "with tracker.pipeline_run({}, {}) as run:\n"
        "    with tracker.child_run(run, 'short', 'stage', {}, {}) as child:\n"
        "        child.log_step({'step': 1, 'time': 1.7e9, 'loss': 0.5})\n"
        "        print(run, child.id, flush=True)\n"
        "        os.kill(os.getpid(), 9)\n"
    )
    killed = subprocess.run(
        [sys.executable, "-c", left_open, output, tracker.experiment_name],
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": "."},
        capture_output=True,
        text=True,
        timeout=120,
    )
    orphans = killed.stdout.split()
    assert killed.returncode == -9 and len(orphans) == 2 and not killed.stderr
    assert {run_of(tracker, orphan).info.status for orphan in orphans} == {"RUNNING"}
    seen = (output / "runs" / orphans[0] / "run.json").stat().st_mtime
    with tracker.pipeline_run({}, {}) as first, tracker.pipeline_run({}, {}):
        assert run_of(tracker, first).info.status == "RUNNING"  # its process lives
        for orphan in orphans:
            run = run_of(tracker, orphan)
            assert run.info.status == "KILLED"
            assert "its process ended without a word" in run.data.tags["stagecraft.reason"]
            assert run.info.end_time == int(seen * 1000)  # its last sign of life
    assert curve(tracker, orphans[1], "loss") == [(1, 0.5)]
    journal = Journal.read(output / "runs" / orphans[0])
    assert journal.delivered and journal.run.outcome == "interrupted"


def test_a_damaged_journal_is_told_and_stops_nothing(tmp_path, output, capsys):
    tracker = Tracker(tmp_path, "damaged", store_uri(output))
    (tmp_path / "runs" / "x").mkdir(parents=True)
    (tmp_path / "runs" / "x" / "run.json").write_text('{"run": {"nonsense": 1}}')
    with tracker.pipeline_run({}, {}) as pipeline:
        pass
    assert run_of(tracker, pipeline).info.status == "FINISHED"
    assert f"{tmp_path}/runs/x/run.json is damaged" in capsys.readouterr().out


def test_what_is_delivered_is_not_looked_at_again(tracker, monkeypatch):
    with tracker.pipeline_run({}, {}):
        pass
    assert all(Journal.read(folder).delivered for folder in journals(tracker.output))
    put = []
    monkeypatch.setattr(tracker._store, "put", lambda journal, _: put.append(journal.run.id))
    with tracker.pipeline_run({}, {}) as second:
        pass
    assert set(put) == {second}


def test_sending_takes_a_small_share_of_a_stages_time(tracker, monkeypatch):
    """A slow server gets many steps at once, and all of them in the end."""
    real = tracker._store.put
    sent = []

    def slow(journal, records):
        time.sleep(0.1)
        sent.append(time.monotonic())
        real(journal, records)

    with (
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}) as child,
    ):
        monkeypatch.setattr(tracker._store, "put", slow)
        for number in range(1, 101):
            child.log_step(step(number))
        assert len(sent) <= 2
    assert curve(tracker, child.id, "loss") == [(number, number / 2) for number in range(1, 101)]


def test_of_a_step_that_was_sent_nothing_is_made_again(tracker, monkeypatch):
    """Each step is sent by itself, with all before it at hand: of 10,000 it would be the time."""
    monkeypatch.setattr(track, "_SHARE", 1e9)
    made = []
    entries = track_store._entries

    def counted(record, offset):
        made.append((record["step"], offset))
        return entries(record, offset)

    monkeypatch.setattr(track_store, "_entries", counted)
    with (
        tracker.pipeline_run({}, {}) as pipeline,
        tracker.child_run(pipeline, "short", "stage", {}, {}, steps_before=7) as child,
    ):
        for number in range(1, 6):
            child.log_step({"note": "text", "none": None, **step(number)})
    assert sorted(made) == sorted((number, offset) for number in range(1, 6) for offset in (0, 7))
    assert curve(tracker, child.id, "loss") == [(number, number / 2) for number in range(1, 6)]


def test_the_report_is_kept_and_its_summary_shown(tracker, output):
    folder = output / "reports" / "lab"
    (folder / "figures").mkdir(parents=True)
    (folder / "figures" / "reward.svg").write_text("<svg/>")
    (folder / "report.html").write_text("<p>")
    (folder / "report.md").write_text("# lab\n\nBetter.\n\n## Accuracy\n\n|a|\n\n## Cost\n\nx\n")
    with tracker.pipeline_run({}, {}) as pipeline:
        tracker.log_report(pipeline, folder)
    run = run_of(tracker, pipeline)
    kept = {file.path for file in client(tracker).list_artifacts(run.info.run_id, "report")}
    assert kept == {"report/figures", "report/report.html", "report/report.md"}
    assert run.data.tags["mlflow.note.content"] == "# lab\n\nBetter.\n\n## Accuracy\n\n|a|\n"


def test_a_run_keeps_its_own_report_though_another_took_its_place(tracker, output):
    place = output / "reports" / "mine-seed0"
    for folder, settings in ((place, {"seed": 1}), (f"{place}.before-1", {"seed": 0})):
        write_json(f"{folder}/summary.json", {"settings": settings})
        Path(folder, f"of-{settings['seed']}").touch()
    tags = lineage_tags(config_digest=digest_of({"seed": 0}))
    with tracker.pipeline_run({}, tags) as pipeline:
        tracker.log_report(pipeline, place)
    run = run_of(tracker, pipeline)
    kept = {file.path for file in client(tracker).list_artifacts(run.info.run_id, "report")}
    assert kept == {"report/of-0", "report/summary.json"}


def test_a_deleted_experiment_is_restored(tracker):
    with tracker.pipeline_run({}, {}) as first:
        pass
    at = client(tracker)
    experiment = at.get_experiment_by_name(tracker.experiment_name)
    at.delete_experiment(experiment.experiment_id)
    with Tracker(tracker.output, tracker.experiment_name).pipeline_run({}, {}) as second:
        pass
    assert at.get_experiment(experiment.experiment_id).lifecycle_stage == "active"
    assert run_of(tracker, first).info.experiment_id == run_of(tracker, second).info.experiment_id


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
        tracker.log(run, {name: 1})
    assert run_of(tracker, run).data.metrics == {admitted: 1}


def test_importing_tracking_does_not_import_mlflow():
    code = "import sys, tasks.track; sys.exit('mlflow' in sys.modules or 'pandas' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT).returncode == 0


def test_a_run_that_is_gone_or_cannot_be_read_ends_no_pipeline(tracker, tmp_path, monkeypatch):
    (tmp_path / "runs" / "unreadable" / "run.json").mkdir(parents=True)
    there = [tmp_path / "runs" / "gone", tmp_path / "runs" / "unreadable"]
    monkeypatch.setattr("tasks.track.journals", lambda _: there)
    with tracker.pipeline_run({}, {}) as pipeline:
        assert not tracker._shows("attempt")
        monkeypatch.setattr("tasks.track.records_of", lambda *_: there[0].read_text())
        assert tracker._records(Run("another", "stage", "short")) == []
    assert run_of(tracker, pipeline).info.status == "FINISHED"


def test_names_too_long_for_mlflow_are_cut_and_stay_different(tracker):
    one, other = (f"eval/{'b' * 300}{end}" for end in ("/avg_at_k", "/pass_at_k"))
    assert len(metric_name(one)) <= 250 and metric_name(one) != metric_name(other)
    assert metric_name(one).endswith("/avg_at_k") and metric_name("a" * 250) == "a" * 250
    with tracker.pipeline_run({"p" * 300: 1}, {}) as run:
        tracker.log(run, {one: 0.5, other: 0.75})
    shown = run_of(tracker, run).data
    assert shown.metrics == {metric_name(one): 0.5, metric_name(other): 0.75}
    assert shown.params == {metric_name("p" * 300): "1"}
