"""Runs the demo with several seeds and keeps the numbers of their reports.

    python -m benchmarks.lab_seeds --seeds 0 1 2 --output outputs

Writes `benchmarks/results/lab_fastcurl.json`, and `lab_fastcurl.md` beside it: accuracy against the
base, tokens, seconds of each run, and the most memory that its processes held together.
"""

import argparse
import json
import subprocess
import sys
import threading
import time
from pathlib import Path

import psutil

from conf.overrides import written
from tasks.machine import environment

RESULTS = Path(__file__).parent / "results"
EXPERIMENT = "lab/fastcurl"


def run(seed: int, output: Path) -> dict:
    """Run the pipeline once, from nothing; its summary, seconds, and peak memory in GiB.

    Memory is the proportional set size of the whole process tree, looked at each second.
    """
    command = ["python", "-m", "flows.pipeline", f"experiment={EXPERIMENT}", f"seed={seed}"]
    started = time.monotonic()
    process = subprocess.Popen([sys.executable, *command[1:], f"output={written(str(output))}"])
    peak = 0.0

    def watch() -> None:
        nonlocal peak
        while process.poll() is None:
            peak = max(peak, tree_gib(process.pid))
            time.sleep(1)

    watcher = threading.Thread(target=watch)
    watcher.start()
    code = process.wait()
    watcher.join()
    if code != 0:
        raise SystemExit(f"seed {seed} ended with exit code {code}")
    folder = output / "reports" / f"lab_fastcurl-seed{seed}"
    summary = json.loads((folder / "summary.json").read_text())
    return {
        "command": " ".join(command),
        "seconds": round(time.monotonic() - started, 1),
        "peak_memory_gib": round(peak, 2),
        "verdict": summary["verdict"],
        "checkpoints": summary["benchmarks"]["lab_test"],
        "totals": summary["totals"],
    }


def tree_gib(pid: int) -> float:
    """Memory of a process and all below it, shared pages counted once between them, in GiB."""
    total = 0
    try:
        processes = [psutil.Process(pid), *psutil.Process(pid).children(recursive=True)]
    except psutil.NoSuchProcess:
        return 0.0
    for process in processes:
        try:
            total += process.memory_full_info().pss
        except psutil.Error:
            continue
    return total / 2**30


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
    parser.add_argument("--output", type=Path, required=True, help="folder that does not exist yet")
    arguments = parser.parse_args()
    runs = {}
    for seed in arguments.seeds:
        runs[seed] = run(seed, arguments.output / f"seed{seed}")
        command = "python -m benchmarks.lab_seeds --seeds " + " ".join(map(str, arguments.seeds))
        record = {"command": command, "environment": environment(), "runs": runs}
        RESULTS.mkdir(exist_ok=True)
        (RESULTS / "lab_fastcurl.json").write_text(json.dumps(record, indent=2) + "\n")
        text = f"# The demo, seed by seed\n\n`{command} --output outputs`\n\n"
        (RESULTS / "lab_fastcurl.md").write_text(text + table(runs) + "\n")
    print(table(runs))


if __name__ == "__main__":
    main()
