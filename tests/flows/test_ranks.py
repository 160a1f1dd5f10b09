"""Two ranks: verl deals rows out by length, so those of a prompt do not lie together any more."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.nightly, pytest.mark.slow, pytest.mark.timeout(1800)]


def test_every_group_is_given_the_advantages_of_its_own_prompt(tmp_path, groups_not_together):
    command = [sys.executable, "-m", "flows.train_stage", "experiment=lab/smoke", "stage=1"]
    command += ["hardware.ranks=2", f"output={tmp_path / 'out'}"]
    environment = {**os.environ, "STAGECRAFT_KEEP_ADVANTAGES": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    [path] = (tmp_path / "out" / "stages").glob("*/advantages.jsonl")
    assert groups_not_together(path, steps=2) > 0
