"""What a dead process left running in a journal is closed as the disk says."""

from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace

import pytest

from conf.load import load
from tasks.artifacts import read_json, write_json
from tasks.journal import Journal, Run


@pytest.fixture
def left(tmp_path, train):
    """The journal of a process that died when its stage had finished, and the stage's manifest."""
    experiment = load("experiment=lab/smoke", f"output={tmp_path / 'out'}")
    journal = Journal.begin(Path(experiment.output), experiment.name, "store", name="pipeline")

    class Dying:
        @contextmanager
        def child_run(self, _parent, name, kind, params, tags, *_given, **_settings):
            run = journal.child(kind, name, tags=tags)
            journal.write()
            ignore = {"log_step": lambda _: None, "log_checkpoint": lambda *_, **__: None}
            yield SimpleNamespace(id=run.id, **ignore)

    [manifest] = train(experiment, stages=1, tracker=Dying())
    return Journal.read(journal.folder), manifest


def test_a_stage_that_had_finished_has_finished(left):
    journal, manifest = left
    assert journal.close() and journal.run.outcome == "interrupted"
    [run] = journal.children
    assert (run.outcome, run.reason) == ("finished", "")
    assert run.ended == manifest["attempts"][-1]["ended"]
    assert run.checkpoint == {**manifest["checkpoint"], "step": 2}
    assert not journal.close()


@pytest.mark.parametrize(
    "change",
    [
        lambda manifest: manifest | {"outcome": "interrupted"},
        lambda manifest: manifest | {"attempts": [{**manifest["attempts"][0], "run": "other/1"}]},
        lambda manifest: {},
    ],
    ids=["not finished", "finished by another", "damaged"],
)
def test_a_stage_that_it_did_not_finish_was_interrupted(left, change):
    journal, manifest = left
    path = manifest["folder"] / "stage.json"
    write_json(path, change(read_json(path)))
    assert journal.close()
    [run] = journal.children
    assert run.outcome == "interrupted" and run.checkpoint is None


def test_no_run_ends_before_it_began_though_the_clock_be_set_back():
    run = Run("id", "pipeline", "name", started=2e9)  # by a clock that was ahead
    run.end("finished")
    assert run.ended == run.started
    run.end("finished", ended=2e9 + 5)
    assert run.ended == 2e9 + 5
