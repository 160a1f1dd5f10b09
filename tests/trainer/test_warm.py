"""Programs that are forks of a process which has imported what they need."""

import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from trainer import warm

ROOT = Path(__file__).parents[2]
SERVER = """
import sys
from pathlib import Path
import numpy, antigravity_free as marker
from trainer.warm import stand_by
print(stand_by(Path(sys.argv[1]), sys.argv[2:]), flush=True)
sys.stdin.read()
"""
PROGRAM = """
import json, os, signal, sys
import numpy
print("said by the program")
json.dump({
    "arguments": sys.argv,
    "imported": "antigravity_free" in sys.modules,
    "then": getattr(sys.modules.get("later"), "given", None),
    "main": __name__,
    "folder": os.getcwd(),
    "environment": dict(os.environ),
    "niceness": os.nice(0),
    "waits": signal.getsignal(signal.SIGCHLD) == signal.SIG_DFL,
    "draw": int(numpy.random.randint(2**31)),
    "leads": os.getpgid(0) == os.getpid(),
    "command": open("/proc/self/cmdline").read(),
    "parent": os.getppid(),
}, open(sys.argv[1] + ".aside", "w"))
os.rename(sys.argv[1] + ".aside", sys.argv[1])
"""


@pytest.fixture
def server(tmp_path, request):
    """A process that stands by, and the command that starts a program by it."""
    (tmp_path / "later.py").write_text(
        "import os; given = os.environ['GIVEN']; os.environ.setdefault('SETTLED', given)"
    )
    (tmp_path / "antigravity_free.py").write_text("")
    (tmp_path / "server.py").write_text(SERVER)
    (tmp_path / "program.py").write_text(PROGRAM)
    process = subprocess.Popen(
        [sys.executable, "server.py", str(tmp_path / "warm"), *getattr(request, "param", [])],
        cwd=tmp_path,
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{tmp_path}"},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    command = shlex.split(process.stdout.readline())
    yield process, command
    process.kill()
    process.wait()


def ran(path: Path, seconds: float = 20.0) -> dict:
    """What a program wrote of itself."""
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} was not written"
        time.sleep(0.02)
    return json.loads(path.read_text())


def start(command: list[str], folder: Path, name: str, **environment: str) -> dict:
    """Run the program by `command`, and say what it found itself to be."""
    path = folder / name
    subprocess.run(
        [*command, str(folder / "program.py"), str(path), "more"],
        cwd="/",
        env={"GIVEN": name, **environment},
        check=True,
    )
    return ran(path)


def test_a_program_finds_itself_as_if_python_had_been_started_for_it(server, tmp_path):
    process, command = server
    found = start(command, tmp_path, "one")
    assert found["arguments"] == [str(tmp_path / "program.py"), str(tmp_path / "one"), "more"]
    assert found["main"] == "__main__" and found["folder"] == "/"
    assert found["environment"]["GIVEN"] == "one"
    assert "PYTHONPATH" not in found["environment"], "it has the environment of who stands by"
    assert found["waits"], "it could not wait for a process of its own"
    assert found["imported"], "it is no fork of the one that stands by"
    assert found["parent"] in [child.pid for child in psutil.Process(process.pid).children()]


def test_a_folder_with_a_space_in_its_name_is_no_two_words_to_ray(tmp_path):
    """Ray starts a worker by `bash -c "exec " + py_executable`."""
    repository = tmp_path / "my 'own' repository"
    (repository / "trainer").mkdir(parents=True)
    shutil.copy(warm.__file__, repository / "trainer")
    (tmp_path / "program.py").write_text("open('ran', 'w').write('it did')")
    stands_by = "import sys, trainer.warm as w; print(w.stand_by(sys.argv[1]), flush=True); input()"
    with subprocess.Popen(
        [sys.executable, "-c", stands_by, str(repository / "warm")],
        env={**os.environ, "PYTHONPATH": str(repository)},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        line = f"exec {process.stdout.readline().strip()} program.py"
        subprocess.run(["bash", "-c", line], cwd=tmp_path, check=True)
        deadline = time.monotonic() + 10
        while not (tmp_path / "ran").exists() and time.monotonic() < deadline:
            time.sleep(0.02)
        process.kill()
    assert (tmp_path / "ran").exists()


def test_programs_do_not_draw_the_same_numbers(server, tmp_path):
    draws = {start(server[1], tmp_path, f"p{n}")["draw"] for n in range(4)}
    assert len(draws) == 4


def test_what_the_one_that_asks_was_made_by_its_parent_is_taken_over(server, tmp_path):
    path = tmp_path / "nice"
    subprocess.run(
        [*server[1], str(tmp_path / "program.py"), str(path)],
        preexec_fn=lambda: os.nice(7),
        process_group=0,
        stdout=(tmp_path / "output").open("w"),
        check=True,
    )
    found = ran(path)
    assert found["niceness"] == os.nice(0) + 7
    assert found["leads"], "Ray ends a worker with the group of processes that it leads"
    deadline = time.monotonic() + 10
    while not (tmp_path / "output").read_text() and time.monotonic() < deadline:
        time.sleep(0.02)
    assert "said by the program" in (tmp_path / "output").read_text()


def test_many_at_once(server, tmp_path):
    asked = [
        subprocess.Popen([*server[1], str(tmp_path / "program.py"), str(tmp_path / f"m{n}")])
        for n in range(20)
    ]
    assert [process.wait() for process in asked] == [0] * 20
    assert len({ran(tmp_path / f"m{n}")["draw"] for n in range(20)}) == 20


def test_the_one_that_stands_by_shows_what_it_is_and_a_program_its_origin(server, tmp_path):
    process, command = server
    (standing,) = psutil.Process(process.pid).children()
    assert "trainer.warm" in " ".join(standing.cmdline())
    # Ray finds where its workers' names go by what Python was started with.
    assert "server.py" in start(command, tmp_path, "origin")["command"]


@pytest.mark.parametrize("server", [["later"]], indirect=True)
def test_what_reads_its_environment_is_imported_as_the_first_program_would(server, tmp_path):
    ray = {"RAY_RAYLET_PID": "7", "RAY_JOB_ID": "01"}
    first, second = (start(server[1], tmp_path, name, **ray) for name in ("one", "two"))
    assert first["then"] == second["then"] == "one" and second["imported"]
    assert second["environment"]["SETTLED"] == "one", "it was imported, and set it, before the fork"
    assert start(server[1], tmp_path, "own", SETTLED="2", **ray)["environment"]["SETTLED"] == "2"
    other = start(server[1], tmp_path, "three", **ray | {"RAY_RAYLET_PID": "8"})
    assert not other["imported"] and other["then"] is None, "it has what another's Ray has read"


@pytest.mark.parametrize("server", [["no_such_module", "later"]], indirect=True)
def test_what_can_not_be_imported_is_left_to_the_programs(server, tmp_path):
    found = start(server[1], tmp_path, "one")
    assert found["imported"] and found["then"] == "one"


def test_where_nobody_listens_python_is_started(tmp_path):
    (tmp_path / "program.py").write_text(PROGRAM)
    command = [sys.executable, "-I", "-S", warm.__file__, str(tmp_path / "nobody")]
    found = start(command, tmp_path, "alone")
    assert not found["imported"] and found["environment"]["GIVEN"] == "alone"


def test_it_ends_with_the_process_it_was_forked_of(server):
    process, _ = server
    (standing,) = psutil.Process(process.pid).children()
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert psutil.wait_procs([standing], timeout=5)[1] == []


def test_a_request_that_is_cut_off_is_let_go(server, tmp_path):
    import socket

    (standing,) = psutil.Process(server[0].pid).children()
    held = standing.num_fds()
    for text in (b'{"command": [', b"no request\n"):
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(tmp_path / "warm"))
            socket.send_fds(connection, [text], [0, 1, 2])
    with socket.socket(socket.AF_UNIX) as connection:
        connection.connect(str(tmp_path / "warm"))
    assert start(server[1], tmp_path, "after")["imported"]
    deadline = time.monotonic() + 10
    while standing.num_fds() > held:
        assert time.monotonic() < deadline, "it holds files of those that are gone"
        time.sleep(0.02)


def test_who_leaves_says_what_it_had_to_say_and_takes_nothing_apart():
    program = (
        "import atexit\nfrom trainer.warm import leave\n"
        "atexit.register(print, 'taken apart')\nprint('said', end='')\nleave(3)"
    )
    left = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert (left.returncode, left.stdout) == (3, "said")
