"""A long step says now and then that it goes on, and one that stands still says nothing."""

from types import SimpleNamespace

import pytest
from verl.workers.engine_workers import TrainingWorker

from trainer.backend import signs, worker
from trainer.backend.signs import Signs


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(signs, "time", SimpleNamespace(monotonic=lambda: now.seconds))
    return now


def test_signs_come_seldom_and_only_with_progress(clock, capsys):
    made = Signs()
    for clock.seconds in range(0, 1000, 100):
        made.tell(f"at {clock.seconds}")
    assert capsys.readouterr().out.split("\n") == ["at 300", "at 600", "at 900", ""]


def test_a_mini_batch_of_a_long_update_is_a_sign(clock, capsys, monkeypatch):
    monkeypatch.setattr(worker, "SIGNS", Signs())
    monkeypatch.setattr(worker, "count_rollouts", lambda *_: None)
    actor = object.__new__(worker.ActorWorker)
    actor.engine = SimpleNamespace(get_data_parallel_group=lambda: None)

    def train_batch(self, data):
        clock.seconds += data
        return data

    monkeypatch.setattr(TrainingWorker, "train_batch", train_batch)
    assert actor.train_batch(10) == 10 and not capsys.readouterr().out
    assert actor.train_batch(900) == 900
    assert capsys.readouterr().out == "an update was made, the step goes on\n"
