"""What `--help` tells of a flow's command line."""

import inspect
import shlex
import signal

import pytest

from conf.load import choices
from conf.schema import Experiment
from conf.schema.study import Study
from flows.data import data
from flows.evaluate import evaluate
from flows.pipeline import pipeline
from flows.report import report
from flows.study import study
from flows.terminal import run
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
