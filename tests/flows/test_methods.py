"""Every method, lab recipe and selection for a few steps on verl itself: `make test-methods`.

All share an output folder, so that a stage which several recipes begin with is trained once. What
each did goes to `methods.md` and `selections.md` in the folder that `--methods-table` names.
"""

import math
import os
import re
import subprocess
import sys
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from conf.load import choices, load
from tasks.artifacts import read_json
from tasks.journal import Journal, journals
from trainer.records import read_records

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 2
METHODS = choices("method")
SELECTIONS = choices("selection")
SELECTION_STEPS = 8
RECIPES = [name for name in choices("experiment") if name.startswith("lab/")]
HEAD = """# Every method and every lab recipe, for two steps a stage on verl

`make test-methods`: {cores} cores, verl {verl}, torch {torch}, commit {commit}. Two steps a stage
say that a recipe runs and that its numbers are finite, not that it learns. Stages that several
recipes begin with are trained once. Seconds are those of the whole pipeline.

"""
SELECTIONS_HEAD = """# Every selection, for eight steps on verl

`make test-methods`: {cores} cores, verl {verl}, torch {torch}, commit {commit}. lab/selection: 8
prompts of 16 rollouts a step. What the ledger counted in eight steps says that a selection runs and
keeps its books, not which is better: that is `selection_lab.md`.

"""
LEFT = ("solved", "hopeless", "out_of_bounds", "surplus", "failed")
LEDGER = ("drawn", "skipped", "screened", "continued", "trained", *LEFT, "short")
SELECTION_COLUMNS = ("selection", *LEDGER, "rollouts", "of them trained", "updates", "s")
COLUMNS = (
    "settings",
    "stages",
    "trained here",
    "updates",
    "rollouts",
    "loss",
    "gradient norm",
    "s",
)


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("methods") / "outputs"


@pytest.fixture(scope="module")
def tables(request):
    """Begins a table: its file, head, columns and rows. It is written once it has them all."""
    folder = request.config.getoption("--methods-table", None)
    git = ["git", "describe", "--always", "--dirty"]
    facts = {
        "cores": len(os.sched_getaffinity(0)),
        "verl": version("verl"),
        "torch": version("torch"),
        "commit": subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
    }

    def begin(name: str, head: str, columns: tuple[str, ...], rows: int):
        lines: list[str] = []

        def add(*cells: object) -> None:
            lines.append("| " + " | ".join(map(str, cells)) + " |\n")
            if folder and len(lines) == 2 + rows:
                (Path(folder) / name).write_text(head.format(**facts) + "".join(lines))

        add(*columns)
        add(*("---" for _ in columns))
        return add

    return begin


@pytest.fixture(scope="module")
def table(tables):
    return tables("methods.md", HEAD, COLUMNS, len(METHODS) + len(RECIPES))


@pytest.fixture(scope="module")
def selections(tables):
    return tables("selections.md", SELECTIONS_HEAD, SELECTION_COLUMNS, len(SELECTIONS))


def run(output: Path, *overrides: str, stages: int, steps: int) -> tuple[list[Path], str, float]:
    """Run the pipeline: its stages' folders, what it said, and seconds."""
    short = [f"stages.{i}.steps={steps}" for i in range(stages)]
    began = time.monotonic()
    done = subprocess.run(
        [sys.executable, "-m", "flows.pipeline", *overrides, *short, f"output={output}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    seconds = time.monotonic() - began
    said = done.stdout + done.stderr
    assert done.returncode == 0, said[-6000:]
    told = Journal.read(journals(output)[-1]).children
    folders = [Path(run.checkpoint["path"]).parent for run in told if run.kind == "stage"]
    assert len(folders) == stages
    for folder in folders:
        records = read_records(folder / "metrics.jsonl")
        assert [record["step"] for record in records] == list(range(1, steps + 1))
        left = 0.0  # rollouts of a prompt that was screened a step ahead train in the next
        for record in records:
            assert math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])
            left += record["tokens/generated"] - record["tokens/trained"]
            assert record["tokens/trained"] > 0 and left >= 0
    return folders, said, seconds


def train(output: Path, table, *overrides: str, stages: int) -> None:
    """Run the pipeline, and add what its stages did to the table."""
    folders, said, seconds = run(output, *overrides, stages=stages, steps=STEPS)
    records = read_records(folders[-1] / "metrics.jsonl")
    manifests = [read_json(folder / "stage.json") for folder in folders]
    made = len(re.findall(rf" step {STEPS}/{STEPS} ", said))
    counted = [sum(one["counters"][name] for one in manifests) for name in ("updates", "rollouts")]
    last = (f"{records[-1]['loss']:.4f}", f"{records[-1]['grad_norm']:.3g}")
    table(" ".join(overrides), stages, made, *counted, *last, f"{seconds:.0f}")


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(output, table, method):
    settings = ["experiment=lab/smoke", f"method={method}", "stages.0.batch_size=16"]
    train(output, table, *settings, stages=2)


@pytest.mark.parametrize("name", RECIPES)
def test_every_lab_recipe_trains(output, table, name):
    stages = len(load(f"experiment={name}").stages)
    train(output, table, f"experiment={name}", "evaluation=lab_smoke", stages=stages)


@pytest.mark.parametrize("name", SELECTIONS)
def test_every_selection_trains(output, selections, name):
    """And keeps its books: what it drew was trained on, waits, or left; none of it twice."""
    settings = ["experiment=lab/selection", f"selection={name}", "evaluation=lab_smoke"]
    (folder,), _, seconds = run(output, *settings, stages=1, steps=SELECTION_STEPS)
    records = read_records(folder / "metrics.jsonl")
    total = {key: sum(r[f"selection/{key}"] for r in records) for key in LEDGER}
    sealed = [g["number"] for r in read_records(folder / "groups.jsonl") for g in r["groups"]]
    assert len(set(sealed)) == len(sealed) == total["drawn"]
    left = sum(total[fate] for fate in LEFT)
    assert total["drawn"] == total["trained"] + left + records[-1]["selection/waiting"]
    rollouts = [sum(r[name] for r in records) for name in ("rollouts", "rollouts/trained")]
    updates = read_json(folder / "stage.json")["counters"]["updates"]
    counted = [*total.values(), *rollouts, updates]
    selections(name, *(f"{value:.0f}" for value in counted), f"{seconds:.0f}")
