"""Which runs a study trains, shares, survives and compares. Nothing learns: see conftest.py."""

import json
import os
import shlex
import shutil
from pathlib import Path

import pytest
from mlflow import MlflowClient

from conf.load import ConfigError
from conf.studies import load_study, runs
from flows.cli import main
from flows.study import command, study
from flows.study import main as command_line
from tasks import preflight_machine
from tasks import train_stage as training
from tasks.artifacts import read_json, write_json
from tasks.comparison import StudyIncompleteError

pytestmark = pytest.mark.usefixtures("prefect", "plain_figures", "mlflow_store")


def summary(output: str, name: str = "lab_smoke") -> dict:
    return read_json(Path(output) / "studies" / name / "report" / "summary.json")


def test_a_stage_that_two_arms_begin_with_is_trained_once_for_each_seed(output, quick):
    report = study("lab_smoke", output=output)
    assert sorted(quick.trained) == ["1-L1-64"] * 2 + ["2-L2-96"] * 4
    assert Path(report).is_file()
    runs = summary(output)["runs"]
    first = {run["stages"][0] for run in runs if run["seed"] == 0}
    assert len(runs) == 4 and len(first) == 1
    quick.trained.clear()
    study("lab_smoke", output=output)
    assert quick.trained == []


def test_two_runs_are_compared_in_a_terminal(output, quick, capsys):
    study("lab_smoke", overrides=["seeds=[0]"], output=output)
    runs = ["lab_smoke-short-seed0", "lab_smoke-long-seed0"]
    capsys.readouterr()
    assert main(["compare", *runs, "--output", output]) == 0
    text = capsys.readouterr().out
    assert "lab_smoke-long-seed0 cannot be told apart from lab_smoke-short-seed0" in text
    assert "minus lab_smoke-short-seed0" in text and "lab_test at equal budgets" in text
    assert main(["compare", *runs, "--output", output, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["lab_test"][runs[1]]["difference"]["mean"] == 0
    assert main(["compare", runs[0], "nothing", "--output", output]) == 2
    assert "nothing is no run: found lab_smoke-long-seed0, " in capsys.readouterr().err
    assert main(["compare", runs[0], runs[0], "--output", output]) == 2

    # What a report is of may be gone, or damaged, by the time that it is compared.
    report = Path(output) / "reports" / runs[1] / "summary.json"
    kept = read_json(report)["kept"]
    stage, scored = (Path(output) / kept[kind][-1]["folder"] for kind in ("stages", "evaluations"))
    quick.trained.clear()
    (scored / "evaluation.json").write_text("true")
    begun = {**read_json(stage / "stage.json"), "outcome": "running"}
    for why, folder, harm in (
        ("holds a bool", scored, lambda: None),
        ("running", stage, lambda: write_json(stage / "stage.json", begun)),
        ("it was deleted", stage, lambda: shutil.rmtree(stage)),
    ):
        harm()
        capsys.readouterr()
        assert main(["compare", *runs, "--output", output]) == 2
        said = capsys.readouterr().err
        assert f"{runs[1]} was made of {folder}, which is not finished: " in said and why in said
        assert "hint: this makes what is missing, and only that: python -m flows." in said
    study("lab_smoke", overrides=["seeds=[0]"], output=output)
    assert quick.trained == ["2-L2-96"]
    assert main(["compare", *runs, "--output", output]) == 0
    report.write_text(json.dumps({"kept": [], "settings": read_json(report)["settings"]}))
    assert main(["compare", *runs, "--output", output]) == 2
    assert "summary.json is damaged: " in capsys.readouterr().err


def test_a_study_is_a_run_with_one_below_it_for_each_arm_and_seed(output, quick):
    study("lab_smoke", overrides=["seeds=[0]"], output=output)
    client = MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    experiment = client.get_experiment_by_name("study-lab_smoke")
    runs = client.search_runs([experiment.experiment_id])
    parent = next(run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    mine = [r for r in runs if r.data.tags.get("mlflow.parentRunId") == parent.info.run_id]
    assert sorted(run.info.run_name for run in mine) == ["long seed 0", "short seed 0"]
    names = [set(run.data.metrics) for run in mine]
    assert names[0] == names[1] >= {"eval/lab_test/avg_at_k", "cost/updates"}
    assert {run.data.params["arm"] for run in mine} == {"long", "short"}
    files = {file.path for file in client.list_artifacts(parent.info.run_id, "report")}
    assert "report/report.html" in files


def test_a_plan_trains_nothing_and_says_what_sharing_saves(output, quick, capsys):
    text = study("lab_smoke", plan=True, output=output)
    assert quick.trained == [] and not Path(output).exists()
    assert "4 runs of 8 stages, 6 of them distinct" in text
    assert "25.0 % saved" in text


@pytest.fixture
def laptop(monkeypatch):
    monkeypatch.setattr(preflight_machine, "find_spec", lambda _: None)


def test_a_study_of_gpus_is_planned_without_one_and_not_trained(output, quick, laptop):
    gpu = {"overrides": ["hardware=gpu1"], "output": output}
    assert "6 of them distinct" in study("lab_smoke", plan=True, **gpu)
    with pytest.raises(ConfigError, match=r"arm short: hardware.rollout: found 'vllm', but vLLM"):
        study("lab_smoke", **gpu)
    with pytest.raises(ValueError, match="none of 4 runs of lab_smoke was evaluated"):
        study("lab_smoke", train=False, **gpu)
    assert quick.trained == []


@pytest.mark.parametrize(("train", "code"), [("false", 1), ("False", 1), ("true", 2)])
def test_a_command_line_that_trains_nothing_needs_no_gpu(train, code, output, laptop):
    assert command_line([f"train={train}", "hardware=gpu1", f"output={output}"]) == code


def test_the_command_names_any_folder():
    _, _, _, *words = shlex.split(command("lab_smoke", ["seeds=[0]"], "/data/R&D/it's"))
    again = load_study("lab_smoke", words[1:])
    assert words[0] == "study=lab_smoke"
    assert {run.settings.output for run in runs(again)} == {"/data/R&D/it's"}


def test_an_arm_that_fails_stops_no_other_and_is_named_in_the_report(output, quick, monkeypatch):
    launch = training.launch

    def fails(folder, *rest, **given):
        stage = read_json(folder / "stage.json")["settings"]["stage"]
        if stage["context_length"] == 128:
            raise RuntimeError("out of memory")
        launch(folder, *rest, **given)

    monkeypatch.setattr(training, "launch", fails)
    one_seed = {"overrides": ["seeds=[0]"], "output": output}
    with pytest.raises(StudyIncompleteError, match="1 of 2 runs failed: long seed 0"):
        study("lab_smoke", **one_seed)
    assert sorted(quick.trained) == ["1-L1-64", "2-L2-96"]
    found = summary(output)
    assert "long seed 0 failed: out of memory" in found["missing"]
    assert found["benchmarks"]["lab_test"]["arms"]["long"]["estimate"] is None
    assert found["benchmarks"]["lab_test"]["arms"]["short"]["seeds"] == [0]
    monkeypatch.setattr(training, "launch", launch)
    quick.trained.clear()
    study("lab_smoke", **one_seed)  # the same command goes on with what is missing
    assert quick.trained == ["2-L2-96"]
    assert [said for said in summary(output)["missing"] if "failed" in said] == []


def test_without_training_only_what_is_there_is_compared(output, quick):
    with pytest.raises(ValueError, match="none of 2 runs of lab_smoke was evaluated"):
        study("lab_smoke", train=False, overrides=["seeds=[0]"], output=output)
    assert quick.trained == []


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ({"study": "lab_smok"}, "did you mean lab_smoke"),
        ({"study": "lab_smoke", "overrides": ["seeds=[0,0]"]}, "one of them twice"),
        ({"study": "lab_smoke", "overrides": ["baseline=none"]}, "needed one of short, long"),
        ({"study": "lab_smoke", "overrides": ["method.clip_lo=1"]}, "arm short: .*clip_lo"),
    ],
)
def test_a_study_that_cannot_be_is_refused_before_anything_runs(given, said, output, quick):
    with pytest.raises(ConfigError, match=said):
        study(**given, output=output)
    assert quick.trained == []
