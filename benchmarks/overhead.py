"""What a pipeline costs outside the processes that train and sample, and when all is done already.

    python -m benchmarks.overhead                                   # lab/smoke, 3 minutes
    python -m benchmarks.overhead --experiment lab/fastcurl         # the demo, 7 minutes
    python -m benchmarks.overhead --experiment lab/fastcurl --tokens 32     # stages of the size
                                                                   # of benchmarks.step

Runs an experiment from nothing, and then again. Writes results/overhead-EXPERIMENT.json: seconds of
the whole, of it outside trainer processes, the same of the pipeline's own run (without Python's,
Prefect's and its server's start and end), of each stage from its launch to the end of its first
step, and to the moment that each of its processes is first seen, and of the second run, which must
train nothing. A trainer that was begun before its stage counts from the stage's launch on. In the
end the same trainers and samplers are started by hand (`benchmarks.by_hand`).
"""

import argparse
import json
import sys
import tempfile
import time
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from benchmarks.by_hand import by_hand
from benchmarks.processes import run_watched, tree
from benchmarks.record import RESULTS, write
from conf.load import load
from conf.overrides import written
from tasks.artifacts import read_json
from tasks.journal import Journal, journals
from tasks.stages import MANIFEST, stage_folders
from trainer.records import read_records

TRAINERS = ("trainer.backend.main", "trainer.generate")
WAITING = "trainer.backend.waiting"  # a trainer, too, once there is a stage for it
LOOK = 0.1  # seconds between looks at which processes there are


def alike(experiment: str, tokens: int) -> list[str]:
    """Settings that make all stages alike: three steps of one update, `tokens` a response at most.

    >>> alike("lab/smoke", 32)[:2]
    ['stages.0.context_length=32', 'stages.0.steps=3']
    """
    return [
        setting
        for number, stage in enumerate(load(f"experiment={experiment}").stages)
        for setting in (
            f"stages.{number}.context_length={tokens}",
            f"stages.{number}.steps=3",
            f"stages.{number}.mini_batch_size={stage.batch_size}",
        )
    ]


def timed(
    experiment: str, output: Path, more: Sequence[str] = ()
) -> tuple[dict[str, Any], list[tuple[float, str]]]:
    """Run a pipeline; seconds of all, and of it without a trainer or sampler process.

    Returns:
        The seconds, those of each time that there was none, and both of the pipeline's own run; and
        what was seen when first, as Unix time, for each process by each of its names.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "flows.pipeline", f"experiment={experiment}", *more]
    log = output.with_suffix(".log")
    looks: list[tuple[float, float, set[str]]] = []  # from, to, and what ran
    seen: dict[tuple[int, str], float] = {}
    before = time.time()

    def look(pid: int) -> None:
        nonlocal before
        each, now = _below(pid), time.time()
        looks.append((before, now, {name for _, name in each}))
        before = now
        for one in each:
            seen.setdefault(one, now)

    began = time.monotonic()
    with log.open("a") as file:
        code = run_watched([*command, f"output={written(str(output))}"], look, LOOK, file)
    seconds = time.monotonic() - began
    looks.append((before, time.time(), set()))
    if code:
        raise RuntimeError(f"{experiment} ended with exit code {code}\n\nhint: {log}")
    outside = outside_trainers(looks, _attempts(output))
    without = [ended - begun for begun, ended in outside]
    own = Journal.read(journals(output)[-1]).run
    took = {
        "seconds": round(seconds, 1),
        "in_trainers_s": round(max(0.0, seconds - sum(without)), 1),
        "outside_s": round(sum(without), 1),
        "outside_share": round(sum(without) / seconds, 4),
        "outside_each_s": [round(one, 1) for one in without],
        "run_s": round(own.ended - own.started, 1),
        "run_outside_s": round(within(outside, own.started, own.ended), 1),
    }
    return took, [(when, name) for (_, name), when in seen.items()]


def outside_trainers(
    looks: list[tuple[float, float, set[str]]], attempts: list[tuple[float, float]]
) -> list[tuple[float, float]]:
    """When there was neither trainer nor sampler.

    Args:
        looks: Beginning, end and names of processes of each span of time.
        attempts: Beginning and end of the stages.

    Returns:
        Beginning and end of each such time.

    >>> spans = [(0, 1, {WAITING}), (1, 2, {WAITING}), (2, 5, {TRAINERS[0]}), (5, 9, {"raylet"})]
    >>> outside_trainers(spans, [(1, 4.5)])
    [(0, 1), (5, 9)]
    """
    found: list[tuple[float, float]] = []
    for begun, ended, names in looks:
        in_a_stage = any(first <= begun < last for first, last in attempts)
        if not names.isdisjoint(TRAINERS) or (WAITING in names and in_a_stage):
            continue
        if found and found[-1][1] == begun:
            begun = found.pop()[0]
        found.append((begun, ended))
    return found


def within(spans: list[tuple[float, float]], begun: float, ended: float) -> float:
    """Seconds of some spans of time that lie within another.

    >>> within([(0, 2), (4, 5), (8, 12)], 1, 9)
    3
    """
    return sum(max(0, min(last, ended) - max(first, begun)) for first, last in spans)


def _attempts(output: Path) -> list[tuple[float, float]]:
    manifests = [read_json(folder / MANIFEST) for folder in stage_folders(output)]
    attempts = [attempt for manifest in manifests for attempt in manifest["attempts"]]
    return [(attempt["started"], attempt["ended"]) for attempt in attempts]


def _below(pid: int) -> list[tuple[int, str]]:
    found = []
    for process in tree(pid)[1:]:
        with suppress(psutil.Error):
            found.append((process.pid, name_of(process.cmdline())))
    return [each for each in found if each[1]]  # a process that ends has no command line


def name_of(command: list[str]) -> str:
    """What a process is, in a word.

    >>> name_of(["python", "-u", "-m", "trainer.backend.main", "/a/folder"])
    'trainer.backend.main'
    >>> name_of(["ray::torch_server_0:TorchServer.__init__"])
    'TorchServer'
    >>> name_of(["python", "/ray/dashboard/dashboard.py", "--host=127.0.0.1"])
    'dashboard.py'
    """
    if not command:
        return ""
    if command[0].startswith("ray::"):
        return command[0].split(":")[-1].split(".")[0]
    if "-m" in command:
        return command[command.index("-m") + 1]
    return Path(next((word for word in command if word.endswith(".py")), command[0])).name


def stages(output: Path, seen: list[tuple[float, str]]) -> list[dict]:
    """Of each stage the seconds from its launch to its processes and the end of its first step."""
    found = []
    for folder in stage_folders(output):
        manifest = read_json(folder / MANIFEST)
        attempt, records = manifest["attempts"][0], read_records(folder / "metrics.jsonl")
        begun, first = attempt["started"], records[0]["time"]
        launch: dict[str, float] = {}
        for when, name in sorted(seen):
            if begun < when < first and name != WAITING:
                launch.setdefault(name, round(when - begun, 1))
        found.append(
            {
                "stage": manifest["name"],
                "position": manifest["position"],
                "launch_s": round(first - begun, 1),
                "step_s": round(records[-1]["seconds/step"], 2),
                "wall_s": round(attempt["ended"] - begun, 1),
                "processes": launch,
            }
        )
    return sorted(found, key=lambda stage: stage["position"])


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="lab/smoke")
    parser.add_argument("--tokens", type=int, help="see `alike`; none: stages as they are")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    given = parser.parse_args()
    name = given.experiment.replace("/", "_") + (f"-{given.tokens}" if given.tokens else "")
    more = alike(given.experiment, given.tokens) if given.tokens else []
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        output = Path(folder) / "outputs"
        first, seen = timed(given.experiment, output, more)
        made = stages(output, seen)
        attempts = _attempts(output)
        again, _ = timed(given.experiment, output, more)
        if len(again["outside_each_s"]) != 1 or _attempts(output) != attempts:
            raise RuntimeError(f"{given.experiment} was finished, and trained or sampled again")
        alone = by_hand(load(f"experiment={given.experiment}", *more), output)
    facts = {
        "experiment": given.experiment,
        "settings": more,
        "from_nothing": first,
        "stages": made,
        "finished_before": again,
        "by_hand": alone,
    }
    print(json.dumps(facts, indent=1))
    write(given.output or RESULTS / f"overhead-{name}", facts)


if __name__ == "__main__":
    main()
