"""How the time and memory of a step grow with the number of rollouts and with their length.

    python -m benchmarks.scaling            # 15 minutes; writes results/scaling.json and scaling.md

Ours on verl beside the plain loop, which has the same model and so the same attention: its cost per
token grows with the length. Both put 128 rollouts through the model at a time. What grows beyond
that is ours. The exponent is the slope of log seconds against log size, by least squares; seconds
are medians of the steps of a launch.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

import numpy as np

from benchmarks.record import RESULTS, write
from benchmarks.step_model import lab_model
from benchmarks.step_watch import measured
from benchmarks.step_work import Work

ROLLOUTS = (256, 1024, 4096)
LENGTHS = (32, 128, 512)
SYSTEMS = ("ours", "plain")


def exponent(sizes: list[int], seconds: list[float]) -> float:
    """The slope of log seconds against log size.

    >>> round(exponent([1, 2, 4], [3.0, 6.0, 12.0]), 6)
    1.0
    """
    return float(np.polyfit(np.log(sizes), np.log(seconds), 1)[0])


def point(work: Work, folder: Path) -> dict:
    """One size, both systems."""
    size = {"rollouts": work.prompts * work.rollouts, "response": work.response}
    for system in SYSTEMS:
        one = measured(system, work, folder / f"{system}-{size['rollouts']}-{size['response']}")
        size[system] = {
            "step_s": round(median(one["steps_s"]), 3),
            **{key: one[key] for key in ("step_cpu_s", "parts", "peak_gib")},
        }
    parts = size["ours"]["parts"]
    model = sum(parts[name] for name in ("generate", "old_log_prob", "update"))
    size["ours"]["other_s"] = round(max(size["ours"]["step_s"] - model, 1e-3), 3)
    print(size, flush=True)
    return size


def fitted(points: list[dict], axis: str) -> dict[str, float]:
    """Exponents along an axis: of each system's step, and of what ours takes beside the model."""
    sizes = [one[axis] for one in points]
    found = {f"{s} step": exponent(sizes, [one[s]["step_s"] for one in points]) for s in SYSTEMS}
    found |= {
        f"{s} step, CPU": exponent(sizes, [one[s]["step_cpu_s"] for one in points]) for s in SYSTEMS
    }
    found["ours around the model"] = exponent(sizes, [one["ours"]["other_s"] for one in points])
    found["ours over plain"] = found["ours step"] - found["plain step"]
    return {name: round(value, 3) for name, value in found.items()}


def table(points: list[dict], axis: str, exponents: dict[str, float]) -> str:
    """A row for each size."""
    lines = [
        f"| {axis} | ours, s | around the model, s | plain, s | ours, GiB | plain, GiB |",
        "|---|---|---|---|---|---|",
    ]
    for one in points:
        a, b = one["ours"], one["plain"]
        lines.append(
            f"| {one[axis]:,} | {a['step_s']:.2f} | {a['other_s']:.2f} | {b['step_s']:.2f} "
            f"| {a['peak_gib']:.1f} | {b['peak_gib']:.1f} |"
        )
    told = ", ".join(f"{name} {value:.2f}" for name, value in exponents.items())
    return "\n".join([*lines, "", f"Exponents: {told}."])


def main() -> None:
    """Measure, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--steps", type=int, default=5, help="of a launch; two are not counted")
    parser.add_argument("--output", type=Path, default=RESULTS / "scaling", help="without suffix")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="scaling-") as folder:
        model = lab_model(Path(folder) / "model", 1024)
        usual = Work(str(model), steps=given.steps, micro_batch=128)
        smallest = point(usual, Path(folder))
        wide = [
            point(replace(usual, prompts=size // usual.rollouts), Path(folder))
            for size in ROLLOUTS[1:]
        ]
        long = [point(replace(usual, response=size), Path(folder)) for size in LENGTHS[1:]]
    axes = {"rollouts": [smallest, *wide], "response": [smallest, *long]}
    fits = {axis: fitted(points, axis) for axis, points in axes.items()}
    page = "\n\n".join(table(points, axis, fits[axis]) for axis, points in axes.items())
    print(page)
    write(given.output, {"work": usual.facts, "points": axes, "exponents": fits}, page)


if __name__ == "__main__":
    main()
