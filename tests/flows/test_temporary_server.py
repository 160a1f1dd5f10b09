"""Prefect's temporary server, killed or broken while it starts."""

import logging
import os
import re
import shlex
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest
from prefect.settings import PREFECT_HOME, temporary_settings

from flows import PROGRAMS, temporary_server

ROOT = Path(__file__).parents[2]
RUNS = re.compile(r"^from flows\.terminal import run", re.M)
FLOW = """
from prefect import flow
from prefect.settings import get_current_settings
from flows import temporary_server

{more}
temporary_server.begin()


@flow
def nothing():
    print("the flow ran")
    print("signs of life each:", get_current_settings().flows.heartbeat_frequency)


with temporary_server.answering():
    nothing()
    {then}
"""
# In that block: the server is killed, and its guard sees it.
KILLED = """
    import psutil, time
    server = temporary_server.begin()
    killed = server.process
    for child in psutil.Process(killed.pid).children():
        child.kill()
    killed.wait()
"""


@pytest.fixture
def started(tmp_path, prefect_home):
    """Start a flow without a server, in a process of its own."""
    processes = []

    def start(more: str = "", patience: int = 300, then: str = "") -> subprocess.Popen:
        process = subprocess.Popen(
            [sys.executable, "-c", FLOW.format(more=more, then=then)],
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PREFECT_HOME": prefect_home(),
                "PREFECT_API_URL": "",
                "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS": str(patience),
            },
            cwd=tmp_path,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        process.kill()
        process.wait()


def servers(process: subprocess.Popen) -> list[psutil.Process]:
    """Prefect's servers below a process, without their guards."""
    found = []
    for child in psutil.Process(process.pid).children(recursive=True):
        with suppress(psutil.NoSuchProcess):  # ended since
            line = " ".join(child.cmdline())
            if re.search(r"-m flows.server", line) and "trainer.guard" not in line:
                found.append(child)
    return found


def test_a_server_that_is_killed_later_is_replaced_and_knows_what_was_before(started):
    then = """
    from prefect.client.orchestration import get_client
    nothing()
    with get_client(sync_client=True) as client:
        print("runs:", sorted(run.state_name for run in client.read_flow_runs()))
    """
    process = started(then=KILLED + then)
    said, _ = process.communicate(timeout=200)
    assert process.returncode == 0 and said.count("the flow ran") == 2, said
    assert "was killed by SIGKILL: another takes its place" in said
    assert "runs: ['Completed', 'Completed']" in said


# Answers whatever it is asked, on the socket that is its standard input.
STAND_IN = """
import socket
listening = socket.socket(fileno=0)
while True:
    connection, _ = listening.accept()
    connection.recv(4096)
    connection.sendall(b"HTTP/1.1 200 OK\\r\\nContent-Length: 0\\r\\nConnection: close\\r\\n\\r\\n")
    connection.close()
"""


@pytest.fixture
def stand_in(monkeypatch):
    """A server that starts at once, and knows nothing of Prefect. `said` is what was logged."""
    command = [sys.executable, "-c", STAND_IN]
    monkeypatch.setattr(temporary_server, "under_guard", lambda: command)
    server = temporary_server.TemporaryServer()
    server.said = []
    handler = logging.Handler()
    handler.emit = lambda record: server.said.append(record.getMessage())
    logging.getLogger("prefect").addHandler(handler)
    yield server
    logging.getLogger("prefect").removeHandler(handler)
    server.end()


def until(holds, what: str) -> None:
    deadline = time.monotonic() + 30
    while not holds():
        assert time.monotonic() < deadline, what
        time.sleep(0.01)


def killed(server) -> subprocess.Popen:
    process = server.process
    process.kill()
    process.wait()
    return process


def test_a_server_that_is_killed_as_it_starts_is_replaced(stand_in):
    first = killed(stand_in)
    assert stand_in.wait() == stand_in.url and stand_in.process is not first


def test_one_that_is_killed_in_a_later_block_is_replaced_too(stand_in):
    for block in (1, 2):
        with stand_in.kept():
            stand_in.wait()
            first = killed(stand_in)
            until(lambda first=first: stand_in.process is not first, "no other took its place")
            stand_in.wait()
        assert len(stand_in.said) == block
    assert {one.partition(" was ")[2] for one in stand_in.said} == {
        "killed by SIGKILL: another takes its place"
    }


def test_one_that_dies_whenever_it_is_replaced_is_given_up(stand_in, monkeypatch):
    stand_in.wait()
    monkeypatch.setattr(temporary_server, "under_guard", lambda: ["/bin/false"])
    with stand_in.kept():
        killed(stand_in)
        until(lambda: len(stand_in.said) == 4, "it was not given up")
    *replaced, last = stand_in.said
    assert all("another takes its place" in one for one in replaced) and "4 times\n\nhint: " in last


def test_where_no_other_can_be_started_nobody_waits_for_it(stand_in, monkeypatch):
    def refused():
        raise OSError("no more processes")

    stand_in.wait()
    monkeypatch.setattr(stand_in, "_begin", refused)
    with stand_in.kept():
        killed(stand_in)
        until(lambda: len(stand_in.said) == 2, "it is not said")
    assert "SIGKILL, and no other can be started: no more processes\n\nhint: " in stand_in.said[1]
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection(("127.0.0.1", int(stand_in.url.split(":")[2].split("/")[0])))


def test_servers_that_all_die_as_they_start_are_not_waited_for(monkeypatch):
    monkeypatch.setattr(temporary_server, "under_guard", lambda: ["/bin/false"])
    monkeypatch.setattr(temporary_server, "ANSWERS", 0.2)
    server = temporary_server.TemporaryServer()
    said = "ended with exit code 1 as it started, 3 times\n\nhint: "
    with pytest.raises(RuntimeError, match=said):
        server.wait()
    server.end()


def test_a_folder_for_its_database_that_cannot_be_written_to_is_named(tmp_path):
    (tmp_path / "file").touch()
    with temporary_settings({PREFECT_HOME: tmp_path / "file" / "home"}):
        said = temporary_server._homeless()
    assert re.fullmatch(
        rf": cannot write in {tmp_path}/file/home \(Not a directory\), needed a folder for its "
        r"database\n\nhint: set PREFECT_HOME to .*",
        said,
    )
    with temporary_settings({PREFECT_HOME: tmp_path / "home"}):
        assert temporary_server._homeless() == ""


def test_one_that_never_answers_is_not_waited_for_longer_than_prefect_allows(started):
    more = "temporary_server.under_guard = lambda: ['/bin/sh', '-c', 'exec sleep 600', '--']"
    begun = time.monotonic()
    process = started(more, patience=2)
    said, _ = process.communicate(timeout=120)
    assert process.returncode != 0
    assert re.search(r"temporary server does not answer at http://127.0.0.1:\d+/api", said), said
    assert "PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS" in said.split("hint: ")[1]
    assert time.monotonic() - begun < 60


@pytest.mark.parametrize(
    ("words", "begins"),
    [
        ("-m flows.pipeline experiment=lab/nope", True),
        ("-u -m flows.report experiment=lab/nope", True),
        ("-m flows.pipeline --help", False),
        ("-m flows.plan experiment=lab/nope", False),  # runs no flow
        ("-c 'import flows.pipeline'", False),
    ],
)
def test_it_begins_with_the_imports_of_a_program_that_runs_a_flow(words, begins, tmp_path):
    """What Python looks for in every process says whether a server's guard was started."""
    (tmp_path / "sitecustomize.py").write_text(
        "import os, sys\n"
        "if '--grace' in sys.orig_argv and 'flows.server' in sys.orig_argv:\n"
        "    open('begun', 'a').close()\n"
        "    os._exit(1)\n"
    )
    path = f"{tmp_path}:{ROOT}"
    environment = {**os.environ, "PYTHONPATH": path, "PREFECT_API_URL": ""}
    command = [sys.executable, *shlex.split(words)]
    subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, timeout=120)
    assert (tmp_path / "begun").exists() == begins


def test_the_programs_that_begin_it_are_those_that_run_a_flow():
    found = {path.stem for path in (ROOT / "flows").glob("*.py") if RUNS.search(path.read_text())}
    assert found == set(PROGRAMS)


def test_a_flow_uses_it_and_what_the_flow_starts_does_not(started):
    more = "import atexit, os\natexit.register(lambda: print('url:', os.getenv('PREFECT_API_URL')))"
    process = started(more)
    deadline = time.monotonic() + 60
    while not (found := servers(process)):
        assert time.monotonic() < deadline
        time.sleep(0.01)
    said, _ = process.communicate(timeout=120)
    assert process.returncode == 0 and "the flow ran" in said, said
    assert "Completed()" in said and "url: None" in said, said
    assert said.count("emporary server") == 1, "Prefect started one, too"
    assert "View at" not in said, "it has no pages"
    assert "signs of life each: None" in said, "nobody hears them, and the flow's end waits"
    assert psutil.wait_procs(found, timeout=0)[1] == [], "it runs on"
