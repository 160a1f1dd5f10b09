"""What choosing prompts online costs where there is nothing to choose: every group qualifies.

    python -m benchmarks.streaming                  # 8 minutes; writes results/streaming.*

Uniform sampling, DAPO's dynamic sampling and SPEED in turns, on the same work as `benchmarks.step`.
Seconds of a step for each group that it trained; ratios to uniform sampling within a round, and
their medians. SPEED samples a group in two parts, its screening and its continuation: one after the
other in a step or, a step ahead, the screening of the next step's groups beside the continuation of
this one's.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.record import RESULTS, write
from benchmarks.step_watch import measured
from benchmarks.step_work import Work
from trainer.lab import BASE
from trainer.records import read_records

ARMS = {
    "uniform": ("selection=uniform",),
    "dapo": ("selection=dapo",),
    # stages.1 is not trained here, but is looked at
    "speed": ("selection=speed", "stages.1.group_size=8"),
    "speed_ahead": ("selection=speed_ahead", "stages.1.group_size=8"),
}
PLUGIN = "benchmarks.streaming_plugin"


def once(arm: str, work: Work, folder: Path) -> dict[str, float]:
    """Seconds of a step, and for each group that trained; rollouts drawn for each that trained."""
    run = measured("ours", replace(work, overrides=ARMS[arm], plugin=PLUGIN), folder)
    records = read_records(folder / "metrics.jsonl")[1:-1]
    groups = sum(record["selection/trained"] for record in records) / len(records)
    return {
        "step_s": run["step_s"],
        "seconds_per_group": run["step_s"] / groups,
        "rollouts_per_group": sum(r["rollouts"] for r in records) / len(records) / groups,
        "parts": run["parts"],
    }


def table(rounds: list[dict[str, dict]]) -> str:
    """A row for each way of choosing."""
    lines = [
        "| selection | step, s | of it sampling, s | s per trained group | ratio to uniform |",
        "|---|---|---|---|---|",
    ]
    for arm in rounds[0]:
        one = [row[arm] for row in rounds]
        ratio = median(r[arm]["seconds_per_group"] / r["uniform"]["seconds_per_group"]
                       for r in rounds)  # fmt: skip
        lines.append(
            f"| {arm} | {median(r['step_s'] for r in one):.2f} "
            f"| {median(r['parts']['generate'] for r in one):.2f} "
            f"| {median(r['seconds_per_group'] for r in one):.4f} | {ratio:.3f} |"
        )
    return "\n".join(lines)


def main() -> None:
    """Measure, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--rounds", type=int, default=3, help="each launches every selection")
    parser.add_argument("--steps", type=int, default=12)
    parser.add_argument("--output", type=Path, default=RESULTS / "streaming", help="without suffix")
    given = parser.parse_args()
    work = Work(model=str(BASE), steps=given.steps)
    rounds = []
    with tempfile.TemporaryDirectory(prefix="streaming-") as folder:
        for number in range(given.rounds):
            rounds.append({arm: once(arm, work, Path(folder) / f"{number}-{arm}") for arm in ARMS})
            print(table(rounds), flush=True)
    page = f"Every group qualifies:\n\n{table(rounds)}"
    write(given.output, {"work": work.facts, "rounds": rounds}, page)


if __name__ == "__main__":
    main()
