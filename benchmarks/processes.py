"""Processes that are looked at while they run: which there are, and what memory they hold."""

import subprocess
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from threading import Event, Thread
from typing import IO

import psutil


@contextmanager
def looking(look: Callable[[], None], every: float) -> Iterator[None]:
    """Call `look` again and again, `every` seconds apart, until the block ends or raises."""
    done = Event()

    def watch() -> None:
        while not done.wait(every):
            look()

    thread = Thread(target=watch)
    thread.start()
    try:
        yield
    finally:
        done.set()
        thread.join()


def run_watched(
    command: Sequence[str], look: Callable[[int], None], every: float, log: IO | None = None
) -> int:
    """Run a command to its end, and look at it meanwhile.

    Args:
        command: A program and its arguments.
        look: Gets the number of its process.
        every: Seconds between looks.
        log: Gets what it prints; None: the terminal does.

    Returns:
        Its exit code.
    """
    process = subprocess.Popen(command, stdout=log, stderr=log)
    try:
        with looking(lambda: look(process.pid), every):
            return process.wait()
    finally:
        process.wait()  # Ctrl-C tells it, too: it ends in order before its folder goes


def tree(pid: int | None = None) -> list[psutil.Process]:
    """A process, this one without a number, and all below it; none where it has ended."""
    with suppress(psutil.NoSuchProcess):
        process = psutil.Process(pid)
        return [process, *process.children(recursive=True)]
    return []


def memory_gib(processes: Iterable[psutil.Process]) -> float:
    """Memory that processes hold together, shared pages counted once (PSS), in GiB."""
    total = 0
    for process in processes:
        with suppress(psutil.Error):
            total += process.memory_full_info().pss
    return total / 2**30
