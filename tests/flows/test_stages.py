"""Which stages a flow trains, finds, needs or moves aside. Nothing learns: see conftest.py."""

import fcntl
import json
import os
import shutil
import signal
import time
from functools import partial
from pathlib import Path

import pytest
from mlflow import MlflowClient
from prefect.exceptions import TerminationSignal

from conf.load import ConfigError, load
from flows import parameters, shown, steps
from flows.evaluate import evaluate
from flows.parameters import settings_of
from flows.pipeline import pipeline
from flows.report import report
from flows.train_stage import train_stage
from tasks import preflight_machine
from tasks.artifacts import read_json
from trainer.lab import BASE

pytestmark = pytest.mark.usefixtures("prefect", "plain_figures", "mlflow_store")

SMOKE = "lab/smoke"


def folders(output: str) -> list[str]:
    return sorted(path.name for path in (Path(output) / "stages").iterdir())


def test_a_flow_may_write_to_any_folder(tmp_path):
    for name in ("R&D", "~me", "it's", "a#b;c!", "a, b"):
        assert settings_of(SMOKE, output=str(tmp_path / name)).output == str(tmp_path / name)


def test_a_stage_needs_those_before_it_finished(output, quick):
    with pytest.raises(ValueError, match=r"stage 1 of lab_smoke, 1-L1-64, is not finished:\n  "):
        train_stage(SMOKE, stage=2, output=output)
    assert quick.trained == []


def test_upstream_trains_what_is_missing_before_a_stage_and_nothing_after(output, quick):
    train_stage(SMOKE, stage=1, upstream=True, output=output)
    assert quick.trained == ["1-L1-64"]
    train_stage(SMOKE, stage=2, upstream=True, output=output)
    assert quick.trained == ["1-L1-64", "2-L2-96"]


def test_a_stage_is_named_by_number_or_name_and_trained_once(output, quick):
    by_number = train_stage(SMOKE, stage=1, output=output)
    by_name = train_stage(SMOKE, stage="1-L1-64", output=output)
    assert by_number == by_name == f"{output}/stages/{folders(output)[0]}"
    assert quick.trained == ["1-L1-64"]


def test_a_stage_starts_from_the_checkpoint_of_the_one_before(output, quick):
    first = read_json(Path(train_stage(SMOKE, stage=1, output=output)) / "stage.json")
    second = read_json(Path(train_stage(SMOKE, stage=2, output=output)) / "stage.json")
    assert second["start"] == first["checkpoint"]


def test_overrides_make_another_stage(output, quick):
    train_stage(SMOKE, stage=1, output=output)
    train_stage(SMOKE, stage=1, overrides=["seed=1"], output=output)
    assert quick.trained == ["1-L1-64"] * 2
    assert len(folders(output)) == 2


def test_force_moves_the_old_stage_aside_and_trains_only_that_one_anew(output, quick):
    train_stage(SMOKE, stage=2, upstream=True, output=output)
    first, second = folders(output)
    before = (Path(output) / "stages" / second / "stage.json").read_text()
    train_stage(SMOKE, stage=2, force=True, output=output)
    assert quick.trained == ["1-L1-64", "2-L2-96", "2-L2-96"]
    names = folders(output)
    assert names[:2] == [first, second]
    assert len(names) == 3 and names[2].startswith(f"{second}.old-20")
    assert (Path(output) / "stages" / names[2] / "stage.json").read_text() == before
    manifest = read_json(Path(output) / "stages" / second / "stage.json")
    assert len(manifest["attempts"]) == 1


def test_an_output_folder_that_was_moved_is_gone_on_with_where_it_lies(
    output, quick, tmp_path, monkeypatch
):
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    pipeline(SMOKE, output=output)
    moved = tmp_path / "elsewhere and 'moved'"
    os.rename(output, moved)
    quick.trained.clear()
    quick.scored.clear()
    changed = ["stages.1.steps=3", "stages.1.kl_coefficient=0.1", "evaluation.samples=3"]
    pipeline(SMOKE, overrides=changed, output=str(moved))
    assert quick.trained == ["2-L2-96"]
    begun = {str(BASE), *map(str, moved.glob("stages/*/checkpoint"))}
    assert len(quick.scored) == 3 and set(quick.scored) < begun
    assert not Path(output).exists(), "something was written to the old place"
    client = MlflowClient(f"sqlite:///{moved / 'mlflow.db'}")
    [experiment] = [one for one in client.search_experiments() if one.name == "lab_smoke"]
    runs = client.search_runs([experiment.experiment_id])
    assert {run.info.artifact_uri.partition("/mlartifacts/")[0] for run in runs} == {moved.as_uri()}
    reports = [client.list_artifacts(run.info.run_id, "report") for run in runs]
    assert sum(map(bool, reports)) == 2, "each pipeline's report is found"


def test_force_on_a_stage_that_was_never_there_trains_it(output, quick):
    train_stage(SMOKE, stage=1, force=True, output=output)
    assert quick.trained == ["1-L1-64"] and len(folders(output)) == 1


def test_a_retried_run_keeps_what_it_began_itself_though_it_was_forced(output, quick, monkeypatch):
    train_stage(SMOKE, stage=1, output=output)
    # Prefect keeps a run's first start over its retries; here the stage began after it.
    monkeypatch.setattr(steps, "begun", lambda: time.time() - 600)
    train_stage(SMOKE, stage=1, force=True, output=output)
    assert quick.trained == ["1-L1-64"] and len(folders(output)) == 1


def test_force_refuses_a_stage_that_is_being_trained(output, quick):
    folder = Path(train_stage(SMOKE, stage=1, output=output))
    with (folder / "lock").open("r+") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        lock.write("4711")
        lock.flush()
        with pytest.raises(ValueError, match="is being trained by process 4711"):
            train_stage(SMOKE, stage=1, force=True, output=output)
    assert folders(output) == [folder.name] and quick.trained == ["1-L1-64"]


@pytest.mark.parametrize("stage", [0, 3, -1, "base", "1-L1", ""])
def test_a_stage_that_is_none_is_refused_before_any_work(output, quick, stage):
    with pytest.raises(ConfigError, match=r"stage: .*\n\nhint: "):
        train_stage(SMOKE, stage=stage, output=output)
    assert not Path(output).exists()


def test_the_pipeline_finds_what_train_stage_trained(output, quick):
    train_stage(SMOKE, stage=1, output=output)
    page = pipeline(SMOKE, output=output)
    assert quick.trained == ["1-L1-64", "2-L2-96"]
    assert Path(page).is_file() and len(quick.scored) == 3
    pipeline(SMOKE, output=output)
    assert len(quick.trained) == 2 and len(quick.scored) == 3


def test_the_next_trainer_begins_beside_an_evaluation_where_both_are_to_be(output, quick):
    pipeline(SMOKE, output=output)
    assert quick.begun == [(0, 0), (1, 1)], "before base and first stage were evaluated"
    pipeline(SMOKE, output=output)
    train_stage(SMOKE, stage=2, output=output, force=True)
    assert len(quick.begun) == 2
    pipeline(SMOKE, ["evaluation.seed=1"], output=output)
    assert len(quick.begun) == 2, "its stages are there"


def test_evaluate_scores_what_is_finished_and_trains_nothing(output, quick):
    train_stage(SMOKE, stage=1, output=output)
    assert list(evaluate(SMOKE, output=output)) == ["base", "1-L1-64"]
    assert quick.trained == ["1-L1-64"] and len(quick.scored) == 2
    with pytest.raises(ValueError, match="2-L2-96, is not finished"):
        evaluate(SMOKE, stage=2, output=output)
    assert list(evaluate(SMOKE, stage="base", output=output)) == ["base"]
    assert len(quick.scored) == 2


def test_what_is_left_out_since_its_settings_differ_is_told_with_the_difference(
    output, quick, monkeypatch
):
    train_stage(SMOKE, stage=1, output=output)
    said = []
    monkeypatch.setattr(steps, "print", said.append, raising=False)
    assert list(evaluate(SMOKE, overrides=["hardware.ranks=2"], output=output)) == ["base"]
    [text] = [one for one in said if "is not finished" in one]
    assert text.startswith("stage 1 of lab_smoke, 1-L1-64, is not finished:\n  differs from ")
    assert "    numerics.ranks: 1 -> 2\nThis stage and those after it are left out." in text
    with pytest.raises(ValueError, match=r"numerics.ranks: 1 -> 2\n\nhint: "):
        evaluate(SMOKE, stage=2, overrides=["hardware.ranks=2"], output=output)
    said.clear()
    evaluate(SMOKE, stage=1, output=output)
    assert not [one for one in said if "is not finished" in one]


def test_of_an_experiment_only_benchmarks_sampling_and_hardware_count_for_another_model(
    output, quick, tmp_path
):
    model = shutil.copytree(BASE, tmp_path / "mine")
    config = json.loads((model / "config.json").read_text())
    (model / "config.json").write_text(json.dumps({**config, "max_position_embeddings": 4096}))
    # None of it suits the experiment's own model, data and training.
    other = ["evaluation.context_length=4000", "data.max_prompt_length=1", "stages.0.group_size=1"]
    other += ["data.train.kind=file", "data.train.path=none.parquet", "hardware.ranks=5"]
    assert list(evaluate(SMOKE, checkpoint=str(model), overrides=other, output=output)) == ["mine"]
    assert quick.scored == [str(model)]
    with pytest.raises(ConfigError, match="needed at most the model's 4096 positions"):
        long = ["evaluation.context_length=4090"]
        evaluate(SMOKE, checkpoint=str(model), overrides=long, output=output)


def test_a_checkpoint_that_is_not_there_is_refused_by_the_name_it_was_given_by(output):
    with pytest.raises(ConfigError, match=r"^checkpoint: found no folder 'nothere', needed 'lab'"):
        evaluate(SMOKE, checkpoint="nothere", output=output)


@pytest.mark.parametrize("stage", [0, "base", 3])
def test_stages_to_train_are_offered_without_the_base(output, stage):
    with pytest.raises(ConfigError, match=r"needed one of 1 \(1-L1-64\), 2 \(2-L2-96\)\n"):
        train_stage(SMOKE, stage=stage, output=output)


def test_report_shows_what_is_there_and_refuses_to_show_nothing(output, quick):
    with pytest.raises(ValueError, match="no finished stage and no score of lab_smoke seed 0"):
        report(SMOKE, ["hardware=gpu1"], output)  # a report needs none of it
    train_stage(SMOKE, stage=1, output=output)
    evaluate(SMOKE, output=output)
    before = (list(quick.trained), list(quick.scored))
    summary = json.loads(Path(report(SMOKE, output=output)).with_name("summary.json").read_text())
    assert [row["label"] for row in summary["benchmarks"]["lab_test"]] == ["base", "1-L1-64"]
    assert summary["command"] == f"python -m flows.pipeline experiment={SMOKE} output={output}"
    assert (quick.trained, quick.scored) == before


def test_a_report_without_scores_says_so_and_replaces_none_that_has_some(
    output, quick, monkeypatch
):
    said = []
    monkeypatch.setattr("flows.report.print", said.append, raising=False)
    train_stage(SMOKE, stage=1, output=output)
    report(SMOKE, output=output)
    assert said == [
        "the last checkpoint has no score on lab_test with these settings",
        f"to score it: python -m flows.evaluate experiment={SMOKE} output={output}",
    ]
    evaluate(SMOKE, output=output)
    page = Path(report(SMOKE, output=output))
    before = page.read_text()
    with pytest.raises(
        ValueError, match=r"has some with others:\n  evaluation.temper.*: 1.0 -> 0.7"
    ):
        report(SMOKE, ["evaluation.temperature=0.7"], output)
    assert page.read_text() == before and len(said) == 2


def test_what_a_flow_made_and_what_to_do_with_it_is_told(output, quick, monkeypatch):
    said = []
    for module in ("flows.train_stage", "flows.evaluate", "flows.shown"):
        monkeypatch.setattr(f"{module}.print", said.append, raising=False)
    folder = train_stage(SMOKE, stage=1, output=output)
    assert said == [f"checkpoint: {folder}/checkpoint"]
    said.clear()
    evaluate(SMOKE, output=output)
    table, command = [text for text in said if "is not finished" not in text]
    assert [line.split()[0] for line in table.splitlines()[3:]] == ["base", "1-L1-64"]
    assert command == f"for a report: python -m flows.report experiment={SMOKE} output={output}"


def test_all_runs_are_shown_from_where_one_is(output, tmp_path, monkeypatch):
    assert shown.all_runs(output) == 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
    monkeypatch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:5000")
    assert shown.all_runs(output) == "http://127.0.0.1:5000"
    monkeypatch.delenv("MLFLOW_TRACKING_URI")
    monkeypatch.chdir(tmp_path)
    root = Path(shown.__file__).parents[1]
    assert shown.all_runs("my runs") == f"make -C {root} ui OUTPUT='{tmp_path}/my runs'"
    monkeypatch.chdir(root)
    assert shown.all_runs("outputs") == "make ui OUTPUT=outputs"


@pytest.mark.parametrize("flow", [partial(train_stage, stage=1), pipeline])
def test_a_run_says_what_may_not_be_meant(output, quick, monkeypatch, flow):
    said = []
    # To a run's log, which no capture of ours sees.
    monkeypatch.setattr(parameters, "print", said.append, raising=False)
    flow(experiment=SMOKE, overrides=["method=dapo"], output=output)
    assert [text for text in said if text.startswith("warning: 1-L1-64: one update a step")]
    said.clear()
    flow(experiment=SMOKE, output=output)
    assert not [text for text in said if "warning" in text]


def test_a_run_on_gpus_is_reported_where_there_are_none(output, quick, monkeypatch):
    gpus = ["hardware=gpu1"]
    with monkeypatch.context() as patch:
        patch.setattr(preflight_machine, "check_machine", lambda *_, **__: None)
        train_stage(SMOKE, stage=1, overrides=gpus, output=output)
    with pytest.raises(ConfigError, match="hardware"):
        train_stage(SMOKE, stage=2, overrides=gpus, output=output)
    page = Path(report(SMOKE, gpus, output=output))
    summary = read_json(page.with_name("summary.json"))
    assert [row["name"] for row in summary["stages"]] == ["1-L1-64"]


def test_what_is_there_is_scored_and_reported_where_no_checkpoint_has_room(
    output, quick, monkeypatch
):
    train_stage(SMOKE, stage=1, output=output)
    usage = shutil.disk_usage("/")._replace(free=0)
    monkeypatch.setattr(shutil, "disk_usage", lambda place: usage)
    with pytest.raises(ConfigError, match=r"output: found 0\.0 MiB free"):
        train_stage(SMOKE, stage=2, output=output)
    assert list(evaluate(SMOKE, output=output)) == ["base", "1-L1-64"]
    assert Path(report(SMOKE, output=output)).is_file()


def test_a_cancelled_stage_is_interrupted_and_neither_failed_nor_running(output, train):
    smoke = load(f"experiment={SMOKE}", f"output={output}")
    with pytest.raises(TerminationSignal):
        train(smoke, stop=(0, 1, TerminationSignal(signal.SIGTERM)))
    [folder] = (Path(output) / "stages").iterdir()
    manifest = read_json(folder / "stage.json")
    assert manifest["outcome"] == manifest["attempts"][0]["outcome"] == "interrupted"
    assert "ended" in manifest["attempts"][0]


@pytest.mark.parametrize("folder", ["plain", "with space", "a=b", "a,b", "[x]"])
def test_an_output_folder_may_have_any_name(tmp_path, folder):
    output = str(tmp_path / folder)
    assert settings_of(SMOKE, output=output).output == output
