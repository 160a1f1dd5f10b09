"""Runs at the same time: processes of their own, GPUs of their own, one failing alone."""

import threading
from pathlib import Path

import pytest

from conf.load import load
from conf.schema import Hardware
from conf.schema.study import Study
from conf.studies import load_study, runs
from flows import arms


@pytest.fixture
def study(tmp_path) -> Study:
    return load_study("lab_smoke", ["parallel=2", f"output={tmp_path}"])


def test_two_runs_go_at_a_time_and_one_that_fails_stops_no_other(study, tmp_path, monkeypatch):
    busy, most, seen, lock = 0, 0, [], threading.Lock()
    both = threading.Barrier(2, timeout=60)

    def run(module, arguments, *, log, environment, progress, stall_timeout, grace):
        nonlocal busy, most
        with lock:
            busy += 1
            most = max(most, busy)
            seen.append(arguments)
        both.wait()  # so that each run has company
        assert module == "flows.pipeline" and not progress()
        assert grace > Hardware().stop_grace  # its trainer may save, and it ends after that
        Path(log).write_text("out of memory\n")
        with lock:
            busy -= 1
        return 1 if "seed=1" in arguments and "name=lab_smoke-long" in arguments else 0

    monkeypatch.setattr(arms, "run_guarded", run)
    failures = arms.train(study, runs(study))
    assert list(failures) == ["long seed 1"]
    assert "ended with exit code 1; its last lines:\nout of memory" in failures["long seed 1"]
    assert most == 2 and len(seen) == 4
    assert all("experiment=lab/smoke" in arguments for arguments in seen)
    assert (tmp_path / "studies" / "lab_smoke" / "logs" / "long-seed1.log").is_file()


def test_an_interruption_ends_the_runs_that_go_and_begins_no_other(study, monkeypatch):
    begun, there = [], threading.Event()

    def run(module, arguments, *, progress, **_):
        begun.append(arguments)
        there.set()
        while True:
            progress()  # raises once the study was interrupted

    def interrupted(self):
        there.wait(60)
        raise KeyboardInterrupt

    monkeypatch.setattr(arms, "run_guarded", run)
    monkeypatch.setattr("concurrent.futures.Future.result", interrupted)
    with pytest.raises(KeyboardInterrupt):
        arms.train(study, runs(study))
    assert 1 <= len(begun) <= 2


def test_runs_at_the_same_time_get_gpus_of_their_own(study, monkeypatch):
    [run, *_] = runs(study)
    cuda = load("experiment=lab/smoke").hardware.model_copy(update={"device": "cuda", "ranks": 2})
    run = type(run)(run.arm, 0, (), run.settings.model_copy(update={"hardware": cuda}))
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "4,5,6,7")
    assert arms.devices(study, [run]) == [
        {"CUDA_VISIBLE_DEVICES": "4,5"},
        {"CUDA_VISIBLE_DEVICES": "6,7"},
    ]
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1")
    with pytest.raises(ValueError, match=r"need 4, found 2\n\nhint: parallel=1"):
        arms.devices(study, [run])
    # Any run may get any slot, so each slot has room for the largest.
    one = run.settings.model_copy(update={"hardware": cuda.model_copy(update={"ranks": 1})})
    small = type(run)(run.arm, 1, (), one)
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "0,1,2,3")
    given = arms.devices(study, [small, run])
    assert [each["CUDA_VISIBLE_DEVICES"] for each in given] == ["0,1", "2,3"]
