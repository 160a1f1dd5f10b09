"""A page of results says what the JSON beside it holds, as its benchmark writes it today."""

import json

import pytest

from benchmarks import lab_seeds, scaling, selection, selection_lab, step, streaming
from benchmarks.record import RESULTS
from benchmarks.step_work import Work


def of_step(found: dict) -> str:
    return step.table(step.summary(found["rounds"]), Work(**found["work"]))


def of_scaling(found: dict) -> str:
    fits = {axis: scaling.fitted(points, axis) for axis, points in found["points"].items()}
    return "\n\n".join(scaling.table(of, axis, fits[axis]) for axis, of in found["points"].items())


def of_selection_lab(found: dict) -> str:
    tables = [selection_lab.table(found["runs"], target) for target in found["targets"]]
    return "\n\n".join(tables)


PAGES = {
    "step": of_step,
    "step_around": of_step,
    "scaling": of_scaling,
    "streaming": lambda found: streaming.table(found["rounds"]),
    "selection": lambda found: selection.table(found["results"]),
    "selection_lab": of_selection_lab,
    "lab_fastcurl": lambda found: lab_seeds.table(found["runs"]),
}


@pytest.mark.parametrize("name", PAGES)
def test_a_page_has_its_command_and_the_tables_of_its_figures(name):
    found = json.loads((RESULTS / f"{name}.json").read_text())
    page = (RESULTS / f"{name}.md").read_text()
    assert page.startswith(f"`{found['command']}`\n\n")
    assert page.endswith(f"\n\n{PAGES[name](found)}\n")
