"""A program under guard: its exit code, its stall, its stop, and nothing left of it."""

import fcntl
import json
import os
import resource
import signal
import subprocess
import sys
import textwrap
import time
from pathlib import Path

import psutil
import pytest

from trainer import guard, leftovers, process, standby
from trainer.process import StalledError, how_it_ended, run_guarded

ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module")
def programs(tmp_path_factory) -> Path:
    """Where programs lie: one folder, since a standby keeps the PYTHONPATH it was started with."""
    return tmp_path_factory.mktemp("programs")


def program(folder: Path, text: str) -> str:
    name = f"prog{len(list(folder.iterdir()))}"
    (folder / f"{name}.py").write_text(textwrap.dedent(text))
    return name


@pytest.fixture(params=[False, True], ids=["started", "forked"])
def warm(request) -> bool:
    """Whether a program is started by Python, or forked of a process that stands by."""
    return request.param


@pytest.fixture
def run(tmp_path, programs, monkeypatch, warm):
    monkeypatch.setenv("PYTHONPATH", str(programs))

    def run(
        text: str,
        *arguments,
        progress=lambda: False,
        stall_timeout=60.0,
        stop=None,
        grace=0.0,
        **environment,
    ):
        return run_guarded(
            program(programs, text),
            arguments,
            log=tmp_path / "log",
            environment=environment,
            progress=progress,
            stall_timeout=stall_timeout,
            stop_file=stop,
            grace=20.0 if stop else grace,
            warm=warm,
        )

    return run


def alive(pid_file: Path) -> bool:
    try:  # an orphan that ended may wait for its new parent to notice
        return psutil.Process(int(pid_file.read_text())).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


def wait_for_text(path: Path) -> None:
    deadline = time.monotonic() + 60
    while not path.exists() or not path.read_text():
        assert time.monotonic() < deadline
        time.sleep(0.1)


# Runs a program with the guard, as a flow does.
CALLER = """
from pathlib import Path
from trainer.process import run_guarded
here = Path("{0}")
run_guarded("{1}", [str(here / "pid")], log=here / "log", environment={{}},
            progress=lambda: False, stall_timeout=600, warm={2})
"""


# Starts a grandchild in a session of its own, as Ray's daemons are, and writes down its pid.
DAEMON = """
    import subprocess, sys, time
    command = [sys.executable, "-c", "import time; time.sleep(600)"]
    child = subprocess.Popen(command, start_new_session=True)
    open(sys.argv[1], "w").write(str(child.pid))
"""


# Waits until the guard has noted what would be left of it.
NOTED = """
        import json, os, time
        from pathlib import Path
        def noted(path, *pids):
            text = ""
            while not (path in text and all(str(pid) in text for pid in pids)):
                time.sleep(0.05)
                text = Path(os.environ["RAY_TMPDIR"], "guard.json").read_text()
"""


def test_the_exit_code_comes_back_and_output_is_in_the_log(run, tmp_path):
    assert run("print('hello'); raise SystemExit(7)") == 7
    assert "hello" in (tmp_path / "log").read_text()


def test_a_killed_program_is_told_from_one_that_failed(run):
    code = run("import os, signal; os.kill(os.getpid(), signal.SIGKILL)")
    assert "SIGKILL" in how_it_ended(code)


@pytest.mark.parametrize("code", [1, 127, 128, 200, 255])
def test_an_exit_code_that_is_no_signal_is_told_as_it_is(code):
    assert how_it_ended(code) == f"ended with exit code {code}"


def test_variables_are_added_and_an_empty_one_is_taken_away(run, tmp_path, monkeypatch):
    monkeypatch.setenv("HIDDEN", "1")
    run("import os; print(os.environ['SHOWN'], 'HIDDEN' in os.environ)", SHOWN="yes", HIDDEN="")
    assert "yes False" in (tmp_path / "log").read_text()


def test_daemons_that_left_the_session_end_with_the_program(run, tmp_path):
    assert run(DAEMON, str(tmp_path / "pid")) == 0
    assert not alive(tmp_path / "pid")


def test_shared_memory_that_was_left_is_removed(run, tmp_path):
    """What a killed program mapped, and semaphores that carry its pid; others' files stay."""
    other = Path("/dev/shm") / f"sem.other-{os.getpid()}-x"
    other.touch()
    code = run(
        """
        import mmap, os, time
        path = f"/dev/shm/stagecraft-test-{os.getpid()}"
        with open(path, "wb+") as file:
            file.write(bytes(4096))
            file.flush()
            held = mmap.mmap(file.fileno(), 4096)
        open(f"/dev/shm/sem.loky-{os.getpid()}-x", "w").close()
        print(path, flush=True)
        """
        + NOTED
        + """
        noted(path, os.getpid())
        os.kill(os.getpid(), 9)
        """
    )
    try:
        assert "SIGKILL" in how_it_ended(code)
        path = Path((tmp_path / "log").read_text().split()[0])
        assert path.name.startswith("stagecraft-test-") and not path.exists()
        pid = path.name.rpartition("-")[2]
        assert not Path(f"/dev/shm/sem.loky-{pid}-x").exists()
        assert other.exists()
    finally:
        other.unlink()


def test_a_program_that_makes_no_progress_is_stopped(run, tmp_path):
    started = time.monotonic()
    with pytest.raises(StalledError, match="stall_timeout"):
        run(DAEMON + "\n    time.sleep(600)", str(tmp_path / "pid"), stall_timeout=1.5)
    assert time.monotonic() - started < 30
    assert not alive(tmp_path / "pid")
    assert "prog" in (tmp_path / "stacks.txt").read_text()


def test_progress_keeps_a_silent_program_alive(run):
    assert run("import time; time.sleep(4)", progress=lambda: True, stall_timeout=1.5) == 0


def test_a_program_that_ignores_sigterm_is_killed_all_the_same(run, tmp_path):
    deaf = """
    import os, pathlib, signal, sys, time
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    pathlib.Path(sys.argv[1]).write_text(str(os.getpid()))
    time.sleep(600)
    """
    with pytest.raises(StalledError):
        run(deaf, str(tmp_path / "pid"), stall_timeout=1.5)
    assert not alive(tmp_path / "pid")


SAVER = """
    import sys, time
    from pathlib import Path
    stop = Path(sys.argv[1])
    listening = stop.with_suffix(".listening")
    listening.touch()
    while not stop.exists():
        time.sleep(0.05)
    time.sleep(1)
    stop.with_name("saved").write_text("all of it")
    listening.unlink()
    time.sleep(600)
"""


def test_a_program_that_listens_may_save_before_it_is_ended_and_is_not_waited_for_after(
    run, tmp_path
):
    started = time.monotonic()
    with pytest.raises(StalledError):
        run(SAVER, str(tmp_path / "stop"), stop=tmp_path / "stop", stall_timeout=1.5)
    assert (tmp_path / "saved").read_text() == "all of it"
    assert time.monotonic() - started < 20  # the whole grace alone would take as long


SLOW_END = """
import pathlib, signal, sys, time
def end(*_):
    time.sleep(1.5)
    pathlib.Path(sys.argv[1]).write_text("in order")
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
time.sleep(600)
"""


@pytest.mark.parametrize("grace", [0.0, 20.0])
def test_a_program_that_ends_others_has_the_time_it_is_given(run, tmp_path, monkeypatch, grace):
    monkeypatch.setattr(process, "GRACE", 0.3)
    ended = tmp_path / "ended"
    with pytest.raises(StalledError):
        run(SLOW_END, str(ended), stall_timeout=1.5, grace=grace)
    assert ended.exists() == (grace > 0)


def test_a_program_that_does_not_listen_is_not_asked(run, tmp_path):
    with pytest.raises(StalledError):
        run("import time; time.sleep(600)", stop=tmp_path / "stop", stall_timeout=1.5)
    assert not (tmp_path / "stop").exists()


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGINT])
def test_nothing_outlives_the_process_that_started_it(tmp_path, programs, how, warm):
    name = program(programs, DAEMON + "\n    time.sleep(600)")
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(tmp_path, name, warm)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{programs}"},
        stderr=subprocess.DEVNULL,
    )
    wait_for_text(tmp_path / "pid")
    caller.send_signal(how)
    caller.wait(15)
    deadline = time.monotonic() + 12
    while alive(tmp_path / "pid"):
        assert time.monotonic() < deadline, "the daemon is still alive"
        time.sleep(0.1)


SHARED = """
    import mmap
    path = f"/dev/shm/stagecraft-test-{os.getpid()}"
    with open(path, "wb+") as file:
        file.write(bytes(4096))
        file.flush()
        held = mmap.mmap(file.fileno(), 4096)
"""


def test_what_a_killed_guard_did_not_end_is_ended_and_what_it_did_not_remove_removed(run, tmp_path):
    text = "    import os\n" + SHARED + DAEMON + "\n    print(os.environ['RAY_TMPDIR'], path)\n"
    code = run(
        text
        + "    sys.stdout.flush()\n"
        + textwrap.indent(textwrap.dedent(NOTED), "    ")
        + "    noted(path, os.getpid(), child.pid); os.kill(os.getppid(), 9); time.sleep(60)",
        str(tmp_path / "pid"),
    )
    assert "SIGKILL" in how_it_ended(code)
    scratch, shared = map(Path, (tmp_path / "log").read_text().split()[:2])
    assert not alive(tmp_path / "pid")
    assert not scratch.exists() and not shared.exists()


def test_the_next_run_sweeps_after_a_caller_and_a_guard_that_were_both_killed(
    run, tmp_path, programs, warm
):
    name = program(programs, DAEMON + "\n    time.sleep(600)")
    caller = subprocess.Popen(
        [sys.executable, "-c", CALLER.format(tmp_path, name, warm)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{programs}"},
    )
    wait_for_text(tmp_path / "pid")
    daemon = psutil.Process(int((tmp_path / "pid").read_text()))
    scratch = Path(daemon.environ()["RAY_TMPDIR"])
    guard = daemon.parent().parent()
    assert "trainer.guard" in guard.cmdline()
    caller.kill()
    guard.kill()
    caller.wait(15)
    psutil.wait_procs([guard], timeout=10)  # a fork has more memory to give back
    # Nobody is left to end it but a next run, which may be another test's that is still about it.
    assert run("print('hello')") == 0
    deadline = time.monotonic() + 12
    while scratch.exists() or alive(tmp_path / "pid"):
        assert time.monotonic() < deadline, "neither swept up after them"
        time.sleep(0.1)


def test_a_guard_whose_parent_died_before_it_ran_starts_nothing(tmp_path):
    scratch = tmp_path / "scratch"
    scratch.mkdir()
    line = process.under_guard("--scratch", str(scratch))
    line[line.index(str(os.getpid()))] = str(os.getppid())  # some other living process
    done = subprocess.run([*line, "touch", str(tmp_path / "ran")], cwd=ROOT, timeout=60)
    assert done.returncode == guard.STOPPED
    assert not scratch.exists() and not (tmp_path / "ran").exists()


def test_a_guard_at_work_is_not_swept_away(run, tmp_path):
    code = run(
        """
        import os
        from pathlib import Path
        from trainer.leftovers import sweep
        print(sweep(Path("/tmp")), Path(os.environ["RAY_TMPDIR"]).exists())
        """
    )
    assert code == 0
    assert "True" in (tmp_path / "log").read_text()


@pytest.mark.parametrize(
    ("names", "removed"),
    [((), True), (("ray.json",), True), (("ray.json", "output"), True), (("output", "own"), False)],
)
def test_a_folder_that_no_guard_ever_took_is_removed_but_none_of_somebody_else(
    tmp_path, names, removed
):
    scratch = tmp_path / "stagecraft-1"
    scratch.mkdir()
    for name in names:
        (scratch / name).write_text("{}")
    assert leftovers.sweep(tmp_path) == []  # whoever made it may be about to take it
    long_ago = time.time() - leftovers.UNUSED - 1
    os.utime(scratch, (long_ago, long_ago))
    assert leftovers.sweep(tmp_path) == ([scratch] if removed else [])
    assert scratch.exists() != removed
    if not removed:
        assert {path.name for path in scratch.iterdir()} == set(names)


@pytest.fixture
def scratch(tmp_path):
    """A guard's scratch folder, and a process that the guard answered for."""
    scratch = tmp_path / "stagecraft-1"
    scratch.mkdir()
    marked = {**os.environ, "RAY_TMPDIR": str(scratch)}
    with subprocess.Popen(["sleep", "600"], env=marked) as left:
        while b"RAY_TMPDIR" not in Path(f"/proc/{left.pid}/environ").read_bytes():
            time.sleep(0.01)  # it is started before it can be told by its environment
        yield scratch, left
        left.kill()


@pytest.mark.parametrize("note", ['{"pids": [1, 2', '{"pids": []}', "[]", "7", "\0\0", "\udcff"])
def test_a_note_that_a_full_disk_cut_short_keeps_nobody_from_sweeping(scratch, tmp_path, note):
    folder, left = scratch
    (folder / "guard.json").write_text(note, errors="surrogateescape")
    assert leftovers.sweep(tmp_path) == [folder]
    left.wait(5)  # it was ended


def test_an_empty_note_is_a_guards_that_is_about_it_until_it_is_old(scratch, tmp_path):
    folder, left = scratch
    note = folder / "guard.json"
    note.touch()
    assert leftovers.sweep(tmp_path) == [] and note.exists() and left.poll() is None
    long_ago = time.time() - leftovers.UNUSED - 1
    os.utime(note, (long_ago, long_ago))
    with note.open() as held:
        fcntl.flock(held, fcntl.LOCK_EX)  # a guard that could note nothing: the disk is full
        assert leftovers.sweep(tmp_path) == [] and left.poll() is None
    assert leftovers.sweep(tmp_path) == [folder]
    left.wait(5)  # it was ended


def test_what_was_noted_stays_where_the_disk_takes_no_more(tmp_path):
    keeper = guard.Guard([], grace=0.0, scratch=tmp_path)
    keeper.pids = {4711}
    keeper._write_note()
    noted = (tmp_path / "guard.json").read_text()
    keeper.pids |= {4712}
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(noted), before[1]))
    try:
        keeper._write_note()
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert (tmp_path / "guard.json").read_text() == noted
    keeper._write_note()
    assert json.loads((tmp_path / "guard.json").read_text())["pids"] == [4711, 4712]
    keeper.note.close()


def test_shared_memory_of_a_program_that_dies_at_once_is_removed(run, tmp_path):
    end = "    print(path, flush=True); time.sleep(1); os.kill(os.getpid(), 9)"
    code = run("    import os, time\n" + SHARED + end)
    assert "SIGKILL" in how_it_ended(code)
    assert not Path((tmp_path / "log").read_text().split()[0]).exists()


def test_a_fork_has_the_imports_its_own_threads_and_its_own_numbers(
    programs, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(programs))
    name = program(
        programs,
        """
        import sys
        had = "torch" in sys.modules and "transformers" in sys.modules and "ray" not in sys.modules
        import numpy, torch
        print(had, torch.get_num_threads(), numpy.random.randint(2**31))
        """,
    )
    said = []
    for number, threads in enumerate(("1", "2", "2")):
        log = tmp_path / f"log{number}"
        code = run_guarded(
            name,
            [],
            log=log,
            environment={"OMP_NUM_THREADS": threads},
            progress=lambda: False,
            stall_timeout=60,
            warm=True,
        )
        assert code == 0
        said.append(log.read_text().split())
    assert [(had, threads) for had, threads, _ in said] == [
        ("True", "1"),
        ("True", "2"),
        ("True", "2"),
    ]
    assert len({drawn for *_, drawn in said}) == 3


def test_an_error_that_nobody_caught_is_told(run, tmp_path):
    assert run("raise ValueError('what went wrong')") == 1
    assert "ValueError: what went wrong" in (tmp_path / "log").read_text()


def test_a_standby_that_was_killed_ends_what_it_has_become_and_another_takes_its_place(
    programs, tmp_path, monkeypatch
):
    monkeypatch.setenv("PYTHONPATH", str(programs))
    text = "    import os\n    print(os.getppid(), flush=True)\n" + DAEMON + "\n    time.sleep(600)"
    killed = []

    def kill() -> bool:
        if (tmp_path / "pid").exists() and not killed:
            guard = psutil.Process(int((tmp_path / "log").read_text().split()[0]))
            killed.append(guard.parent())
            assert "trainer.standby" in killed[0].cmdline()
            killed[0].kill()
        return False

    def guarded(text: str, *arguments: str, progress=lambda: False) -> int:
        return run_guarded(
            program(programs, text),
            arguments,
            log=tmp_path / "log",
            environment={},
            progress=progress,
            stall_timeout=60,
            warm=True,
        )

    code = guarded(text, str(tmp_path / "pid"), progress=kill)
    assert how_it_ended(code) == "was killed by SIGKILL"
    assert not alive(tmp_path / "pid")
    dead = [one for one in process._standing if not one.alive]
    assert [one.pid for one in dead] == [killed[0].pid]
    assert guarded("print('goes on')") == 0
    assert dead[0] not in process._standing and all(one.alive for one in process._standing)


def test_what_began_to_stand_by_is_what_a_program_is_forked_of(programs, tmp_path, monkeypatch):
    monkeypatch.setenv("PYTHONPATH", str(programs))
    given = {"TOKENIZERS_PARALLELISM": f"false{len(process._standing)}"}  # of no other test
    process._standby(process.whole(given))
    begun = process._standing[-1]
    # torch sets it, where the flow imports it meanwhile
    monkeypatch.setenv("TORCHINDUCTOR_CACHE_DIR", str(tmp_path))
    name = program(programs, "import os, sys; print(os.getppid(), 'torch' in sys.modules)")
    settings = {"environment": given, "progress": lambda: False, "stall_timeout": 60}
    assert run_guarded(name, [], log=tmp_path / "log", warm=True, **settings) == 0
    assert "True" in (tmp_path / "log").read_text() and process._standing[-1] is begun


def test_where_the_system_tells_of_no_end_a_program_is_started(programs, tmp_path, monkeypatch):
    monkeypatch.setattr(process, "possible", lambda: False)
    monkeypatch.setenv("PYTHONPATH", str(programs))
    name = program(programs, "import sys; print('torch' in sys.modules)")
    log = tmp_path / "log"
    settings = {"environment": {}, "progress": lambda: False, "stall_timeout": 60}
    assert run_guarded(name, [], log=log, warm=True, **settings) == 0
    assert "False" in log.read_text()


def test_a_standby_that_hangs_is_not_waited_for(programs, tmp_path, monkeypatch):
    """Python is started instead, and the fork that comes too late runs nothing."""
    monkeypatch.setenv("PYTHONPATH", str(programs))
    monkeypatch.setattr(standby, "STARTS", 1.0)
    name = program(programs, "import sys; print('torch' in sys.modules, flush=True)")
    settings = {"environment": {}, "progress": lambda: False, "stall_timeout": 60, "warm": True}
    assert run_guarded(name, [], log=tmp_path / "first", **settings) == 0
    hung = [one for one in process._standing if one.alive]
    for one in hung:
        one._process.send_signal(signal.SIGSTOP)
    assert run_guarded(name, [], log=tmp_path / "log", **settings) == 0
    for one in hung:
        one._process.send_signal(signal.SIGCONT)
    assert run_guarded(name, [], log=tmp_path / "after", **settings) == 0
    assert (tmp_path / "log").read_text().split() == ["False"]
    assert "True" in (tmp_path / "after").read_text()


def test_a_fork_is_as_nice_as_the_process_that_asked_for_it(programs, tmp_path):
    """An ordinary user may not make a process less nice than its parent."""
    name = program(programs, "import os, sys; open(sys.argv[1], 'w').write(str(os.nice(0)))")
    subprocess.run(
        [sys.executable, "-c", CALLER.format(tmp_path, name, True)],
        env={**os.environ, "PYTHONPATH": f"{ROOT}:{programs}"},
        preexec_fn=lambda: os.nice(3),
        check=True,
        timeout=60,
    )
    assert int((tmp_path / "pid").read_text()) == os.nice(0) + 3


def test_a_process_that_ends_while_it_is_looked_at_is_none_of_the_living(monkeypatch):
    read = [sys.executable, "-c", "import sys; sys.stdin.read()"]
    with subprocess.Popen(read, stdin=subprocess.PIPE) as lives:
        listed = [psutil.Process(lives.pid)]
        with subprocess.Popen([sys.executable, "-c", ""]) as ends:
            listed.append(psutil.Process(ends.pid))
        monkeypatch.setattr(psutil.Process, "children", lambda *_, **__: listed)
        assert [one.pid for one in guard.descendants()] == [lives.pid]
