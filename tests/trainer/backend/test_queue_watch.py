"""The watch over verl's transfer queue; `tests/faults` kills real ones."""

import inspect
import sys
import threading
from contextlib import suppress
from types import SimpleNamespace

import pytest
import transfer_queue
from transfer_queue import interface

from trainer.backend import queue_watch


@pytest.fixture
def queue(monkeypatch):
    """A queue that is opened and closed by name only; what was closed, and threads that watch."""
    calls = []
    monkeypatch.setattr(transfer_queue, "init", lambda settings: settings)
    monkeypatch.setattr(transfer_queue, "close", lambda: calls.append("closed"))
    monkeypatch.setattr(queue_watch, "processes", dict)
    monkeypatch.setattr(queue_watch, "LOOK", 0.01)
    monkeypatch.setattr(queue_watch, "GRACE", 0.05)
    return calls


def as_verl_does(fails: bool) -> None:
    assert transfer_queue.init("settings") == "settings"
    try:
        if fails:
            raise RuntimeError("no memory")
    finally:
        transfer_queue.close()


@pytest.mark.parametrize("leave_open", [False, True])
@pytest.mark.parametrize("fails", [False, True])
def test_the_queue_is_left_open_only_without_an_error_and_only_where_asked(
    queue, fails, leave_open
):
    before = transfer_queue.init, transfer_queue.close
    with suppress(RuntimeError), queue_watch.watched(pytest.fail, leave_open=leave_open):
        as_verl_does(fails)
    assert queue == ["closed"] * (fails or not leave_open)
    assert (transfer_queue.init, transfer_queue.close) == before


def test_a_queue_that_verl_closes_is_not_lost(queue, monkeypatch):
    """Its processes end then, and whoever looks at them finds them dead."""
    lost = []
    monkeypatch.setattr(queue_watch, "dead", lambda _: ["controller"])
    monkeypatch.setattr(queue_watch, "os", SimpleNamespace(_exit=lost.append))
    with queue_watch.watched(lost.append, leave_open=False):
        as_verl_does(False)
        for thread in threading.enumerate():
            if thread.name == queue_watch.NAME:
                thread.join(10)
    assert lost == []


def test_a_queue_that_dies_is_told_and_this_process_ends(queue, monkeypatch):
    told, ended = [], threading.Event()
    monkeypatch.setattr(queue_watch, "dead", lambda _: ["controller", "storage 0"])
    exits = SimpleNamespace(_exit=lambda code: (told.append(code), ended.set(), sys.exit()))
    monkeypatch.setattr(queue_watch, "os", exits)
    with queue_watch.watched(told.append, leave_open=True):
        transfer_queue.init("settings")
        assert ended.wait(10)
    error, code = told
    assert code == 1 and isinstance(error, queue_watch.QueueLostError)
    assert str(error).startswith("found the transfer queue's controller and storage 0 dead, needed")
    assert "\n\nhint: " in str(error)


def test_this_process_ends_even_where_nothing_can_be_told(queue, monkeypatch):
    ended = threading.Event()
    monkeypatch.setattr(queue_watch, "dead", lambda _: ["controller"])
    exits = SimpleNamespace(_exit=lambda code: (ended.set(), sys.exit()))
    monkeypatch.setattr(queue_watch, "os", exits)

    def full(error):
        raise OSError("no space left on device")

    with queue_watch.watched(full, leave_open=True):
        transfer_queue.init("settings")
        assert ended.wait(10)


def test_the_processes_of_a_queue_are_those_that_it_opened_here(monkeypatch):
    """Read where transfer_queue keeps them: it offers no other way."""
    assert queue_watch.processes() == {"controller": None}
    monkeypatch.setattr(interface, "_TQ_CONTROLLER", "one")
    monkeypatch.setattr(interface, "_TQ_STORAGE", {"SimpleStorage": {"id": "two", "di": "three"}})
    assert queue_watch.processes() == {
        "controller": "one",
        "storage 0": "two",
        "storage 1": "three",
    }
    assert "_TQ_STORAGE[backend_name] = backend_resources" in inspect.getsource(interface)
