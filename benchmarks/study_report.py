"""How long the report of a large study takes: 20 runs of 2,000 steps with 80 metrics each.

python -m benchmarks.study_report           # writes results/study_report.json
"""

import argparse
import json
import resource
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from benchmarks.record import RESULTS, write
from conf.schema import Experiment
from conf.schema.study import Arm, Study
from tasks.arm_runs import ArmRun
from tasks.comparison import compare
from tasks.sharing import sharing
from tasks.study_report import write_study_report

ARMS, SEEDS, STAGES, STEPS, METRICS, PROBLEMS, SAMPLES = 4, 5, 4, 500, 80, 500, 16


def made_up(output: Path, arm: str, seed: int, random: np.random.Generator) -> ArmRun:
    """A run of four stages, all metrics recorded, scored before and after each."""
    settings = Experiment.model_validate(
        {
            "name": arm,
            "seed": seed,
            "output": str(output),
            "stages": [{"name": f"{place}-L2-8k", "steps": STEPS} for place in range(STAGES)],
        }
    )
    stages = [
        _stage(output / f"{arm}-{seed}-stage{place}", place, random) for place in range(STAGES)
    ]
    evaluations = [
        _evaluation(output / f"{arm}-{seed}-eval{place}", place - 1, random)
        for place in range(STAGES + 1)
    ]
    return ArmRun(arm, seed, settings, "python -m flows.pipeline", stages, evaluations)


def _stage(folder: Path, position: int, random: np.random.Generator) -> dict:
    folder.mkdir()
    values = random.random((STEPS, METRICS))
    others = [f"metric/{number}" for number in range(METRICS - 5)]
    with (folder / "metrics.jsonl").open("w") as file:
        for step in range(STEPS):
            row = {"step": step + 1, "time": 1.7e9 + step, "updates": 1, "tokens/generated": 10_000,
                   "seconds/step": 9.0, "reward/mean": values[step, 0], "entropy": values[step, 1],
                   "response_length/mean": 4000 * values[step, 2],
                   "truncated_share": values[step, 3], "zero_variance_share": values[step, 4],
                   **dict(zip(others, values[step, 5:].tolist(), strict=True))}  # fmt: skip
            file.write(json.dumps(row) + "\n")
    cost = {"steps": STEPS, "updates": STEPS, "prompts": 64 * STEPS, "rollouts": 512 * STEPS,
            "tokens_generated": 10_000 * STEPS, "tokens_trained": 10_000 * STEPS}  # fmt: skip
    return {"name": f"{position}-L2-8k", "position": position, "folder": folder, "steps": STEPS,
            "counters": cost, "seconds": 9.0 * STEPS, "outcome": "finished"}  # fmt: skip


def _evaluation(folder: Path, position: int, random: np.random.Generator) -> dict:
    folder.mkdir()
    correct = random.random((PROBLEMS, SAMPLES)) < 0.4 + 0.03 * position
    ids = [f"p{number:04}" for number in range(PROBLEMS)]
    table = {"id": np.repeat(ids, SAMPLES), "sample": np.tile(np.arange(SAMPLES), PROBLEMS),
             "tokens": random.integers(100, 9000, correct.size),
             "truncated": random.random(correct.size) < 0.05,
             "correct": correct.ravel()}  # fmt: skip
    pq.write_table(pa.table(table), folder / "responses.parquet")
    scores = {"k": SAMPLES, "avg_at_k": float(correct.mean()), "pass_at_k": 1.0}
    return {"benchmark": "math500", "label": str(position), "position": position, "folder": folder,
            "sampling": {"samples": SAMPLES}, "metrics": scores}  # fmt: skip


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "study_report", help="without suffix"
    )
    given = parser.parse_args()
    random = np.random.default_rng(0)
    study = Study(
        name="large",
        question="How long does this take?",
        arms=[Arm(name=f"arm{number}") for number in range(ARMS)],
        seeds=list(range(SEEDS)),
        targets={"math500": 0.45},
    )
    with tempfile.TemporaryDirectory() as folder:
        runs = [
            made_up(Path(folder), arm.name, seed, random)
            for arm in study.arms
            for seed in study.seeds
        ]
        began, busy = time.perf_counter(), time.process_time()
        found = compare(study, runs)
        shared = sharing([(f"{run.arm} seed {run.seed}", run.settings) for run in runs])
        report = write_study_report(found, shared, folder=Path(folder) / "report", command="again")
        took, busy = time.perf_counter() - began, time.process_time() - busy
        size = report.html.stat().st_size
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    result = {
        "runs": len(runs), "steps": STAGES * STEPS, "metrics": METRICS,
        "seconds": round(took, 2), "processor_seconds": round(busy, 2),
        "page_mebibytes": round(size / 2**20, 2), "peak_memory_gibibytes": round(peak / 2**20, 2),
    }  # fmt: skip
    print(json.dumps(result, indent=2))
    write(given.output, result)


if __name__ == "__main__":
    main()
