"""Accuracy against what it cost: at equal budgets, and the cost of a target."""

from collections.abc import Sequence
from math import exp, inf, isnan, log, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from trainer.metrics import student


class Cost(NamedTuple):
    """What reaching a target took.

    Attributes:
        spent: Cost at which the target was first reached, or all that was spent.
        reached: Whether it was. If not, the true cost is above `spent`: it is censored.
    """

    spent: float
    reached: bool


class Speedup(NamedTuple):
    """How many times less one way of training costs than another until both reach a target.

    Attributes:
        ratio: Geometric mean over seeds of the cost before, by that of the cost after; 2 is half
            the cost. NaN where it cannot be known.
        low: Lower end of its interval.
        high: Upper end; infinity where the costs before are censored.
        bound: "": `ratio` is an estimate; ">": the true one is above, for `before` did not always
            reach the target; "<": below, for `after` did not; "?": neither always did.
        reached_before: Seeds that reached it.
        reached_after: Seeds that reached it.
    """

    ratio: float
    low: float
    high: float
    bound: str
    reached_before: int
    reached_after: int


def score_at(costs: ArrayLike, scores: ArrayLike, budget: float) -> float:
    """The score at a budget, on the line between the two evaluations around it.

    Args:
        costs: [C] cost of each evaluated checkpoint, rising; the first may be 0, the base.
        scores: [C] their scores.
        budget: In units of the costs.

    Returns:
        The score; NaN outside of what was spent.
    """
    cost, score = _curve(costs, scores)
    if not cost[0] <= budget <= cost[-1] * (1 + 1e-9):
        return nan
    return float(np.interp(budget, cost, score))


def cost_to_target(costs: ArrayLike, scores: ArrayLike, target: float) -> Cost:
    """What it cost to reach a score for the first time.

    Between two evaluations the score is taken to move on a line, so the cost is not rounded up to
    the next evaluation. SPEED (Zhang et al. 2025, arXiv:2506.09016) does round it up, and counts
    hours: its ratios depend on how often is evaluated.

    Args:
        costs: [C] cost of each evaluated checkpoint, rising; the first may be 0, the base.
        scores: [C] their scores.
        target: The score.

    Returns:
        `Cost`; censored where the target was never reached.

    >>> cost_to_target([0, 100, 200], [0.2, 0.4, 0.8], 0.6)
    Cost(spent=150.0, reached=True)
    >>> cost_to_target([0, 100, 200], [0.2, 0.4, 0.8], 0.9)
    Cost(spent=200.0, reached=False)
    """
    cost, score = _curve(costs, scores)
    above = np.flatnonzero(score >= target)
    if not len(above):
        return Cost(float(cost[-1]), False)
    at = int(above[0])
    if at == 0:
        return Cost(float(cost[0]), True)
    share = (target - score[at - 1]) / (score[at] - score[at - 1])
    return Cost(float(cost[at - 1] + share * (cost[at] - cost[at - 1])), True)


def speed_up(before: Sequence[Cost], after: Sequence[Cost], *, level: float = 0.95) -> Speedup:
    """How many times less `after` costs than `before`, over training seeds.

        ratio = exp( mean_s log before_s - mean_s log after_s )

    Its interval is Welch's for the difference of two means of logarithms: seeds are the sample,
    and seeds alone. With fewer than two on a side there is none. A run that never reached the
    target counts with all it spent, which makes the ratio a bound; the side of the interval that
    the missing cost could move goes to infinity, or to 0.

    Args:
        before: Cost of each seed; costs of 0 (the base was there already) give NaN.
        after: Cost of each seed.
        level: Confidence of the interval.

    Returns:
        `Speedup`.

    Raises:
        ValueError: one side has no seeds.
    """
    if not before or not after:
        raise ValueError("a speed-up needs seeds on both sides\n\nhint: train both")
    reached = sum(cost.reached for cost in before), sum(cost.reached for cost in after)
    slow, quick = reached[0] < len(before), reached[1] < len(after)
    bound = "?" if slow and quick else ">" if slow else "<" if quick else ""
    if any(cost.spent <= 0 for cost in [*before, *after]) or bound == "?":
        return Speedup(nan, nan, nan, bound, *reached)
    one, other = ([log(cost.spent) for cost in costs] for costs in (before, after))
    center = float(np.mean(one) - np.mean(other))
    low = high = nan
    if min(len(one), len(other)) > 1:
        parts = [float(np.var(each, ddof=1)) / len(each) for each in (one, other)]
        error = sum(parts) ** 0.5
        freedom = (
            sum(parts) ** 2
            / sum(p**2 / (len(each) - 1) for p, each in zip(parts, (one, other), strict=True))
            if error
            else 1.0
        )
        reach = error * student.quantile((1 + level) / 2, freedom)
        low, high = exp(center - reach), exp(center + reach)
    if slow:
        high = inf
    if quick:
        low = 0.0
    return Speedup(exp(center), low, high, bound, *reached)


def _curve(costs: ArrayLike, scores: ArrayLike) -> tuple[np.ndarray, np.ndarray]:
    cost, score = np.asarray(costs, dtype=float), np.asarray(scores, dtype=float)
    if cost.shape != score.shape or cost.ndim != 1 or not len(cost):
        raise ValueError(
            f"costs have shape {cost.shape}, scores {score.shape}\n\n"
            "hint: pass one cost for every evaluated checkpoint"
        )
    if any(isnan(value) for value in [*cost, *score]) or (np.diff(cost) < 0).any():
        raise ValueError(
            "costs must rise, and none may be NaN\n\nhint: leave out checkpoints without a score"
        )
    return cost, score
