"""Every method, and every lab recipe, for two steps a stage on verl itself: `make test-methods`.

All share an output folder, so that a stage which several recipes begin with is trained once. What
each did goes to `methods.md` in the folder that `--methods-table` names.
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
RECIPES = [name for name in choices("experiment") if name.startswith("lab/")]
HEAD = """# Every method and every lab recipe, for two steps a stage on verl

`make test-methods`: {cores} cores, verl {verl}, torch {torch}, commit {commit}. Two steps a stage
say that a recipe runs and that its numbers are finite, not that it learns. Stages that several
recipes begin with are trained once. Seconds are those of the whole pipeline.

"""
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
def table(request):
    """Lines of the table; written whenever one is added."""
    folder = request.config.getoption("--methods-table", None)
    git = ["git", "describe", "--always", "--dirty"]
    facts = {
        "cores": len(os.sched_getaffinity(0)),
        "verl": version("verl"),
        "torch": version("torch"),
        "commit": subprocess.run(git, cwd=ROOT, capture_output=True, text=True).stdout.strip(),
    }
    lines: list[str] = []

    def add(*cells: object) -> None:
        lines.append("| " + " | ".join(map(str, cells)) + " |\n")
        if folder:
            (Path(folder) / "methods.md").write_text(HEAD.format(**facts) + "".join(lines))

    add(*COLUMNS)
    add(*("---" for _ in COLUMNS))

    return add


def train(output: Path, table, *overrides: str, stages: int) -> None:
    """Run the pipeline, and look at what each of its stages recorded."""
    short = [f"stages.{i}.steps={STEPS}" for i in range(stages)]
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
        assert [record["step"] for record in records] == [1, 2]
        for record in records:
            assert math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])
            assert 0 < record["tokens/trained"] <= record["tokens/generated"]
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
