"""prefect.yaml is put on a server that may hang: programs of a test stand for both."""

import sys
import time
from types import SimpleNamespace

import psutil
import pytest

from flows import deploying
from flows.daemons import alive

DEPLOYS = "Successfully created Deployment 'pipeline/local'"


@pytest.fixture
def program(tmp_path, monkeypatch):
    """Makes a script stand for what deploys."""
    monkeypatch.setattr(deploying, "LOOK", 0.05)
    monkeypatch.setattr(deploying, "HUNG", 0.3)

    def make(script: str) -> None:
        python = tmp_path / "python"
        python.write_text(f"#!/bin/sh\ncd {tmp_path}\n{script}\n")
        python.chmod(0o755)
        monkeypatch.setattr(sys, "executable", str(python))

    return make


def server(healthy) -> SimpleNamespace:
    return SimpleNamespace(
        environment=lambda: None,
        healthy=lambda _: healthy(),
        server=SimpleNamespace(name="prefect-server", log="server.log"),
    )


def never() -> None:
    raise AssertionError("a server that answers was started again")


def has_ended(pid: int) -> bool:
    deadline = time.monotonic() + 5
    while psutil.pid_exists(pid) and alive(psutil.Process(pid)):
        if time.monotonic() > deadline:
            return False
        time.sleep(0.05)
    return True


def test_a_server_that_answers_is_left_alone(program):
    program(f'sleep 1; echo "{DEPLOYS}"')
    assert deploying.deploy(server(lambda: True), never) == ["pipeline/local"]


def test_a_server_that_hangs_is_started_again_and_deployed_to(program, tmp_path):
    program(f'test -f well && echo "{DEPLOYS}" && exit; sleep 600 & echo $! > pid; wait')
    well = tmp_path / "well"
    assert deploying.deploy(server(well.exists), well.touch) == ["pipeline/local"]
    assert has_ended(int((tmp_path / "pid").read_text()))


def test_one_that_is_slow_now_and_then_does_not_hang(program):
    program(f'sleep 1; echo "{DEPLOYS}"')
    looks = iter(range(1000))
    assert deploying.deploy(server(lambda: next(looks) % 3 == 2), never) == ["pipeline/local"]


def test_a_server_that_hangs_each_time_is_told(program):
    program("sleep 600")
    starts = []
    with pytest.raises(RuntimeError, match=r"hung 3 times .*\n\nhint: see server.log"):
        deploying.deploy(server(lambda: False), lambda: starts.append(1))
    assert len(starts) == 2  # none for nothing


def test_a_deployment_that_hangs_is_not_waited_for(program, tmp_path, monkeypatch):
    program("sleep 600 & echo $! > pid; wait")
    monkeypatch.setattr(deploying, "LONGEST", 1.0)
    with pytest.raises(RuntimeError, match=r"not deployed within 1 s\n\nhint: see server.log"):
        deploying.deploy(server(lambda: True), never)
    assert has_ended(int((tmp_path / "pid").read_text()))


@pytest.mark.parametrize("script", ["echo oops >&2; exit 1", f"echo {DEPLOYS!r}; exit 1", "true"])
def test_one_that_fails_is_told_with_what_it_said(program, script):
    program(script)
    with pytest.raises(RuntimeError, match="could not be deployed") as told:
        deploying.deploy(server(lambda: True), never)
    assert "oops" not in script or "oops" in str(told.value)
