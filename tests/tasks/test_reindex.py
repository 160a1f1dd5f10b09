"""Against real stores, sqlite files."""

import errno
import json
import shutil
import sqlite3
import time
from pathlib import Path
from threading import Thread

import pytest
from mlflow import MlflowClient

from conf.load import load
from tasks.again import move_aside
from tasks.artifacts import folder_digest, read_json, write_json
from tasks.download import download
from tasks.evaluate import evaluation_digest
from tasks.journal import Journal
from tasks.reindex import reindex
from tasks.track import Tracker
from tasks.track_store import Store

SAMPLING = {"samples": 2, "temperature": 1.0, "engine": "torch"}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory):
    """A store without runs, to copy: making its tables takes seconds."""
    folder = tmp_path_factory.mktemp("store")
    MlflowClient(f"sqlite:///{folder}/mlflow.db").search_experiments()
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
        "metrics": {"k": 2, "avg_at_k": 0.5, "pass_at_k": 0.75, "truncated_share": 0.0,
                    "response_length_wrong": None},
        "tokens": 9,
        "seconds": 4.0,
        "environment": {"git_commit": "c0ffee"},
    }  # fmt: skip
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


def runs(store, experiment="lab_smoke", **tags):
    """A store's runs of an experiment that ended well, oldest first."""
    client = MlflowClient(store)
    found = client.get_experiment_by_name(experiment)
    wanted = [f"tags.`stagecraft.{key}` = '{value}'" for key, value in tags.items()]
    return client.search_runs(
        [found.experiment_id] if found else [],
        " AND ".join(["attributes.status = 'FINISHED'", *wanted]),
        order_by=["attributes.start_time"],
    )


def content(store) -> dict:
    """All that a store says of its runs, by our ids."""
    client = MlflowClient(store)
    found = client.search_runs([each.experiment_id for each in client.search_experiments()])
    ids = {run.info.run_id: run.data.tags["stagecraft.id"] for run in found}
    links = ("mlflow.parentRunId", "stagecraft.upstream_run")

    def said(run):
        tags = {k: ids.get(v, v) if k in links else v for k, v in run.data.tags.items()}
        curves = {
            key: [
                (point.step, point.value, point.timestamp)
                for point in client.get_metric_history(run.info.run_id, key)
            ]
            for key in run.data.metrics
        }
        data = [one.dataset.to_dictionary() for one in run.inputs.dataset_inputs]
        models = len(run.outputs.model_outputs) if run.outputs else 0
        info = (run.info.run_name, run.info.status, run.info.start_time, run.info.end_time)
        files = [file.path for file in client.list_artifacts(run.info.run_id)]
        return info, run.data.params, tags, curves, data, models, files

    return {ids[run.info.run_id]: said(run) for run in found}


def curve(store, run, metric="reward/mean"):
    points = MlflowClient(store).get_metric_history(run.info.run_id, metric)
    return sorted((point.step, point.value) for point in points)


def test_a_study_s_runs_come_back_as_they_were(store, tmp_path):
    tracker = Tracker(tmp_path, "study-mine")
    with tracker.pipeline_run({}, {}, name="mine") as parent:
        tags = {"stagecraft.arm": "plain", "stagecraft.failure": ""}
        with tracker.child_run(parent, "plain seed 0", "evaluation", {"seed": 0}, tags) as child:
            child.log_metrics({"eval/lab/avg_at_k": 0.5}, 8)
    before = content(store)
    assert reindex(tmp_path).remarks == []
    assert content(store) == before
    (tmp_path / "mlflow.db").unlink()
    reindex(tmp_path)
    assert content(store) == before and len(before) == 2


def test_a_fresh_store_gets_every_stage_and_score_with_all_it_had(smoke, store, done):
    made = reindex(smoke.output, store)
    assert (made.stages, made.evaluations, made.found, made.remarks) == (2, 3, 0, [])

    client = MlflowClient(store)
    [parent] = runs(store, kind="pipeline")
    assert parent.info.run_name == f"reindexed {smoke.output}"
    first, second = sorted(runs(store, kind="stage"), key=lambda run: run.info.run_name)
    manifest = done[0]
    assert first.info.run_name == "1-L1-64"
    assert first.data.tags["mlflow.parentRunId"] == parent.info.run_id
    assert first.data.params["stage.steps"] == "2" and first.data.params["seed"] == "0"
    assert first.info.start_time == int(manifest["attempts"][0]["started"] * 1000)
    assert first.info.end_time == int(manifest["attempts"][0]["ended"] * 1000)
    assert curve(store, first) == [(1, 0.125), (2, 0.25)]
    [point, _] = client.get_metric_history(first.info.run_id, "reward/mean")
    assert point.timestamp == int((1.7e9 + 1) * 1000)
    [data] = first.inputs.dataset_inputs
    assert data.dataset.name == "lab_train-L1"
    assert json.loads(data.dataset.profile) == {"num_rows": manifest["data"]["rows"]}
    [model] = first.outputs.model_outputs
    tags = client.get_logged_model(model.model_id).tags
    assert tags["stagecraft.uri"] == (manifest["folder"] / "checkpoint").as_uri()
    assert tags["stagecraft.digest"] == folder_digest(manifest["folder"] / "checkpoint")
    assert second.data.tags["stagecraft.upstream_run"] == first.info.run_id

    by_name = {run.info.run_name: run for run in runs(store, kind="evaluation")}
    assert set(by_name) == {f"{label} on lab_test" for label in ("base", "1-L1-64", "2-L2-96")}
    last = by_name["2-L2-96 on lab_test"]
    assert last.data.metrics == {
        "eval/lab_test/k": 2,
        "eval/lab_test/avg_at_k": 0.5,
        "eval/lab_test/pass_at_k": 0.75,
        "eval/lab_test/truncated_share": 0.0,
    }
    assert last.data.tags["stagecraft.upstream_run"] == second.info.run_id
    assert "stagecraft.upstream_run" not in by_name["base on lab_test"].data.tags


def test_again_changes_nothing_and_a_lost_run_comes_back(smoke, store, done):
    reindex(smoke.output, store)
    before = content(store)
    again = reindex(smoke.output, store)
    assert (again.stages, again.evaluations, again.found) == (0, 0, 5)
    assert content(store) == before

    [lost] = runs(store, kind="stage", name="2-L2-96")
    MlflowClient(store).delete_run(lost.info.run_id)
    back = reindex(smoke.output, store)
    assert (back.stages, back.evaluations, back.found) == (1, 0, 4)
    after = content(store)
    assert after.keys() == before.keys()
    name = lost.data.tags["stagecraft.id"]
    assert after[name] == before[name]


@pytest.fixture
def pipelines(smoke, store, train):
    """A pipeline that failed, the one that went on, and another experiment with the same stages."""
    tracker = Tracker(smoke.output, smoke.name, store)
    error = RuntimeError("disk full")
    with pytest.raises(RuntimeError), tracker.pipeline_run({"seed": 0}, {}) as parent:
        train(smoke, stop=(0, 1, error), tracker=tracker, parent=parent)
    with tracker.pipeline_run({"seed": 0}, {}) as parent:
        train(smoke, tracker=tracker, parent=parent)
        tracker.log(parent, {"eval/lab_test/avg_at_k": 0.5}, step=1)
    twin = smoke.model_copy(update={"name": "twin"})
    other = Tracker(smoke.output, "twin", store)
    with other.pipeline_run({"seed": 0}, {}) as parent:
        train(twin, tracker=other, parent=parent)
    return smoke


def test_a_lost_database_comes_back_as_it_was(pipelines, store, empty_store, tmp_path):
    before = content(store)
    (tmp_path / "mlflow.db").unlink()
    shutil.copy(empty_store, tmp_path / "fresh.db")
    fresh = f"sqlite:///{tmp_path / 'fresh.db'}"
    made = reindex(pipelines.output, fresh)
    assert (made.stages, made.evaluations, made.found, made.remarks) == (5, 0, 0, [])
    assert content(fresh) == before
    assert reindex(pipelines.output, fresh).found == 5
    assert content(fresh) == before


def test_a_database_that_lost_some_steps_and_statuses_is_completed(pipelines, store, tmp_path):
    before = content(store)
    client = MlflowClient(store)
    [_, run] = sorted(runs(store, kind="stage"), key=lambda run: run.info.run_name)
    client.update_run(run.info.run_id, status="RUNNING")
    with sqlite3.connect(tmp_path / "mlflow.db") as database:
        gone = database.execute("DELETE FROM metrics WHERE step = 1").rowcount
    assert gone > 20 and content(store) != before
    reindex(pipelines.output, store)
    after = content(store)
    assert {name: sorted(said[3]["reward/mean"]) for name, said in after.items()} == {
        name: sorted(said[3]["reward/mean"]) for name, said in before.items()
    }
    assert [said[0] for said in after.values()] == [said[0] for said in before.values()]


def test_each_attempt_is_a_run_and_the_last_has_the_whole_curve(pipelines, store):
    tracked = content(store)
    stages = sorted(
        (said for said in tracked.values() if said[2]["stagecraft.name"] == "1-L1-64"),
        key=lambda said: said[2].get("stagecraft.cached", "") + str(said[0][2]),
    )
    failed, whole, cached = stages
    assert [said[0][1] for said in stages] == ["FAILED", "FINISHED", "FINISHED"]
    assert failed[2]["stagecraft.reason"] == "disk full"
    assert [said[2]["stagecraft.attempt"] for said in stages] == ["1", "2", "2"]
    assert [said[2]["stagecraft.first_step"] for said in stages] == ["1", "2", "2"]
    steps = [[point[0] for point in said[3]["reward/mean"]] for said in stages]
    assert steps == [[1], [1, 2], [1, 2]]
    assert cached[3] == whole[3] and cached[1] == whole[1]
    assert cached[2]["stagecraft.cached"] == whole[2]["stagecraft.id"]
    assert cached[2]["stagecraft.checkpoint_digest"] == whole[2]["stagecraft.checkpoint_digest"]
    assert (whole[5], cached[5]) == (1, 0)  # one logged model, by reference


def test_the_second_experiments_pipeline_has_the_curves_of_the_stages_it_shares(pipelines, store):
    [parent] = runs(store, "twin", kind="pipeline")
    assert [step for step, _ in curve(store, parent)] == [1, 2, 3, 4]
    first, second = sorted(runs(store, "twin", kind="stage"), key=lambda run: run.info.run_name)
    assert {run.data.tags["mlflow.parentRunId"] for run in (first, second)} == {parent.info.run_id}
    assert second.data.tags["stagecraft.upstream_run"] == first.info.run_id


def test_a_pipeline_that_trains_nothing_links_its_stages_and_copies_no_curve(
    pipelines, store, train
):
    tracker = Tracker(pipelines.output, pipelines.name, store)
    with tracker.pipeline_run({}, {}) as parent:
        train(pipelines, tracker=tracker, parent=parent)
    found = [run for run in runs(store, kind="stage") if "stagecraft.cached" in run.data.tags]
    assert {run.info.run_name for run in found} == {"1-L1-64", "2-L2-96"}
    for run in found:
        assert curve(store, run) == [(2, 0.25)]  # its last metrics, for tables
        assert run.data.params and run.data.tags["stagecraft.checkpoint_digest"]
        [shown] = runs(store, id=run.data.tags["stagecraft.cached"])
        assert curve(store, shown) == [(1, 0.125), (2, 0.25)]
    [again] = runs(store, id=parent)
    assert "reward/mean" not in again.data.metrics


def test_a_pipeline_that_goes_on_with_a_later_stage_has_the_curves_of_all(smoke, store, train):
    tracker = Tracker(smoke.output, smoke.name, store)
    with pytest.raises(RuntimeError), tracker.pipeline_run({}, {}) as parent:
        train(smoke, stop=(1, 1, RuntimeError("disk full")), tracker=tracker, parent=parent)
    with tracker.pipeline_run({}, {}) as parent:
        train(smoke, tracker=tracker, parent=parent)
    [run] = runs(store, id=parent)
    assert curve(store, run) == [(1, 0.125), (2, 0.25), (3, 0.125), (4, 0.25)]
    for stage in runs(store, kind="stage"):
        assert curve(store, stage) == [(1, 0.125), (2, 0.25)]


def test_journals_that_were_lost_are_made_good_by_manifests(pipelines, empty_store, tmp_path):
    shutil.rmtree(Path(pipelines.output) / "runs")
    fresh = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'fresh.db')}"
    made = reindex(pipelines.output, fresh)
    assert (made.stages, made.evaluations) == (3, 0)  # the three attempts
    before = content(fresh)
    statuses = sorted(
        said[0][1] for said in before.values() if said[2]["stagecraft.kind"] == "stage"
    )
    assert statuses == ["FAILED", "FINISHED", "FINISHED"]
    reindex(pipelines.output, fresh)
    assert content(fresh) == before


def test_without_journals_the_runs_that_are_there_are_found(pipelines, store):
    before = content(store)
    shutil.rmtree(Path(pipelines.output) / "runs")
    made = reindex(pipelines.output, store)
    assert (made.stages, made.evaluations) == (0, 0)
    assert content(store) == before


def test_a_stage_that_was_trained_anew_does_not_lend_its_curve_to_the_old_one(
    smoke, store, train, empty_store, tmp_path
):
    tracker = Tracker(smoke.output, smoke.name, store)
    with tracker.pipeline_run({}, {}) as parent:
        [old] = train(smoke, stages=1, tracker=tracker, parent=parent)
    move_aside(old["folder"], before=time.time())
    with tracker.pipeline_run({}, {}) as parent:
        [new] = train(smoke, stages=1, tracker=tracker, parent=parent)
    aside = next(new["folder"].parent.glob("*.old-*"))
    text = (aside / "metrics.jsonl").read_text()
    (aside / "metrics.jsonl").write_text(text.replace('"reward/mean": 0.25', '"reward/mean": 0.75'))
    fresh = f"sqlite:///{shutil.copy(empty_store, tmp_path / 'fresh.db')}"
    reindex(smoke.output, fresh)
    ends = [curve(fresh, run)[-1] for run in runs(fresh, kind="stage")]
    assert sorted(ends) == [(2, 0.25), (2, 0.75)]


def test_a_run_that_is_at_work_is_left_to_its_process(smoke, store, train):
    tracker = Tracker(smoke.output, smoke.name, store)
    with tracker.pipeline_run({}, {}) as parent:
        train(smoke, stages=1, tracker=tracker, parent=parent)
        made = reindex(smoke.output, store)
        assert made.remarks == [f"{parent} is at work, it tells MLflow itself"]
        assert (made.stages, made.evaluations, made.found) == (0, 0, 0)
    assert reindex(smoke.output, store).found == 1


def test_two_at_once_add_each_run_once(smoke, store, done, monkeypatch, capsys):
    told, made = Store.told, []

    def reindexes() -> None:
        made.append(reindex(smoke.output, store))

    second = Thread(target=reindexes)

    def slow(self, experiment):
        found = told(self, experiment)
        if not second.ident:  # of the first, which has not added anything yet
            second.start()
            second.join(0.5)
        return found

    monkeypatch.setattr(Store, "told", slow)
    reindexes()
    second.join(60)
    assert [(one.stages, one.evaluations, one.found) for one in made] == [(2, 3, 0), (0, 0, 5)]
    ids = [run.data.tags["stagecraft.id"] for run in runs(store)]
    assert len(ids) == len(set(ids)) == 6
    assert f"{smoke.output} is being reindexed by process " in capsys.readouterr().out


def test_a_store_that_is_away_is_refused_in_a_sentence(done, smoke):
    with pytest.raises(ValueError, match=r"MLflow at http://127.0.0.1:9 takes nothing: .*refused"):
        reindex(smoke.output, "http://127.0.0.1:9")


def test_a_folder_that_cannot_be_written_is_refused_in_a_sentence(smoke, store, monkeypatch):
    Journal.begin(Path(smoke.output), "lab", store, name="run").write()

    def held(folder):
        raise OSError(errno.EROFS, "Read-only file system", str(folder / "lock"))

    monkeypatch.setattr("tasks.reindex.held_for_deletion", held)
    with pytest.raises(ValueError, match=r"/lock cannot be written \(Read-only.*\n\nhint: copy "):
        reindex(smoke.output, store)


def test_a_score_from_before_the_grader_counted_is_found_by_its_folder(smoke, store, done):
    [folder] = (f for f in Path(smoke.output, "evaluations").iterdir() if "base" in
                (f / "evaluation.json").read_text().partition("digest")[0])  # fmt: skip
    folder.rename(folder.with_name("lab_test-0123456789ab"))
    assert reindex(smoke.output, store).evaluations == 3
    assert reindex(smoke.output, store).found == 5
    [run] = runs(store, config_digest="0123456789ab")
    assert run.info.run_name == "base on lab_test"


def test_an_attempt_that_failed_before_does_not_stand_for_the_stage(smoke, store, train):
    tracker = Tracker(smoke.output, smoke.name, store)
    with tracker.pipeline_run({}, {}) as parent, pytest.raises(RuntimeError):
        train(smoke, stop=(0, 1, RuntimeError("disk full")), tracker=tracker, parent=parent)
    train(smoke, stages=1)  # finished while nothing was kept
    made = reindex(smoke.output, store)
    assert (made.stages, made.found) == (1, 1)
    [run] = runs(store, kind="stage")
    assert run.data.tags["stagecraft.first_step"] == "2"
    assert [step for step, _ in curve(store, run)] == [1, 2]  # the whole stage


def test_a_score_of_a_stage_that_is_gone_is_not_taken_for_the_bases(smoke, store, done):
    shutil.rmtree(done[1]["folder"])
    assert reindex(smoke.output, store).evaluations == 3
    [lost] = runs(store, "reindexed", kind="evaluation")
    assert lost.info.run_name == f"{done[1]['folder'].name} on lab_test"


def test_damaged_stages_are_told_and_unfinished_ones_are_shown(smoke, store, train):
    stages = train(smoke)
    (stages[0]["folder"] / "metrics.jsonl").write_text("{broken\n")
    shutil.rmtree(stages[1]["folder"] / "checkpoint")
    shutil.rmtree(smoke.output + "/data")
    third = stages[1]["folder"].with_name("3-x-0123456789ab")
    write_json(third / "stage.json", {"kind": "stage"})
    made = reindex(smoke.output, store)
    assert made.stages == 2
    damaged, gone, broken = made.remarks
    assert "was damaged" in damaged and "its checkpoint is gone" in gone
    assert "1-L1-64: its metrics are damaged" in broken
    first, second = sorted(runs(store, kind="stage"), key=lambda run: run.info.run_name)
    assert not first.data.metrics and second.data.metrics and not second.outputs.model_outputs
    # By the manifest alone.
    assert second.inputs.dataset_inputs[0].dataset.name == "lab_train-L2"


def test_stages_of_before_the_manifest_named_its_experiment_find_a_place(smoke, store, done):
    for stage in done:
        path = stage["folder"] / "stage.json"
        manifest = read_json(path)
        del manifest["experiment"]
        write_json(path, manifest)
    reindex(smoke.output, store)
    assert len(runs(store, "reindexed", kind="stage")) == 2


def test_a_base_that_two_experiments_share_is_scored_in_both(smoke, store, done, train):
    twin = smoke.model_copy(update={"name": "twin", "seed": 1})
    train(twin, stages=1)
    made = reindex(smoke.output, store)
    assert made.evaluations == 4
    scores = runs(store, "twin", kind="evaluation")
    assert [run.info.run_name for run in scores] == ["base on lab_test"]


def test_an_output_folder_may_have_a_quote_in_its_name(smoke, store, train, tmp_path):
    other = smoke.model_copy(update={"output": str(tmp_path / "o'hara")})
    train(other, stages=1)
    (tmp_path / "o'hara" / "evaluations" / "x").mkdir(parents=True)
    write_json(tmp_path / "o'hara/evaluations/x/evaluation.json", {"kind": "evaluation"})
    made = reindex(other.output, store)
    [remark] = made.remarks
    assert made.stages == 1 and "has no usable 'benchmark'" in remark and "/x/" in remark
    train(other)
    assert reindex(other.output, store).stages == 1
    assert len(runs(store, kind="pipeline")) == 1


def test_a_folder_that_is_not_there_is_refused(tmp_path, store):
    with pytest.raises(ValueError, match=r"no folder .*nowhere\n\nhint: "):
        reindex(tmp_path / "nowhere", store)
