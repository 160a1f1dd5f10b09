"""How often intervals hold the truth, where the truth is known; and what bootstraps cost.

    python -m benchmarks.interval_coverage --studies 1000 --resamples 500
    python -m benchmarks.interval_coverage --studies 100 --output somewhere/interval_coverage

Writes `benchmarks/results/interval_coverage.json` unless told where.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.record import RESULTS, write
from trainer.metrics import interval, over_seeds, paired_difference, paired_over_seeds

MEAN, CONCENTRATION = 0.431, 0.815
"""A 1.5B model on AIME: 43.1 %, mean p(1 - p) of 0.11."""
SAMPLES = 16


def chances(problems: int, random: np.random.Generator) -> np.ndarray:
    """Chances of a correct response, one for each problem."""
    return random.beta(MEAN * CONCENTRATION, (1 - MEAN) * CONCENTRATION, problems)


def moved(given: np.ndarray, gain: float, luck: float) -> np.ndarray:
    """Chances after training: a share `gain` of each failure is mended, `luck` is the seed's."""
    return given + (gain + luck) * (1 - given)


def graded(given: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """[N, K] graded responses."""
    return random.random((len(given), SAMPLES)) < given[:, None]


def coverage(problems: int, seeds: int, spread: float, studies: int, resamples: int) -> dict:
    """Shares of studies whose intervals hold the true score and the true difference.

    Args:
        problems: N, drawn anew in each study.
        seeds: Training seeds of both arms.
        spread: Standard deviation of a seed's luck, as a share of failures mended.
        studies: How many.
        resamples: Of the bootstrap, which only one seed uses.
    """
    random, gain = np.random.default_rng([problems, seeds, int(1000 * spread)]), 0.05
    true_score, true_difference = MEAN, gain * (1 - MEAN)
    held = {"score": 0, "difference": 0, "false_alarms": 0}
    for _ in range(studies):
        given = chances(problems, random)
        luck = random.normal(0, spread, (3, seeds))
        before = [graded(moved(given, 0.0, one), random) for one in luck[0]]
        after = [graded(moved(given, gain, one), random) for one in luck[1]]
        again = [graded(moved(given, 0.0, one), random) for one in luck[2]]
        if seeds == 1:
            low, high = interval(before[0], resamples=resamples)
            found = paired_difference(before[0], after[0], resamples=resamples)
            nothing = paired_difference(before[0], again[0], resamples=resamples)
        else:
            _, low, high, *_ = over_seeds(before)
            found = paired_over_seeds(before, after)
            nothing = paired_over_seeds(before, again)
        held["score"] += low <= true_score <= high
        held["difference"] += found.low <= true_difference <= found.high
        held["false_alarms"] += nothing.p_value < 0.05
    return {
        "problems": problems, "seeds": seeds, "spread": spread, "studies": studies,
        **{name: round(count / studies, 4) for name, count in held.items()},
    }  # fmt: skip


def seconds_of_a_bootstrap() -> float:
    """10,000 resamples over 1,560 problems of 16 responses."""
    random = np.random.default_rng(0)
    correct = graded(chances(1560, random), random)
    interval(correct, resamples=10)
    began = time.perf_counter()
    interval(correct, resamples=10_000)
    return time.perf_counter() - began


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--studies", type=int, default=2000)
    parser.add_argument("--resamples", type=int, default=1000)
    parser.add_argument(
        "--output", type=Path, default=RESULTS / "interval_coverage", help="without suffix"
    )
    given = parser.parse_args()
    rows = []
    for problems in (30, 500):
        for seeds, spread in ((1, 0.0), (2, 0.04), (3, 0.0), (3, 0.04), (5, 0.04)):
            rows.append(coverage(problems, seeds, spread, given.studies, given.resamples))
            print(rows[-1], flush=True)
    took = seconds_of_a_bootstrap()
    print(f"bootstrap of 1,560 x 16, 10,000 resamples: {took:.2f} s")
    facts = {"level": 0.95, "coverage": rows, "bootstrap_seconds": round(took, 3)}
    write(given.output, facts)


if __name__ == "__main__":
    main()
