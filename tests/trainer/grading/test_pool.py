"""The processes that compare: limited, killed, replaced, and never left behind."""

import asyncio
import os
import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from trainer.grading import pool as pools
from trainer.grading.pool import Limits, Outcome, Pool
from trainer.rewards import Reason, grade

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def pool():
    """One for all tests that leave it working, as each must."""
    pool = Pool(Limits(seconds=2.5, workers=2))
    pool.warm()
    yield pool
    pool.close()


def family(pool: Pool) -> list[psutil.Process]:
    return psutil.Process(pool.pid).children(recursive=True)


def wait_until(fact, seconds: float = 10.0) -> None:
    deadline = time.monotonic() + seconds
    while not fact():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def test_nothing_runs_before_the_first_comparison_and_after_the_last():
    pool = Pool(Limits(workers=2))
    assert pool.pid is None
    assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL
    assert pool.compare("x+2", ["1+x", "x"]) is Outcome.DIFFERENT
    running = [psutil.Process(pool.pid), *family(pool)]
    pool.close()
    wait_until(lambda: not any(process.is_running() for process in running))
    pool.warm()  # used again, it starts again, with all its processes
    assert len(family(pool)) == 2
    assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL
    pool.close()


@pytest.mark.parametrize("answer", ["9^{9^{9^9}}", "10000000!", "(" * 900 + "x" + ")" * 900])
def test_a_hostile_answer_costs_its_time_limit_and_the_next_one_nothing(pool, answer):
    pool.compare("x+1", ["1+x"])
    started = time.monotonic()
    assert pool.compare(answer, ["3"]) is Outcome.TIMEOUT
    assert time.monotonic() - started < 2.5 + 0.5
    assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL


def test_an_answer_can_take_only_so_much_memory():
    pool = Pool(Limits(seconds=20.0, memory=64, workers=1))
    try:
        assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL
        # 1.2 GB as an integer, and math-verify swallows its MemoryError.
        assert pool.compare("2^{9999999999}", ["3"]) is Outcome.OUT_OF_MEMORY
        assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL
        worker = next(one for one in family(pool) if one.status() != "zombie")
        assert worker.rlimit(psutil.RLIMIT_AS)[0] <= worker.memory_info().vms + (64 << 20)
    finally:
        pool.close()


def test_a_killed_worker_costs_a_second_try_and_leaves_no_zombie(pool):
    pool.compare("x+1", ["1+x"])
    for _ in range(3):
        os.kill(family(pool)[0].pid, 9)
        assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL
    wait_until(lambda: all(process.status() != "zombie" for process in family(pool)))
    assert len(family(pool)) <= 2


def test_an_answer_whose_workers_die_twice_is_given_up_and_not_remembered(monkeypatch):
    pool = Pool(Limits(seconds=20.0, workers=1))
    monkeypatch.setattr(pools, "shared", lambda: pool)
    pool.warm()
    stop = threading.Event()

    def murder():
        while not stop.is_set():
            for worker in family(pool):
                with suppress(psutil.NoSuchProcess):
                    worker.kill()
            time.sleep(0.02)

    killer = threading.Thread(target=murder)
    killer.start()
    try:
        assert grade("\\boxed{9^{9^{9^9}}+x}", ["x+3"]).reason is Reason.LOST
    finally:
        stop.set()
        killer.join()
    assert grade("\\boxed{x(x+1)}", ["x^2+x"]).correct
    pool.close()


def test_a_killed_pool_starts_again(pool):
    pool.compare("x+1", ["1+x"])
    os.kill(pool.pid, 9)
    wait_until(lambda: psutil.Process(pool.pid).status() == "zombie")
    assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL


def test_honest_answers_beside_hostile_ones_are_graded_right(pool):
    asked = [("9^{9^{9^9}}" if n % 5 == 0 else f"x+{n}", [f"{n}+x"]) for n in range(15)]
    with ThreadPoolExecutor(6) as threads:  # more callers than workers
        found = list(threads.map(lambda pair: pool.compare(*pair), asked))
    wanted = [Outcome.TIMEOUT if n % 5 == 0 else Outcome.EQUAL for n in range(15)]
    assert found == wanted
    assert len(family(pool)) <= 2


def test_asyncio_goes_on_while_answers_are_compared(pool):
    async def ticks() -> tuple[int, Outcome]:
        asked = asyncio.create_task(asyncio.to_thread(pool.compare, "9^{9^{9^9}}", ["3"]))
        count = 0
        while not asked.done():
            await asyncio.sleep(0.05)
            count += 1
        return count, asked.result()

    count, outcome = asyncio.run(ticks())
    assert count > 5 and outcome is Outcome.TIMEOUT


def test_a_process_that_dies_takes_its_pool_with_it():
    code = """
import os, psutil
from trainer.grading.pool import shared
shared().compare("x+1", ["1+x"])
print(shared().pid, *(c.pid for c in psutil.Process(shared().pid).children()), flush=True)
os.kill(os.getpid(), 9)
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, cwd=ROOT)
    pids = [int(pid) for pid in done.stdout.split()]
    assert len(pids) == 2
    wait_until(lambda: not any(psutil.pid_exists(pid) for pid in pids))


def test_a_fork_has_a_pool_of_its_own():
    mine = pools.shared()
    mine.compare("x+1", ["1+x"])
    child = os.fork()
    if not child:
        theirs = pools.shared()
        right = theirs is not mine and theirs.compare("x+1", ["1+x"]) is Outcome.EQUAL
        theirs.close()
        os._exit(0 if right else 1)
    assert os.waitpid(child, 0)[1] == 0
    assert mine.compare("x+2", ["2+x"]) is Outcome.EQUAL
    mine.close()


def test_a_machine_without_math_verify_is_an_error_and_no_wrong_answer(monkeypatch, tmp_path):
    (tmp_path / "math_verify.py").write_text("raise ImportError('broken on purpose')")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    with pytest.raises(RuntimeError, match=r"did not start.*\n\nhint: try .*math_verify"):
        Pool().compare("x", ["y"])


def test_an_answer_cannot_speak_for_its_worker(pool):
    assert pool.compare('"}\n{"correct": true, "last": false}\n', ["y"]) is not Outcome.EQUAL
    assert pool.compare("x+1", ["1+x"]) is Outcome.EQUAL
