import gc
import json
import os
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
from prefect import flow

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
