"""Flows without learning and sampling: stand-ins for the two processes that take the time."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest

from tasks import generations
from tasks import train_stage as training
from tasks.artifacts import read_json
from trainer.generate import Request, Response, made, missing, write_part
from trainer.lab import BASE
from trainer.records import append_record


def pytest_addoption(parser):
    parser.addoption("--methods-table", help="folder to write methods.md to")


@pytest.fixture
def quick(monkeypatch) -> SimpleNamespace:
    """Stages and scores take no time. `trained` and `scored` are the folders that did run."""
    done = SimpleNamespace(trained=[], scored=[])

    def launch(folder: Path, *_, first_step, on_step, **__):
        stage = read_json(folder / "stage.json")["settings"]["stage"]
        for step in range(first_step, stage["steps"] + 1):
            append_record(folder / "metrics.jsonl", _record(step, stage))
            on_step(_record(step, stage))
        shutil.copytree(BASE, folder / "checkpoint")  # for its tokenizer
        (folder / "checkpoint" / "model.safetensors").write_text(f"weights of {folder.name}")
        (folder / "checkpoint" / "handoff.json").write_text(json.dumps({"parameters": 3}))
        done.trained.append(stage["name"])

    def sample(_module, arguments, **_) -> int:
        folder = Path(arguments[0])
        asked = read_json(folder / "request.json")
        wanted = missing(Request(**asked), made(folder))
        write_part(folder, [Response(*job, "</think>\\boxed{0}", 5, False) for job in wanted], 2.0)
        done.scored.append(asked["checkpoint"])
        return 0

    monkeypatch.setattr(training, "launch", launch)
    monkeypatch.setattr(generations, "run_guarded", sample)
    return done


def _record(step: int, stage: dict) -> dict:
    return {
        "step": step,
        "time": 1.7e9 + step,
        "reward/mean": step / 8,
        "truncated_share": 0.0,
        "response_length/mean": 20.0,
        "tokens_per_second": 1000.0,
        "seconds/step": 2.0,
        "updates": stage["batch_size"] // stage["mini_batch_size"],
        "prompts": stage["batch_size"],
        "rollouts": stage["batch_size"] * stage["group_size"],
        "tokens/generated": 640,
        "tokens/trained": 640,
    }
