import os
import signal
import sys
import threading

import psutil
import pytest

from benchmarks.processes import memory_gib, run_watched, tree

SLEEP = [sys.executable, "-c", "import time; time.sleep(1)"]


def test_a_run_is_looked_at_until_it_ends():
    looked: list[int] = []
    assert run_watched([sys.executable, "-c", "raise SystemExit(3)"], looked.append, 0.001) == 3
    assert set(looked) and tree(looked[0]) == []


def test_ctrl_c_ends_the_looking_once_the_run_has_ended():
    before, looked = threading.active_count(), []

    def look(pid: int) -> None:
        if not looked:
            os.kill(os.getpid(), signal.SIGINT)
        looked.append(pid)

    # A job in the background ignores Ctrl-C, and so would the tests that it runs.
    handler = signal.signal(signal.SIGINT, signal.default_int_handler)
    try:
        with pytest.raises(KeyboardInterrupt):
            run_watched(SLEEP, look, 0.05)
    finally:
        signal.signal(signal.SIGINT, handler)
    assert threading.active_count() == before
    assert not psutil.pid_exists(looked[0])


def test_memory_is_that_of_all_who_are_still_there():
    me, gone = psutil.Process(), psutil.Popen(SLEEP)
    gone.kill()
    gone.wait()
    assert memory_gib([me, gone]) == pytest.approx(memory_gib([me]), rel=0.2)
