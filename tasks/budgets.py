"""What an arm's finished runs cost up to a score, and how they score at one cost."""

from math import isnan
from typing import Any

import numpy as np

from conf.schema.study import Study
from tasks.arm_runs import OnBenchmark
from trainer import metrics

BUDGETS = {
    "updates": "optimizer updates",
    "tokens_generated": "generated tokens",
    "rollouts": "rollouts",
    "device_seconds": "device-seconds",
}
"""What the cost of a run is counted in. A device-second is a second of one GPU, or of one trainer
process where there is none."""


def _curves(on: OnBenchmark, arm: str, budget: str) -> list[tuple[list, list]]:
    """Of the runs that finished: one that broke off would cut all budgets to its own."""
    curves = [on.curve(arm, seed, budget) for seed in sorted(on.finals(arm))]
    return [curve for curve in curves if len(curve[0]) > 1]


def at_target(
    study: Study, on: OnBenchmark, arm: str, budget: str, target: float
) -> dict[str, Any] | None:
    """What the arm spent up to a score, and how many times less than the baseline that is.

    Args:
        target: The score, a fraction.

    Returns:
        "costs" of its seeds, how many "reached" it, the "speed_up", and whether one is "coarse":
        reached before the first evaluation. None where no cost is known.
    """
    mine, coarse = _costs(on, arm, budget, target)
    if not mine:
        return None
    found: dict[str, Any] = {
        "costs": [cost._asdict() for cost in mine],
        "reached": sum(cost.reached for cost in mine),
        "coarse": coarse,
        "speed_up": None,
    }
    reference = study.reference.name
    theirs, coarse_too = _costs(on, reference, budget, target)
    if arm != reference and theirs:
        speed_up = metrics.speed_up(theirs, mine, level=study.level)
        found["speed_up"] = {**speed_up._asdict(), "coarse": coarse or coarse_too}
    return found


def _costs(
    on: OnBenchmark, arm: str, budget: str, target: float
) -> tuple[list[metrics.Cost], bool]:
    """What each seed spent up to a target; whether one was there before its first evaluation."""
    curves = _curves(on, arm, budget)
    costs = [metrics.cost_to_target(x, y, target) for x, y in curves]
    early = [c.reached and c.spent < x[1] for c, (x, _) in zip(costs, curves, strict=True)]
    return costs, any(early)


def at_budget(study: Study, on: OnBenchmark, arm: str, budget: str) -> dict[str, Any] | None:
    """The arm's mean score at the largest budget that every finished run had.

    Returns:
        The "budget", the mean "score", the "scores" of its seeds, and whether they are "coarse": no
        evaluation but the start's lies before. None where nothing is known.
    """
    ends = [
        curve[0][-1]
        for other in study.arms
        for curve in _curves(on, other.name, budget)
    ]  # fmt: skip
    curves = _curves(on, arm, budget)
    if not ends or not curves:
        return None
    common = min(ends)
    scores = [metrics.score_at(x, y, common) for x, y in curves]
    known = [score for score in scores if not isnan(score)]
    if not known:
        return None
    coarse = any(common < x[1] for x, _ in curves)  # no evaluation but the start's lies before
    return {"budget": common, "score": float(np.mean(known)), "scores": known, "coarse": coarse}
