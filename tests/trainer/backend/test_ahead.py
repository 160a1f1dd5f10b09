"""A trainer that is begun before its stage: taken, not fitting, killed, never asked for."""

import textwrap
import time
from contextlib import suppress
from pathlib import Path
from threading import Event

import psutil
import pytest

from trainer import standby
from trainer.backend import ahead
from trainer.backend.ahead import begin_ahead, end_ahead, take_ahead

RAY = {"+ray_kwargs.ray_init.include_dashboard": False}
# Waits as a trainer does, but starts no Ray; then says what it was given, and may wait again.
PROGRAM = """
import json, os, sys, time
from pathlib import Path
from trainer.backend.waiting import wait_for_stage
scratch = Path(sys.argv[1])
print(json.loads((scratch / "ray.json").read_text()), os.environ["GIVEN"], flush=True)
(scratch / "pid").write_text(str(os.getpid()))
folder = wait_for_stage(scratch)
print("trains", folder, flush=True)
(folder / "stop.listening").touch()
while (folder / "hold").exists() and not (folder / "stop").exists():
    time.sleep(0.05)
print("was asked to stop:", (folder / "stop").exists(), flush=True)
(folder / "stop.listening").unlink()
"""


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """Where the program lies: one folder, since a standby keeps its PYTHONPATH."""
    folder = tmp_path_factory.mktemp("programs")
    (folder / "waits.py").write_text(textwrap.dedent(PROGRAM))
    return folder


@pytest.fixture
def waits(programs, monkeypatch):
    """The environment of a trainer that is begun."""
    monkeypatch.setenv("PYTHONPATH", str(programs))
    monkeypatch.setattr(ahead, "WAITING", "waits")
    yield {"GIVEN": "given"}
    end_ahead()


@pytest.fixture
def folder(tmp_path):
    """A stage's."""
    path = tmp_path / "stage of blanks"
    path.mkdir()
    return path


def begun() -> tuple[psutil.Process, Path]:
    """The process that waits, and its scratch folder."""
    scratch = ahead._begun[-1]._scratch
    deadline = time.monotonic() + 120
    while not (scratch / "pid").exists() or not (scratch / "pid").read_text():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    return psutil.Process(int((scratch / "pid").read_text())), scratch


def shown(process: psutil.Process) -> list[str]:
    return [word for word in process.cmdline() if word]  # a fork fills its ancestor's room


def gone(process: psutil.Process) -> bool:
    return not process.is_running() or process.status() == psutil.STATUS_ZOMBIE


def watch(program, folder, progress=lambda: False) -> int:
    return program.watch(folder / "trainer.log", progress, 60)


def test_the_stage_that_it_waited_for_is_trained_by_it(waits, folder):
    begin_ahead(RAY, waits, 5.0)
    process, scratch = begun()
    assert shown(process)[1:] == ["-m", "waits", str(scratch)]
    (folder / "hold").touch()
    program = take_ahead(folder, RAY, waits)
    seen = []

    def progress() -> bool:
        if "trains" in (folder / "trainer.log").read_text():
            with suppress(psutil.NoSuchProcess):  # asked once more after its end
                seen.append(shown(process))
            (folder / "hold").unlink(missing_ok=True)
        return False

    assert watch(program, folder, progress) == 0
    said = (folder / "trainer.log").read_text()
    assert "include_dashboard': False} given" in said, "what it said while it waited"
    assert f"trains {folder}" in said and " s before its stage" in said
    assert seen[0][1:] == ["-m", "trainer.backend.main", str(folder)]
    assert gone(process) and not scratch.exists()
    assert take_ahead(folder, RAY, waits) is None, "it is taken once"


def test_a_stage_that_is_stopped_may_save_first(waits, folder):
    begin_ahead(RAY, waits, 20.0)
    (folder / "hold").touch()

    def progress() -> bool:
        if (folder / "stop.listening").exists():
            raise KeyboardInterrupt
        return False

    with pytest.raises(KeyboardInterrupt):
        watch(take_ahead(folder, RAY, waits), folder, progress)
    assert "was asked to stop: True" in (folder / "trainer.log").read_text()


@pytest.mark.parametrize("other", ["ray", "environment", "flow"])
def test_one_that_began_with_other_settings_is_ended(waits, folder, other, monkeypatch):
    begin_ahead(RAY, waits, 5.0)
    process, scratch = begun()
    if other == "flow":
        monkeypatch.setenv("STAGECRAFT_SOMETHING", "else")
    ray = {**RAY, "ray_kwargs.ray_init.num_cpus": 32} if other == "ray" else RAY
    environment = {**waits, "OMP_NUM_THREADS": "3"} if other == "environment" else waits
    assert take_ahead(folder, ray, environment) is None
    assert gone(process) and not scratch.exists()


def test_what_a_flow_sets_as_it_goes_makes_no_difference(waits, folder, monkeypatch):
    begin_ahead(RAY, waits, 5.0)
    for name in (*standby.SET_BY_IMPORTS, "MLFLOW_RUN_ID", "PREFECT_API_URL"):
        monkeypatch.setenv(name, "set")
    assert watch(take_ahead(folder, RAY, waits), folder) == 0


def test_one_that_was_killed_is_not_taken(waits, folder):
    begin_ahead(RAY, waits, 5.0)
    process, scratch = begun()
    process.kill()
    deadline = time.monotonic() + 30
    while scratch.exists():  # the guard's last act
        assert time.monotonic() < deadline
        time.sleep(0.05)
    assert take_ahead(folder, RAY, waits) is None


def test_what_no_stage_takes_ends(waits):
    begin_ahead(RAY, waits, 5.0)
    process, scratch = begun()
    begin_ahead(RAY, waits, 5.0)
    assert begun()[0] == process, "one is enough"
    end_ahead()
    assert gone(process) and not scratch.exists()


def test_one_that_takes_long_to_begin_is_not_waited_for_and_ends_when_it_has(waits, monkeypatch):
    """As where a flow is interrupted while the process that it is forked of still imports."""
    asked, ready, real = Event(), Event(), ahead.start

    def slow(*given, **more):
        asked.set()
        ready.wait(60)
        return real(*given, **more)

    monkeypatch.setattr(ahead, "start", slow)
    begin_ahead(RAY, waits, 5.0)
    begun = ahead._begun[-1]
    assert asked.wait(60)
    end_ahead()
    assert begun._beginning.is_alive() and not begun._scratch.exists()
    ready.set()
    begun._beginning.join(60)
    assert begun._program is not None and not begun._program.runs
    assert not begun._scratch.exists()


def test_where_nothing_can_be_forked_nothing_is_begun(waits, folder, monkeypatch):
    monkeypatch.setattr("trainer.process.possible", lambda: False)
    begin_ahead(RAY, waits, 5.0)
    assert take_ahead(folder, RAY, waits) is None


def test_where_there_is_no_room_nothing_is_begun(waits, folder, monkeypatch):
    def full(*_, **__):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(ahead, "new_scratch", full)
    begin_ahead(RAY, waits, 5.0)
    assert take_ahead(folder, RAY, waits) is None


def test_ray_settings_are_those_that_ray_is_started_with():
    values = {"trainer.nnodes": 1, "ray_kwargs.ray_init.num_cpus": 16, **RAY}
    assert ahead.ray_settings(values) == {"ray_kwargs.ray_init.num_cpus": 16, **RAY}
