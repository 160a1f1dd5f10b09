"""Stages on disk as `tasks.train_stage` leaves them, with a stand-in for the trainer process."""

import gc
import json
import signal
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest
from hypothesis import settings

from conf import load as loading
from conf.schema import Experiment
from tasks import drawing, prepare
from tasks import train_stage as training
from tasks.download import download
from tasks.model import Checkpoint, starting_model
from tasks.segment import segment
from tests.composing import composed
from trainer.records import append_record, keep_steps

# A slow machine is no fault of what is tested.
settings.register_profile("patient", deadline=None)
settings.load_profile("patient")
# A suite started in the background of a shell ignores Ctrl-C, and so would all that it starts.
signal.signal(signal.SIGINT, signal.default_int_handler)
gc.disable()  # until all is imported: it stays, and to look through it takes long


def pytest_collection_finish():
    gc.freeze()
    gc.enable()


def pytest_unconfigure():
    gc.unfreeze()  # libraries of vLLM's say at the end what was not taken apart


@pytest.fixture(autouse=True)
def composed_once(request, monkeypatch):
    """The files under conf/ are read once, but by tests of their own."""
    if request.path.relative_to(Path(__file__).parent).parts[0] not in ("conf", "docs"):
        monkeypatch.setattr(loading, "compose", composed)


class NoTracker:
    """Takes what a tracker takes, and keeps nothing."""

    @contextmanager
    def child_run(self, *_arguments, **_settings):
        yield SimpleNamespace(id="", log_step=lambda *_: None, log_checkpoint=lambda *_, **__: None)

    def found_stage(self, *_arguments):
        pass


@pytest.fixture
def plain_figures(monkeypatch):
    """Figures cost seconds each; they have tests of their own."""
    monkeypatch.setattr(drawing, "png", lambda _: b"")
    monkeypatch.setattr(drawing, "svg", lambda _: "<svg></svg>")
    monkeypatch.setattr(drawing, "inline", lambda *_: "")


@pytest.fixture
def train(monkeypatch):
    """The function that trains an experiment's stages, all but the learning; see `_train`."""

    def train(experiment: Experiment, *, stages=None, stop=None, tracker=None, parent="none"):
        return _train(monkeypatch, experiment, stages, stop, tracker or NoTracker(), parent)

    return train


def _train(monkeypatch, experiment, stages, stop, tracker, parent) -> list[dict]:
    """Train the first `stages` stages, or all.

    Args:
        monkeypatch: Puts the stand-in in place.
        experiment: What to train.
        stages: How many of its stages.
        stop: (position, step, error): raise the error in a stage, after a saved step.
        tracker: Where runs are kept; nowhere by default.
        parent: The run above them.

    Returns:
        The manifests, as `train_stage` gives them.
    """
    output = Path(experiment.output)
    data, checkpoint = experiment.data, starting_model(experiment.model)
    tests = {one.name: download(one, data, output) for one in experiment.evaluation.benchmarks}
    train = download(data.train, data, output)
    kept = prepare.gated(experiment, train, tests, checkpoint.path, output)
    sets = segment(kept, data, output)
    results = []
    for position, stage in enumerate(experiment.stages[:stages]):
        last, error = stage.steps, None
        if stop and stop[0] == position:
            _, last, error = stop

        def launch(folder, *_, first_step, on_step, last=last, error=error, stage=stage, **__):
            keep_steps(folder / "metrics.jsonl", first_step - 1)  # as verl's trainer does
            for step in range(first_step, last + 1):
                record = _record(step, stage)
                append_record(folder / "metrics.jsonl", record)
                on_step(record)
            saved = folder / "verl" / f"global_step_{last}"
            (saved / "actor").mkdir(parents=True, exist_ok=True)
            for name in ("stagecraft.json", "data.pt"):
                (saved / name).write_text("{}")
            (folder / "verl" / "latest_checkpointed_iteration.txt").write_text(str(last))
            if error:
                raise error
            (folder / "checkpoint").mkdir(exist_ok=True)
            (folder / "checkpoint" / "model.safetensors").write_text(f"weights of {folder.name}")
            (folder / "checkpoint" / "handoff.json").write_text(json.dumps({"parameters": 3}))

        monkeypatch.setattr(training, "launch", launch)
        result = training.train_stage(
            experiment, position, sets[stage.prompts], checkpoint, tracker, parent
        )
        results.append(result)
        checkpoint = Checkpoint(Path(result["checkpoint"]["path"]), result["checkpoint"]["digest"])
    return results


def _record(step, stage) -> dict:
    return {
        "step": step,
        "time": 1.7e9 + step,
        "reward/mean": step / 8,
        "truncated_share": 0.0,
        "response_length/mean": 20.0,
        "tokens_per_second": 1000.0,
        "seconds/step": 2.0,
        "updates": stage.batch_size // stage.mini_batch_size,
        "prompts": stage.batch_size,
        "rollouts": stage.batch_size * stage.group_size,
        "tokens/generated": 640,
        "tokens/trained": 640,
    }
