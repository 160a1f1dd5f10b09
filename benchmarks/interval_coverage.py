"""How often intervals hold the truth and tests see what is not there; and what bootstraps cost.

    python -m benchmarks.interval_coverage --studies 4000 --resamples 500
    python -m benchmarks.interval_coverage --studies 100 --output somewhere/interval_coverage

Writes `benchmarks/results/interval_coverage.json` unless told where.
"""

import argparse
import time
from pathlib import Path

import numpy as np

from benchmarks.record import RESULTS, write
from trainer.metrics import (
    Difference,
    holm,
    interval,
    over_seeds,
    paired_difference,
    paired_over_seeds,
    spread_over_seeds,
)

MEAN, CONCENTRATION = 0.431, 0.815
"""A 1.5B model on AIME: 43.1 %, mean p(1 - p) of 0.11."""
SAMPLES = 16
ALPHAS = (0.05, 0.01, 0.001)


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

    Returns:
        The shares, and how often two arms that do not differ are told apart at each of `ALPHAS`.
    """
    random, gain = np.random.default_rng([problems, seeds, int(1000 * spread)]), 0.05
    true_score, true_difference = MEAN, gain * (1 - MEAN)
    held, nothing = {"score": 0, "difference": 0}, []

    def compared(one: list[np.ndarray], other: list[np.ndarray]) -> Difference:
        if seeds == 1:
            return paired_difference(one[0], other[0], resamples=resamples)
        return paired_over_seeds(one, other)

    for _ in range(studies):
        given = chances(problems, random)
        luck = random.normal(0, spread, (3, seeds))
        before, again = (
            [graded(moved(given, 0.0, one), random) for one in luck[i]] for i in (0, 2)
        )
        after = [graded(moved(given, gain, one), random) for one in luck[1]]
        if seeds == 1:
            low, high = interval(before[0], resamples=resamples)
        else:
            _, low, high, *_ = over_seeds(before)
        found = compared(before, after)
        held["score"] += low <= true_score <= high
        held["difference"] += found.low <= true_difference <= found.high
        nothing.append(compared(before, again).p_value)
    return {
        "problems": problems, "seeds": seeds, "spread": spread, "studies": studies,
        **{name: round(count / studies, 4) for name, count in held.items()},
        "false_alarms": _below(nothing),
    }  # fmt: skip


def families(
    problems: int, seeds: int, spread: float, studies: int, arms: int = 9, steady: float = 1.0
) -> dict:
    """Shares of studies of several arms, none better than another, that tell one apart by Holm.

    Args:
        problems: N, drawn anew in each study.
        seeds: Training seeds of each arm.
        spread: As in `coverage`.
        studies: How many.
        arms: With the baseline.
        steady: The last arm's luck spreads this many times as far as the others'.
    """
    random = np.random.default_rng([problems, seeds, int(1000 * spread), arms, int(steady)])
    smallest = []
    for _ in range(studies):
        given = chances(problems, random)
        luck = random.normal(0, spread, (arms, seeds))
        luck[-1] *= steady
        trained = [[graded(moved(given, 0.0, one), random) for one in arm] for arm in luck]
        known = spread_over_seeds(trained)
        values = [
            paired_over_seeds(trained[0], arm, spread=known).p_value for arm in trained[1:]
        ]  # fmt: skip
        smallest.append(holm(values).min())
    return {
        "problems": problems, "seeds": seeds, "spread": spread, "arms": arms,
        "times_less_steady": steady, "studies": studies, "false_alarms": _below(smallest),
    }  # fmt: skip


def _below(values: list[float]) -> dict[str, float]:
    return {f"{alpha:g}": round(float(np.mean(np.array(values) < alpha)), 4) for alpha in ALPHAS}


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
        for seeds, spread in (
            (1, 0.0), (2, 0.02), (2, 0.04), (3, 0.0), (3, 0.02), (3, 0.04), (5, 0.04),
        ):  # fmt: skip
            rows.append(coverage(problems, seeds, spread, given.studies, given.resamples))
            print(rows[-1], flush=True)
    several = []
    for problems in (30, 500):
        for seeds, arms, steady in ((2, 9, 1.0), (3, 9, 1.0), (3, 3, 1.0), (3, 9, 3.0)):
            several.append(families(problems, seeds, 0.02, given.studies, arms, steady))
            print(several[-1], flush=True)
    took = seconds_of_a_bootstrap()
    print(f"bootstrap of 1,560 x 16, 10,000 resamples: {took:.2f} s")
    facts = {
        "level": 0.95,
        "coverage": rows,
        "families": several,
        "bootstrap_seconds": round(took, 3),
    }
    write(given.output, facts)


if __name__ == "__main__":
    main()
