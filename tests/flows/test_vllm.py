"""One lab stage on real vLLM, CPU build: trained, exported, evaluated, and graded the same way."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tasks.artifacts import Dataset, read_json
from trainer.records import read_records
from trainer.rewards import grade

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.timeout(1800)]


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    """One stage of two steps, and the scores before and after it."""
    stage = {
        "name": "vllm-L1-48",
        "prompts": "L1",
        "context_length": 48,
        "steps": 2,
        "batch_size": 8,
        "mini_batch_size": 8,
        "group_size": 4,
        "learning_rate": 3e-5,
        "temperature": 1.0,
    }
    text = "{" + ",".join(f"{key}:{value}" for key, value in stage.items()) + "}"
    folder = tmp_path_factory.mktemp("vllm")
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "flows.pipeline",
            "experiment=lab/smoke",
            "hardware=cpu_vllm",
            f"stages=[{text}]",
            f"output={folder / 'outputs'}",
        ],
        cwd=folder,
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        capture_output=True,
        text=True,
        timeout=1700,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return folder / "outputs"


def test_vllm_and_trainer_agree_on_probabilities(output):
    (manifest,) = (output / "stages").glob("*/stage.json")
    stage = json.loads(manifest.read_text())
    assert stage["settings"]["hardware"]["rollout"] == "vllm"
    records = read_records(manifest.parent / "metrics.jsonl")
    assert len(records) == 2
    for record in records:
        assert 0 < record["probability_difference/max"] < 1e-3
        assert 0 < abs(record["kl_to_engine"]) < 1e-4


def test_responses_of_vllm_are_graded_as_any_others(output):
    (data,) = (Dataset.load(path) for path in (output / "data").glob("lab_test-*"))
    answers = {row["id"]: row["answers"] for row in data.table().to_pylist()}
    folders = list((output / "evaluations").iterdir())
    assert len(folders) == 2
    for folder in folders:
        assert read_json(folder / "evaluation.json")["sampling"]["engine"] == "vllm"
        rows = pq.read_table(folder / "responses.parquet").to_pylist()
        assert len(rows) == 8 * 2
        for row in rows:
            assert grade(row["response"], answers[row["id"]]).correct == row["correct"]
        assert any(row["correct"] for row in rows)
