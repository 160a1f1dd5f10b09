"""Of what lies in /dev/shm, a guard removes what its programs made there, and nothing else."""

import json
import os
import shutil
import tempfile
import textwrap
from pathlib import Path

import pytest

from trainer import leftovers
from trainer.process import run_guarded

# Maps the user's files as safetensors and pyarrow do, makes what Python and torch make, and dies.
MAPS_AND_DIES = """
import mmap, os, signal, sys, time
from multiprocessing.shared_memory import SharedMemory
from pathlib import Path

held = []
for path in sys.argv[2:]:
    with open(path, "rb") as file:
        held.append(mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ))
whose = os.getpid()
Path(sys.argv[2]).rename(f"/dev/shm/kept-{whose}.parquet")
made = SharedMemory(create=True, size=4096)
with open(f"/dev/shm/torch_{whose}_7_0", "wb+") as file:
    file.truncate(4096)
    held.append(mmap.mmap(file.fileno(), 4096))
open(f"/dev/shm/sem.loky-{whose}-x", "w").close()
print(whose, made.name, flush=True)
noted = ""
while made.name not in noted or f"torch_{whose}" not in noted:
    time.sleep(0.05)
    noted = Path(os.environ["RAY_TMPDIR"], "guard.json").read_text()
os.kill(os.getppid() if sys.argv[1] == "the guard" else whose, signal.SIGKILL)
time.sleep(60)
"""


@pytest.fixture
def weights():
    """Weights in a folder in /dev/shm, where `model.path` or `output` may lie."""
    folder = Path(tempfile.mkdtemp(prefix="model-", dir="/dev/shm"))
    weights = folder / "model.safetensors"
    weights.write_bytes(bytes(4096))
    yield weights
    shutil.rmtree(folder)


@pytest.mark.parametrize("dies", ["the program", "the guard"])
def test_the_users_own_files_stay_and_what_a_program_made_goes(
    tmp_path, monkeypatch, weights, dies
):
    (tmp_path / "maps_and_dies.py").write_text(textwrap.dedent(MAPS_AND_DIES))
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    data = Path(f"/dev/shm/data-of-{os.getpid()}.parquet")
    data.write_bytes(b"the user's data")
    own = Path(f"/dev/shm/more-of-{os.getpid()}.parquet")
    own.write_bytes(b"more of it")
    log = tmp_path / "log"
    made = []
    try:
        run_guarded(
            "maps_and_dies",
            [dies, str(data), str(own), str(weights)],
            log=log,
            environment={},
            progress=lambda: False,
            stall_timeout=60,
        )
        pid, shared = log.read_text().split()[:2]
        renamed = Path(f"/dev/shm/kept-{pid}.parquet")
        made = [renamed, *(Path("/dev/shm", name) for name in (shared, f"torch_{pid}_7_0"))]
        made.append(Path(f"/dev/shm/sem.loky-{pid}-x"))
        assert weights.exists() and own.exists()
        assert [path for path in made if path.exists()] == [renamed]
    finally:
        for path in (data, own, *made):
            path.unlink(missing_ok=True)


def test_a_note_that_does_not_say_what_was_there_before_removes_nothing(tmp_path):
    file = Path(f"/dev/shm/data-of-{os.getpid()}.parquet")
    file.touch()
    scratch = tmp_path / "stagecraft-1"
    scratch.mkdir()
    note = {"pids": [os.getpid()], "files": [str(file)]}
    (scratch / "guard.json").write_text(json.dumps(note))
    try:
        assert leftovers.sweep(tmp_path) == [scratch]
        assert file.exists()
    finally:
        file.unlink()
