"""What a stage trains from, or an evaluation scores, is what its digest says, and stays there."""

import shutil
import time
from contextlib import contextmanager
from pathlib import Path

import pytest

from tasks import evaluate as evaluation
from tasks import weights
from tasks.again import move_aside
from tasks.artifacts import folder_digest, read_json
from tasks.download import download
from tasks.model import Checkpoint
from tasks.stages import held_for_deletion, stage_folders
from tasks.unreferenced import delete, unreferenced
from tests.conftest import NoTracker
from trainer.lab import BASE

REFUSED = "found a run that trains from its checkpoint or evaluates it"


class Meanwhile(NoTracker):
    """Calls a function when a stage was found trained, and after each step of one that trains."""

    def __init__(self, found=lambda: None, step=lambda: None):
        self.found, self.step = found, step

    @contextmanager
    def child_run(self, *given, **settings):
        with super().child_run(*given, **settings) as run:
            run.log_step = lambda _: self.step()
            yield run

    def found_stage(self, *_arguments):
        self.found()


@pytest.fixture
def folder(tmp_path):
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.safetensors").write_text("weights")
    return folder


@pytest.fixture
def reads(monkeypatch):
    """The folders whose digests were computed."""
    found = []

    def counted(folder):
        found.append(folder)
        return folder_digest(folder)

    monkeypatch.setattr(weights, "folder_digest", counted)
    return found


def test_weights_that_nobody_touched_are_read_once(folder, reads, monkeypatch):
    monkeypatch.setattr(weights, "_SETTLED", 0)
    time.sleep(0.05)  # more than a tick of the disk's clock
    digest = weights.read_digest(folder)
    assert weights.unchanged(folder, digest) and len(reads) == 1
    assert not weights.unchanged(folder, "other") and len(reads) == 2


@pytest.mark.parametrize("text", ["WEIGHTS", "weights and more"])
def test_weights_that_were_touched_are_read_again(folder, monkeypatch, text):
    monkeypatch.setattr(weights, "_SETTLED", 0)
    time.sleep(0.05)
    digest = weights.read_digest(folder)
    (folder / "model.safetensors").write_text(text)
    assert not weights.unchanged(folder, digest)
    (folder / "model.safetensors").write_text("weights")
    assert weights.unchanged(folder, digest)
    (folder / "more").touch()
    assert not weights.unchanged(folder, digest)
    shutil.rmtree(folder)
    assert not weights.unchanged(folder, digest)


def test_what_was_written_just_now_is_not_known_by_its_time(folder, reads, monkeypatch):
    monkeypatch.setattr(weights, "_SETTLED", 60 * 10**9)
    digest = weights.read_digest(folder)
    assert weights.unchanged(folder, digest) and len(reads) == 2


def test_force_leaves_a_stage_that_another_trains_from_where_it_is(smoke, train):
    train(smoke(), stages=1)
    [first] = stage_folders(Path(smoke().output))
    told = []

    def force():
        with pytest.raises(ValueError, match=REFUSED) as refused:
            move_aside(first, time.time())
        told.append(str(refused.value))
        with held_for_deletion(first) as ours:
            assert not ours
        old = unreferenced(smoke().output, older_than=-1)
        [item] = [one for one in old if one.path == str(first / "verl")]
        assert delete(item).spared == "a process holds its stage"

    train(smoke(), stages=2, tracker=Meanwhile(step=force))
    assert len(told) == 2 and (first / "verl").is_dir()
    assert move_aside(first, time.time()).is_dir() and not first.exists()


def test_a_stage_is_not_trained_from_other_weights_than_its_identity_says(smoke, train):
    train(smoke(), stages=1)
    [first] = stage_folders(Path(smoke().output))

    def replace():
        (first / "checkpoint" / "model.safetensors").write_text("of another run")

    with pytest.raises(ValueError, match=r"checkpoint: found other files, needed .*\n\nhint: an"):
        train(smoke(), stages=2, tracker=Meanwhile(found=replace))
    second = next(one for one in stage_folders(Path(smoke().output)) if one != first)
    assert not (second / "stage.json").exists(), "it was begun"
    train(smoke(), stages=1)
    with pytest.raises(ValueError, match=r"checkpoint: found no folder"):
        gone = Meanwhile(found=lambda: first.rename(first.with_name("away")))
        train(smoke(), stages=2, tracker=gone)


def test_a_reference_policy_that_is_kept_is_what_it_was(smoke, train, tmp_path):
    base = shutil.copytree(BASE, tmp_path / "base")
    keep = ["stages.1.reference=keep", "stages.1.kl_coefficient=0.1", f"model.path={base}"]
    train(smoke(*keep), stages=1)
    downloaded = Meanwhile(found=lambda: (base / "README.md").write_text("another model"))
    with pytest.raises(ValueError, match=r"base: found other files.*\n\nhint: .*reference=start"):
        train(smoke(*keep), stages=2, tracker=downloaded)
    assert read_json(stage_folders(tmp_path / "out")[0] / "stage.json")["outcome"] == "finished"


def test_a_checkpoint_that_is_another_by_now_is_not_scored(smoke, folder, monkeypatch):
    experiment = smoke()
    [source] = experiment.evaluation.benchmarks
    benchmark = download(source, experiment.data, Path(experiment.output))
    checkpoint = Checkpoint.of(folder)
    (folder / "model.safetensors").write_text("others")
    monkeypatch.setattr(evaluation.generations, "complete", lambda *_: pytest.fail("sampled"))
    with pytest.raises(ValueError, match="model: found other files"):
        evaluation.evaluate(experiment, benchmark, checkpoint, "base", -1, NoTracker(), "none")
