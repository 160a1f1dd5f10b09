"""Every method, and every lab recipe, for two steps a stage on verl itself: `make test-methods`."""

import math
import subprocess
import sys
from pathlib import Path

import pytest

from conf.load import choices, load
from trainer.records import read_records

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.timeout(3600)]
STEPS = 2
METHODS = [f"method={name}" for name in choices("method")]
RECIPES = [name for name in choices("experiment") if name.startswith("lab/")]


def train(tmp_path: Path, *overrides: str) -> None:
    """Run the pipeline, and look at what each stage recorded."""
    stages = load(*overrides).stages
    short = [f"stages.{i}.steps={STEPS}" for i in range(len(stages))]
    done = subprocess.run(
        [sys.executable, "-m", "flows.pipeline", *overrides, *short, f"output={tmp_path}"],
        cwd=ROOT,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    folders = {path.name.rpartition("-")[0]: path for path in (tmp_path / "stages").iterdir()}
    for stage in stages:
        records = read_records(folders[stage.name] / "metrics.jsonl")
        assert [record["step"] for record in records] == [1, 2]
        for record in records:
            assert math.isfinite(record["loss"]) and math.isfinite(record["grad_norm"])
            assert 0 < record["tokens/trained"] <= record["tokens/generated"]


@pytest.mark.parametrize("method", METHODS)
def test_every_method_trains(tmp_path, method):
    train(tmp_path, "experiment=lab/smoke", method, "stages.0.batch_size=16")


@pytest.mark.parametrize("name", RECIPES)
def test_every_lab_recipe_trains(tmp_path, name):
    train(tmp_path, f"experiment={name}", "evaluation=lab_smoke")
