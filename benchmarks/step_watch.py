"""One launch of a system, watched: when each step ended, processor time, memory."""

import shutil
import time
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import psutil

from benchmarks.processes import looking, memory_gib, tree
from benchmarks.step_work import Work, launch_of
from trainer.process import last_lines, run_guarded
from trainer.records import read_records

LOOK = 0.05  # seconds between looks at the file of steps
COUNT = 0.25  # seconds between counts of processor time
WEIGH = 2.0  # seconds between weighings of memory: reading it takes time of its own
STALLED = 900.0  # seconds without a step or a line in the log; vLLM starts without one


@dataclass
class Watch:
    """What all processes below this one have used.

    Attributes:
        records: File that gets a line for each step.
        ends: Seconds from the start at which each step was seen to have ended.
        processor: Seconds of processor used up to then.
        shares: Seconds of processor up to the first step, by process.
        peak: Most memory held at a time, shared pages counted once, in GiB.
    """

    records: Path
    ends: list[float] = field(default_factory=list)
    processor: list[float] = field(default_factory=list)
    shares: dict[str, float] = field(default_factory=dict)
    peak: float = 0.0

    def __post_init__(self):
        self._began = self._counted = self._weighed = time.monotonic()
        self._used: dict[psutil.Process, float] = {}

    def look(self) -> None:
        """See which steps have ended by now, and now and then what was used."""
        now = time.monotonic()
        ended = len(read_records(self.records)) - len(self.ends)
        if ended > 0 or now - self._counted > COUNT:
            self._counted = now
            self._count()
        if ended and not self.ends:
            self.shares = self._by_name()
        self.ends += [now - self._began] * ended
        self.processor += [sum(self._used.values())] * ended
        if now - self._weighed > WEIGH:
            self._weighed = time.monotonic()
            self.peak = max(self.peak, memory_gib(tree()[1:]))

    def _count(self) -> None:
        for process in tree()[1:]:
            with suppress(psutil.Error):
                times = process.cpu_times()
                self._used[process] = times.user + times.system

    def _by_name(self) -> dict[str, float]:
        found: dict[str, float] = {}
        for process, seconds in self._used.items():
            with suppress(psutil.Error):
                found[process.name()] = found.get(process.name(), 0.0) + seconds
        return {name: round(found[name], 1) for name in sorted(found, key=found.get)[::-1]}


def measured(system: str, work: Work, folder: Path) -> dict:
    """Launch a system once, to its end.

    Returns:
        `launch_s` to the end of the first step, with `launch_cpu_s` of processor, by process in
        `launch_processes`; `step_s` and `step_cpu_s`, means of the steps between the first and the
        last, whose seconds are `steps_s`; their `parts`; `peak_gib`.

    Raises:
        RuntimeError: it failed, or made other steps than asked.
    """
    shutil.rmtree(folder, ignore_errors=True)
    launch = launch_of(system, work, folder)
    watch, log = Watch(launch.records), folder / "log"
    seen = 0

    def progress() -> bool:
        nonlocal seen
        before, seen = seen, len(watch.ends)
        return seen > before

    with looking(watch.look, LOOK):
        code = run_guarded(
            launch.module,
            launch.arguments,
            log=log,
            environment=launch.environment,
            progress=progress,
            stall_timeout=STALLED,
        )
    if code or len(watch.ends) != work.steps:
        raise RuntimeError(
            f"{system} ended with exit code {code} after {len(watch.ends)} of {work.steps} steps:\n"
            f"{last_lines(log)}\n\nhint: {log}"
        )
    counted = range(1, work.steps - 1)
    rows = [launch.parts(record) for record in read_records(launch.records)]
    names = {name for at in counted for name in rows[at]}
    for heavy in ("verl", "checkpoint", "checkpoint.part"):  # larger than all else
        shutil.rmtree(folder / heavy, ignore_errors=True)
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
