"""Runs the demo with several seeds and keeps the numbers of their reports.

    python -m benchmarks.lab_seeds --seeds 0 1 2 --output outputs

Writes `benchmarks/results/lab_fastcurl.json`, and `lab_fastcurl.md` beside it: accuracy against the
base, tokens, seconds of each run, and the most memory that its processes held together.
"""

import argparse
import shlex
import sys
import time
from pathlib import Path

from benchmarks.processes import memory_gib, run_watched, tree
from benchmarks.record import RESULTS, write
from conf.overrides import written
from tasks.artifacts import read_json

EXPERIMENT = "lab/fastcurl"


def run(seed: int, output: Path) -> dict:
    """Run the pipeline once, from nothing; its summary, seconds, and peak memory in GiB.

    Memory is the proportional set size of the whole process tree, looked at each second.
    """
    command = ["python", "-m", "flows.pipeline", f"experiment={EXPERIMENT}", f"seed={seed}"]
    started = time.monotonic()
    peak = 0.0

    def look(pid: int) -> None:
        nonlocal peak
        peak = max(peak, memory_gib(tree(pid)))

    code = run_watched([sys.executable, *command[1:], f"output={written(str(output))}"], look, 1)
    if code != 0:
        raise SystemExit(f"seed {seed} ended with exit code {code}")
    folder = output / "reports" / f"lab_fastcurl-seed{seed}"
    summary = read_json(folder / "summary.json")
    return {
        "command": shlex.join(command),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gib": round(peak, 2),
        "verdict": summary["verdict"],
        "checkpoints": summary["benchmarks"]["lab_test"],
        "totals": summary["totals"],
    }


def table(runs: dict[int, dict]) -> str:
    """The runs as a markdown table."""
    lines = [
        "| seed | base avg@8 | final avg@8 | points gained (paired 95 % interval) "
        "| after each stage | minutes | peak memory |",
        "|---|---|---|---|---|---|---|",
    ]
    for seed, result in runs.items():
        base, *stages = result["checkpoints"]
        gain = stages[-1]["difference"]
        lines.append(
            f"| {seed} | {base['avg_at_k']:.1%} | {stages[-1]['avg_at_k']:.1%} "
            f"| {100 * gain['mean']:+.1f} ({100 * gain['low']:+.1f} to {100 * gain['high']:+.1f}) "
            f"| {', '.join(format(stage['avg_at_k'], '.1%') for stage in stages)} "
            f"| {result['seconds'] / 60:.1f} | {result['peak_memory_gib']:.1f} GiB |"
        )
    return "\n".join(lines)


def main() -> None:
    """Run every seed and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the runs")
    given = parser.parse_args()
    folders = {seed: given.output / f"seed{seed}" for seed in given.seeds}
    for folder in folders.values():
        if folder.exists():  # what is done is not done again, and its seconds would say nothing
            parser.error(f"{folder} is there already: move it away, or name another --output")
    runs = {}
    for seed, folder in folders.items():
        runs[seed] = run(seed, folder)
        page = f"The demo, seed by seed:\n\n{table(runs)}"
        write(RESULTS / "lab_fastcurl", {"runs": runs}, page)
    print(table(runs))


if __name__ == "__main__":
    main()
