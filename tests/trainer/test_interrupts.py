"""Ctrl-C while a program saves: once or twice, what it saves is whole."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from trainer.guard import LISTENING

ROOT = Path(__file__).parents[2]
CALLER = """
import sys
from pathlib import Path
from trainer.process import run_guarded
here = Path(sys.argv[1])
run_guarded("saver", [str(here)], log=here / "log", environment={}, progress=lambda: False,
            stall_timeout=60, stop_file=here / "stop", grace=15.0, warm=sys.argv[2] == "True")
"""
# Saves by way of its scratch folder, where a trainer's Ray has its sockets.
SAVER = """
import os, sys, time
from pathlib import Path
here, scratch = Path(sys.argv[1]), Path(os.environ["RAY_TMPDIR"])
(here / "scratch").write_text(str(scratch))
(here / "stop.listening").touch()
while not (here / "stop").exists():
    time.sleep(0.05)
(here / "saving").touch()
time.sleep(1)
(scratch / "part").write_text("all of it")
(scratch / "part").rename(here / "saved")
(here / "stop.listening").unlink()
time.sleep(60)
"""


def wait_until(is_so: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 30
    while not is_so():
        assert time.monotonic() < deadline
        time.sleep(0.05)


@pytest.mark.parametrize("warm", [False, True], ids=["started", "forked"])
@pytest.mark.parametrize("times", [1, 2])
def test_an_interrupt_while_a_program_saves_leaves_it_what_it_needs(tmp_path, times, warm):
    (tmp_path / "saver.py").write_text(SAVER)
    with subprocess.Popen(
        [sys.executable, "-c", CALLER, str(tmp_path), str(warm)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stderr=subprocess.DEVNULL,
    ) as caller:
        wait_until((tmp_path / "stop").with_suffix(LISTENING).exists)
        caller.send_signal(signal.SIGINT)
        wait_until((tmp_path / "saving").exists)
        if times == 2:
            caller.send_signal(signal.SIGINT)
        caller.wait(30)
    wait_until((tmp_path / "saved").exists)
    assert (tmp_path / "saved").read_text() == "all of it"
    scratch = Path((tmp_path / "scratch").read_text())
    wait_until(lambda: not scratch.exists())
