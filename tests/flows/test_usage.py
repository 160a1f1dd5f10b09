"""What `--help` tells of a flow's command line."""

import inspect
import os
import shlex
import signal
import subprocess
import sys

import pytest

from conf.load import ConfigError, choices
from conf.schema import Experiment
from conf.schema.study import Study
from flows.data import data
from flows.evaluate import evaluate
from flows.evaluate import settings_of as scored_settings_of
from flows.pipeline import pipeline
from flows.report import report
from flows.study import study
from flows.terminal import run
from flows.train_stage import settings_of as stage_settings_of
from flows.train_stage import train_stage
from flows.usage import OF_SETTINGS, usage


@pytest.fixture(autouse=True)
def pipes():
    """Help ends with `| head`, which this process is not to."""
    before = signal.getsignal(signal.SIGPIPE)
    yield
    signal.signal(signal.SIGPIPE, before)


FLOWS = (pipeline, train_stage, evaluate, report, data, study)


def told(flow, part: str, capsys) -> str:
    given, knobs = ("study", Study) if flow is study else ("experiment", Experiment)
    assert usage(flow, given, knobs, part) == 0
    return capsys.readouterr().out


@pytest.mark.parametrize("flow", FLOWS, ids=lambda flow: flow.name)
def test_every_parameter_of_a_flow_is_told_by_its_docstring(flow, capsys):
    whole = told(flow, "", capsys)
    for name in inspect.signature(flow.fn).parameters.keys() - OF_SETTINGS:
        assert f"[{name}=" in whole.splitlines()[0]
        assert f"\n  {name:<12} " in whole
        assert told(flow, name, capsys).startswith(name)


def test_the_usage_shows_what_runs_where_nothing_is_said(capsys):
    assert "[experiment=lab/fastcurl] " in told(pipeline, "", capsys)
    first = told(train_stage, "", capsys).splitlines()[0]
    assert "[stage=1] [force=false] [upstream=false]" in first
    assert "[checkpoint=...]" in told(evaluate, "", capsys)


def test_a_parameter_is_told_in_full(capsys):
    assert told(train_stage, "stage", capsys) == "stage  Its number, from 1, or its name.\n"
    assert "Of the experiment only benchmarks" in told(evaluate, "checkpoint", capsys)


def test_help_on_a_study_lists_the_studies_and_settings_of_arms_too(capsys):
    text = told(study, "study", capsys)
    assert all(name in text for name in choices("study"))
    assert "path, default 'outputs'" in told(study, "output", capsys)
    assert told(study, "seeds", capsys).startswith("seeds  list[int]")


@pytest.mark.parametrize("line", ["--help stage", "experiment=lab/smoke stage=2 -h stage"])
def test_help_may_be_asked_for_after_settings(line, capsys):
    assert run(train_stage, shlex.split(line)) == 0
    assert capsys.readouterr().out.startswith("stage  Its number")


def test_an_unknown_part_is_refused(capsys):
    assert run(train_stage, ["--help", "stages.0.promts"]) == 2
    assert "did you mean stages.N.prompts" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("flow", "line", "said"),
    [
        (train_stage, "force=maybe", "force: found 'maybe', needed a valid boolean, unable to"),
        (train_stage, "stage=[1]", "stage: found [1], needed a valid integer or a valid string"),
    ],
)
def test_a_parameter_of_another_type_is_refused_in_words(flow, line, said, capsys, caplog):
    assert run(flow, [line]) == 2
    name = line.partition("=")[0]
    assert f"{said}" in (error := capsys.readouterr().err)
    assert error.endswith(f"\n\nhint: --help {name} tells what it is\n") and not caplog.records


@pytest.mark.parametrize(
    ("check", "given", "said"),
    [
        (stage_settings_of, {"stage": 9}, "stage: found 9, needed one of 1 "),
        (stage_settings_of, {"stage": 0}, "stage: found 0, needed one of 1 "),
        (scored_settings_of, {"stage": 9}, "stage: found 9, needed one of 0 "),
        (scored_settings_of, {"stage": 1, "checkpoint": "x"}, "stage and checkpoint: found both"),
    ],
)
def test_a_stage_that_is_not_there_is_refused_before_anything_starts(check, given, said):
    with pytest.raises(ConfigError, match=said):
        check("lab/smoke", **given)


def test_help_is_told_to_a_terminal_without_greek_letters():
    command = [sys.executable, "-m", "conf.load", "--help", "selection"]
    environment = {**os.environ, "PYTHONIOENCODING": "ascii"}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0 and "of the posterior; below 1 it is U-shaped" in done.stdout
    assert not done.stderr


def test_a_report_of_nothing_brings_no_data_into_a_folder_that_was_not_meant(prefect, tmp_path):
    with pytest.raises(ValueError, match="missing holds no finished stage and no score"):
        report("lab/smoke", output=str(tmp_path / "missing"))
    assert not (tmp_path / "missing").exists()
