import gc
import json
import logging
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow, task

from flows import terminal

ROOT = Path(__file__).parents[2]
AT_THE_END = """
import atexit, gc, json, sys

def tell():
    from trainer import lean
    left = len(gc.get_objects())
    open("told", "w").write(json.dumps([left, gc.isenabled(), "torch" in lean._unused]))

if "flows.report" in " ".join(sys.orig_argv):
    atexit.register(tell)  # first registered, last called
"""


@flow
def nothing(experiment: str, overrides: list[str]) -> None:
    """A flow."""


@task
def refuse() -> None:
    raise ValueError("found a\n\nhint: b")


@flow
def refused(experiment: str, overrides: list[str]) -> None:
    """A flow with a task that fails."""
    refuse()


@flow
def interrupted(experiment: str, overrides: list[str]) -> None:
    """A flow that Ctrl-C ends."""
    raise KeyboardInterrupt


@flow
def broken(experiment: str, overrides: list[str]) -> None:
    """A flow with a fault of ours."""
    raise ZeroDivisionError("by zero\nin two lines")


@pytest.fixture
def lines(prefect, monkeypatch) -> list[str]:
    """What runs log, but that they begin and where to see them."""
    found = []
    handler = logging.Handler()
    handler.addFilter(lambda record: not record.getMessage().startswith(("Beginning", "View at")))
    handler.emit = lambda record: found.append(record.getMessage())
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        monkeypatch.setattr(logging.getLogger(name), "handlers", [handler])
    yield found
    signal.signal(signal.SIGTERM, signal.SIG_DFL)


@pytest.mark.parametrize(
    ("which", "code", "logged", "told"),
    [
        (refused, 1, ["Finished in state Failed()"] * 2, "\nfound a\n\nhint: b\n"),
        (interrupted, 130, ["Interrupted"], "interrupted; the same command resumes from"),
    ],
)
def test_why_a_run_ended_is_told_once_and_below_its_log(
    which, code, logged, told, lines, uncollected, capsys
):
    assert terminal.run(which, [], check=lambda: None) == code
    assert lines == logged
    assert told in capsys.readouterr().err


def test_a_fault_of_ours_is_logged_with_its_trace(lines, uncollected):
    assert terminal.run(broken, [], check=lambda: None) == 1
    fault, end = lines
    assert fault.startswith("Encountered exception") and "by zero" in fault
    assert end == "Finished in state Failed()"


@pytest.fixture
def uncollected():
    gc.unfreeze()  # what pytest imported, see tests/conftest.py
    gc.disable()  # as a program is while it imports
    yield
    gc.enable()
    gc.freeze()


def test_what_a_program_leaves_lying_is_collected_once_it_runs(uncollected):
    assert terminal.run(nothing, ["experiment=no/such"]) == 2
    assert gc.isenabled() and gc.get_freeze_count() > 0


@pytest.mark.parametrize("program", ["-m flows.report --help", "-c 'import flows.report'"])
def test_a_program_makes_no_model_and_takes_nothing_apart_in_the_end(program, tmp_path):
    """What Python imports in every process tells, as it ends, what a collection would look at."""
    (tmp_path / "sitecustomize.py").write_text(AT_THE_END)
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}:{ROOT}"}
    command = [sys.executable, *shlex.split(program)]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    left, collects, without_torch = json.loads((tmp_path / "told").read_text())
    is_program = program.startswith("-m")
    assert collects and without_torch == is_program
    assert (left < 1_000) == is_program, left


def test_ctrl_c_while_a_program_imports_shows_no_trace_and_a_fault_does():
    def said(error: str) -> str:
        command = [sys.executable, "-c", f"import flows; raise {error}"]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True).stderr

    assert said("KeyboardInterrupt") == "interrupted\n"
    assert said("ZeroDivisionError('x')").startswith("Traceback")
