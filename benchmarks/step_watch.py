"""One launch of a system, watched: when each step ended, processor time, memory."""

import shutil
import threading
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.step_work import Launch, Work, launch_of, steps_in
from trainer.process import last_lines, run_guarded

LOOK = 0.05  # seconds between looks at the file of steps
COUNT = 0.25  # seconds between counts of processor time
WEIGH = 2.0  # seconds between weighings of memory: reading it takes time of its own
STALLED = 300.0  # seconds without a step or a line in the log


@dataclass
class Watch:
    """What all processes below this one have used.

    Attributes:
        ends: Seconds from the start at which each step was seen to have ended.
        processor: Seconds of processor used up to then.
        shares: Seconds of processor up to the first step, by process.
        peak: Most memory held at a time, shared pages counted once, in GiB.
    """

    ends: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0

    def follow(self, launch: Launch, done: threading.Event) -> None:
        """Look until `done`."""
        began = counted = weighed = time.monotonic()
        used: dict[psutil.Process, float] = {}
        while not done.wait(LOOK):
            now = time.monotonic()
            ended = len(steps_in(launch.records)) - len(self.ends)
            if ended > 0 or now - counted > COUNT:
                counted = now
                self._count(used)
            if ended and not self.ends:
                self.shares = self._by_name(used)
            self.ends += [now - began] * ended
            self.processor += [sum(used.values())] * ended
            if now - weighed > WEIGH:
                weighed = time.monotonic()
                self._weigh()

    @staticmethod
    def _count(used: dict[psutil.Process, float]) -> None:
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                times = process.cpu_times()
                used[process] = times.user + times.system

    @staticmethod
    def _by_name(used: dict[psutil.Process, float]) -> dict[str, float]:
        found: dict[str, float] = {}
        for process, seconds in used.items():
            with suppress(psutil.Error):
                found[process.name()] = found.get(process.name(), 0.0) + seconds
        return {name: round(found[name], 1) for name in sorted(found, key=found.get)[::-1]}

    def _weigh(self) -> None:
        total = 0
        for process in psutil.Process().children(recursive=True):
            with suppress(psutil.Error):
                total += process.memory_full_info().pss
        self.peak = max(self.peak, total / 2**30)


def measured(system: str, work: Work, folder: Path) -> dict:
    """Launch a system once, to its end.

    Returns:
        `launch_s` to the end of the first step, with `launch_cpu_s` of processor, by process in
        `launch_processes`; `step_s` and
        `step_cpu_s`, means of the steps between the first and the last, whose seconds are
        `steps_s`; their `parts`; `peak_gib`.

    Raises:
        RuntimeError: it failed, or made other steps than asked.
    """
    shutil.rmtree(folder, ignore_errors=True)
    launch = launch_of(system, work, folder)
    watch, done, log = Watch(), threading.Event(), folder / "log"
    thread = threading.Thread(target=watch.follow, args=(launch, done))
    thread.start()
    seen = 0

    def progress() -> bool:
        nonlocal seen
        before, seen = seen, len(watch.ends)
        return seen > before

    try:
        code = run_guarded(
            launch.module,
            launch.arguments,
            log=log,
            environment=launch.environment,
            progress=progress,
            stall_timeout=STALLED,
        )
    finally:
        done.set()
        thread.join()
    if code or len(watch.ends) != work.steps:
        raise RuntimeError(
            f"{system} ended with exit code {code} after {len(watch.ends)} of {work.steps} steps:\n"
            f"{last_lines(log)}\n\nhint: {log}"
        )
    counted = range(1, work.steps - 1)
    rows = [launch.parts(record) for record in steps_in(launch.records)]
    names = {name for at in counted for name in rows[at]}
    return {
        "launch_s": round(watch.ends[0], 2),
        "launch_cpu_s": round(watch.processor[0], 2),
        "launch_processes": watch.shares,
        "step_s": round((watch.ends[-2] - watch.ends[0]) / len(counted), 3),
        "step_cpu_s": round((watch.processor[-2] - watch.processor[0]) / len(counted), 3),
        "steps_s": [round(watch.ends[at] - watch.ends[at - 1], 3) for at in counted],
        "parts": {
            name: round(sum(rows[at].get(name, 0.0) for at in counted) / len(counted), 3)
            for name in sorted(names)
        },
        "peak_gib": round(watch.peak, 2),
    }
