"""Ours on verl beside stock verl on one GPU, with vLLM: Qwen2 of 0.5B and 1.5B, long responses.

    python -m benchmarks.gpu                # one GPU of 80 GB; hours: writes results/gpu.*
    python -m benchmarks.gpu --launches 1   # the next launch only, in some ten minutes
    python -m benchmarks.gpu --models 0.5B --sizes 1024 --rounds 1 --steps 3
    python -m benchmarks.gpu --tiny         # the same on a CPU with a tiny model: does it run?

Each launch is kept in OUTPUT.jsonl as soon as it has ended, and none is made twice: the same
command goes on where it was stopped, and each ends with the tables of what there is. Launches by
other code, on another GPU or of another number of steps are left alone and not counted.

Random weights: what is measured is time and memory, and no response ends before its longest length.
Each length gets 262,144 tokens a step; then 128 prompts × 16 rollouts of 256 tokens, where the work
around each rollout weighs most. `benchmarks.step` says what a launch and a step are.
"""

import argparse
import json
import shutil
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from benchmarks.record import RESULTS, ROOT, write
from benchmarks.step import summary, table, told_of
from benchmarks.step_model import random_model
from benchmarks.step_watch import measured
from benchmarks.step_work import Work
from tasks.artifacts import digest_of, file_digest
from tasks.machine import environment

TOKENS = 262_144  # of a step
LENGTHS = (1024, 4096, 8192)
AROUND = 256  # tokens of a response where the work around each rollout is what is looked at
ROLLOUTS = 8
PROMPT = 64  # more than the longest prompt
PASS = 16_384  # tokens of a forward pass
SYSTEMS = ("ours", "stock")
PARTS = ("benchmarks", "conf", "tasks", "trainer")  # of the code: what a launch may run


@dataclass(frozen=True)
class One:
    """A launch: which system does what work, in which round."""

    name: str
    work: Work
    round: int
    system: str

    @property
    def key(self) -> dict[str, Any]:
        """What tells it from others, and from those of other code or on another machine."""
        return {
            "model": self.name,
            "size": self.work.size,
            "steps": self.work.steps,
            "round": self.round,
            "system": self.system,
            "code": code(),
            "gpus": environment().get("gpus", []),
        }


@cache
def code() -> str:
    """Digest of all that a launch runs of ours."""
    files = [path for part in PARTS for path in sorted((ROOT / part).rglob("*"))]
    return digest_of([file_digest(path) for path in files if path.suffix in (".py", ".yaml")])


def works(name: str, sizes: Sequence[int], steps: int) -> list[Work]:
    """What is measured with one model, whose folder is not known yet."""
    if name == "tiny":
        usual = Work(name, rollouts=2, steps=steps, micro_batch=8)
        return [replace(usual, prompts=4, response=length) for length in (8, 16)]
    # Passes of as many rollouts as are said here, whatever a prompt adds.
    usual = Work(
        name,
        rollouts=ROLLOUTS,
        steps=steps,
        hardware="gpu1",
        overrides=("hardware.micro_tokens=0",),
    )
    long = [
        replace(
            usual,
            prompts=TOKENS // length // ROLLOUTS,
            response=length,
            micro_batch=PASS // length,
        )
        for length in LENGTHS
    ]
    around = replace(usual, prompts=128, rollouts=16, response=AROUND, micro_batch=32)
    return [work for work in (*long, around) if work.response in sizes]


def launches(names: Sequence[str], sizes: Sequence[int], rounds: int, steps: int) -> Iterator[One]:
    """All launches, in turns: a size is measured whole before the next."""
    for name in names:
        for work in works(name, sizes, steps):
            for number in range(1, rounds + 1):
                for system in SYSTEMS:
                    yield One(name, work, number, system)


def kept(path: Path) -> list[dict[str, Any]]:
    """Launches that were made before. A last line that was cut is left out."""
    lines = path.read_text().splitlines(keepends=True) if path.exists() else []
    return [json.loads(line) for line in lines if line.endswith("\n")]


def tables(asked: Sequence[One], made: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Of each model and size the rounds that all systems have made, their summary and its table."""
    rounds: dict[tuple[str, Work], dict[int, dict[str, dict]]] = {}
    for one in asked:
        there = rounds.setdefault((one.name, one.work), {}).setdefault(one.round, {})
        for record in made:
            if record["launch"] == one.key:
                there[one.system] = record["measured"]
    found = []
    for (name, work), by_round in rounds.items():
        whole = [row for row in by_round.values() if set(row) == set(SYSTEMS)]
        if whole:
            figures = summary(whole)
            facts = {"model": name, "size": work.size, "summary": figures, "rounds": whole}
            found.append({**facts, "table": table(figures, work)})
    return found


def main() -> None:
    """Measure, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with a tiny model")
    parser.add_argument("--models", nargs="+", choices=["0.5B", "1.5B"], default=["0.5B", "1.5B"])
    sizes = [*LENGTHS, AROUND]
    parser.add_argument("--sizes", nargs="+", type=int, choices=sizes, default=sizes, help="tokens")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--steps", type=int, default=5, help="of a launch; at least 3")
    parser.add_argument("--launches", type=int, help="new ones, at most; none: all")
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu", help="without suffix")
    given = parser.parse_args()
    if given.steps < 3:
        parser.error("--steps: the first step warms up, the last saves: at least 3")
    names = ["tiny"] if given.tiny else given.models
    asked = list(launches(names, given.sizes, given.rounds, given.steps))
    log = given.output.with_suffix(".jsonl")
    log.parent.mkdir(parents=True, exist_ok=True)
    there = [record["launch"] for record in kept(log)]
    to_make = [one for one in asked if one.key not in there][: given.launches]
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:

        @cache
        def model(name: str) -> Path:
            dtype = "float32" if name == "tiny" else "bfloat16"
            return random_model(name, Path(folder) / name, PROMPT + LENGTHS[-1], dtype)

        for one in to_make:
            work = replace(one.work, model=str(model(one.name)))
            try:
                found = measured(one.system, work, Path(folder) / "launch")
            except RuntimeError:
                shutil.copy(Path(folder) / "launch" / "log", f"{given.output}-failed.log")
                raise
            with log.open("a") as file:
                file.write(json.dumps({"launch": one.key, "measured": found}) + "\n")
            said = f"{one.name}, {work.size}, round {one.round}  {one.system:6}"
            print(said, told_of(found), flush=True)
    results = tables(asked, kept(log))
    pages = [f"{each['model']}, {each['size']}:\n\n{each.pop('table')}" for each in results]
    print("\n\n".join(pages) or "no round is whole yet: run it again for its other launches")
    if pages:
        write(given.output, {"results": results}, "\n\n".join(pages))


if __name__ == "__main__":
    main()
