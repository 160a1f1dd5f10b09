import fcntl
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from trainer.holding import at_work, hold

ROOT = Path(__file__).parents[2]
WORKS = """
import subprocess, sys
from pathlib import Path
from trainer.holding import hold

hold(Path(sys.argv[1]), "trainer")
left = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
print(left.pid, flush=True)
sys.stdin.read()
"""


@pytest.fixture
def works(tmp_path):
    """A process that holds the folder, and has started another."""
    command = [sys.executable, "-c", WORKS, tmp_path]
    pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE}
    with subprocess.Popen(command, cwd=ROOT, **pipes) as process:
        left = int(process.stdout.readline())
        yield process
        process.kill()
        os.kill(left, signal.SIGKILL)


def test_a_process_holds_a_folder_until_it_ends_and_what_it_started_does_not(works, tmp_path):
    assert at_work(tmp_path) == ["trainer"]
    works.kill()
    works.wait(10)
    assert at_work(tmp_path) == []


def test_no_two_are_the_same_in_a_folder(works, tmp_path):
    with pytest.raises(RuntimeError, match=r"found another trainer at work(.|\n)*hint: "):
        hold(tmp_path, "trainer")


def test_two_who_look_see_nobody(tmp_path):
    (tmp_path / "trainer.lock").touch()
    with (tmp_path / "trainer.lock").open() as file:
        fcntl.flock(file, fcntl.LOCK_SH)
        assert at_work(tmp_path) == []
