"""Scores of several training seeds on the same problems: problems and seeds are both samples.

A bootstrap over three seeds knows three numbers, and draws from ten sets of them. So intervals over
seeds come from the analysis of variance of the two crossed factors, with Student's quantiles; those
of one seed stay bootstrapped (`trainer.metrics.intervals`). `benchmarks/interval_coverage.py`
measures both.

Shapes: S seeds, N problems, K samples each.
"""

from collections.abc import Sequence
from sys import float_info
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.metrics import student
from trainer.metrics.design import smallest_difference, smallest_difference_of_design
from trainer.metrics.graded import graded_matrix
from trainer.metrics.intervals import (
    NO_SPREAD,
    RESAMPLES,
    Difference,
    interval,
    paired_difference,
    sign_flip_p_value,
)


class Estimate(NamedTuple):
    """A mean over problems and seeds, with its interval.

    Attributes:
        mean: The mean, in units of the scores.
        low: Lower end of the interval.
        high: Upper end of it.
        by_seed: Mean of each seed.
        problems: N.
    """

    mean: float
    low: float
    high: float
    by_seed: tuple[float, ...]
    problems: int


def over_seeds(graded: Sequence[ArrayLike], *, level: float = 0.95) -> Estimate:
    """avg@k of a way of training, seen through S trainings and N problems.

    Args:
        graded: [S][N, K] correctness; K may differ from seed to seed.
        level: Confidence of the interval.

    Returns:
        `Estimate`. With one seed its interval is that of `interval`, and says nothing of others.

    Raises:
        ValueError: no seed, or the seeds have different numbers of problems.
    """
    scores = _by_seed_and_problem(graded)
    means = tuple(scores.mean(axis=1).tolist())
    if len(scores) == 1:
        low, high = interval(scores[0], level=level)
    else:
        error, freedom = _crossed_error(scores)
        reach = error * student.quantile((1 + level) / 2, freedom)
        low, high = scores.mean() - reach, scores.mean() + reach
    return Estimate(float(scores.mean()), float(low), float(high), means, scores.shape[1])


def paired_over_seeds(
    before: Sequence[ArrayLike], after: Sequence[ArrayLike], *, level: float = 0.95
) -> Difference:
    """How much better one way of training is than another, over the same problems and seeds.

        d_sn = mean_k after[s, n, k] - mean_k before[s, n, k],   difference = mean_sn d_sn

    Seeds are paired by number: two arms that share their first stages share their luck there, and
    pairing takes it out. Where they share nothing, pairing costs degrees of freedom only.

    Args:
        before: [S][N, K] correctness of each seed.
        after: [S][N, K'] of the same seeds on the same problems, in the same order.
        level: Confidence of the interval.

    Returns:
        `Difference`; interval and p-value by Student's t. Where all differences are the same
        there is no error to divide by, and the p-value flips signs as in `paired_difference`.
        With one seed, `paired_difference`, which says nothing of other seeds.

    Raises:
        ValueError: numbers of seeds or problems differ, or there are none.
    """
    if len(before) != len(after):
        raise ValueError(
            f"a comparison paired by seed needs the same seeds, got {len(before)} and "
            f"{len(after)}\n\nhint: compare those that both have"
        )
    first, second = _by_seed_and_problem(before), _by_seed_and_problem(after)
    if first.shape != second.shape:
        raise ValueError(
            f"a paired comparison needs the same problems, got {first.shape[1]} and "
            f"{second.shape[1]}\n\nhint: evaluate both on the same benchmark"
        )
    if len(first) == 1:
        return paired_difference(before[0], after[0], level=level)
    differences = second - first
    mean = float(differences.mean())
    error, freedom = _crossed_error(differences)
    reach = error * student.quantile((1 + level) / 2, freedom)
    if error > NO_SPREAD:
        p_value = 2 * student.above(abs(mean) / error, freedom)
        p_value = max(p_value, float_info.min)  # too small for a float is not never
        detectable = smallest_difference(error, freedom, level=level)
    else:  # every difference is the same: that is no proof that there is no error
        p_value = sign_flip_p_value(differences.mean(axis=0), RESAMPLES, 0)
        samples = min(np.shape(each)[1] for each in (*before, *after))
        detectable = smallest_difference_of_design(
            differences.shape[1], samples, seeds=len(differences), level=level
        )
    return Difference(
        mean,
        float(mean - reach),
        float(mean + reach),
        float(p_value),
        differences.shape[1],
        detectable,
        len(differences),
    )


def _crossed_error(scores: NDArray) -> tuple[float, float]:
    """Standard error of the mean of [S, N] scores, both factors random, and its freedom.

        error^2 = max(MS_problems + MS_seeds - MS_rest, MS_problems) / (S N)

    The lower bound keeps a lucky agreement of few seeds from looking like certainty. Of 3 to 5
    seeds, intervals hold the truth in 94 to 98 % of cases; of 2 that differ much, in 88 to 96 %.

    Source:
        Satterthwaite 1946 for the degrees of freedom; the mean squares: Searle, Casella &
        McCulloch 1992, "Variance Components", chapter 4.
    """
    seeds, problems = scores.shape
    mean = scores.mean()
    by_problem, by_seed = scores.mean(axis=0), scores.mean(axis=1)
    rest = scores - by_problem - by_seed[:, None] + mean
    square_problems = seeds * ((by_problem - mean) ** 2).sum() / (problems - 1)
    square_seeds = problems * ((by_seed - mean) ** 2).sum() / (seeds - 1)
    square_rest = (rest**2).sum() / ((problems - 1) * (seeds - 1))
    variance = square_problems + square_seeds - square_rest
    if variance <= square_problems:
        return float(np.sqrt(square_problems / scores.size)), problems - 1
    freedom = variance**2 / (
        square_problems**2 / (problems - 1)
        + square_seeds**2 / (seeds - 1)
        + square_rest**2 / ((problems - 1) * (seeds - 1))
    )
    return float(np.sqrt(variance / scores.size)), max(1.0, float(freedom))


def _by_seed_and_problem(graded: Sequence[ArrayLike]) -> NDArray[np.float64]:
    if not len(graded):
        raise ValueError("there is no seed to average over\n\nhint: train one")
    rows = [graded_matrix(each).mean(axis=1) for each in graded]
    if len({len(row) for row in rows}) > 1:
        raise ValueError(
            f"seeds have {', '.join(str(len(row)) for row in rows)} problems\n\n"
            "hint: evaluate all on the same benchmark"
        )
    if len(rows[0]) < 2:
        raise ValueError(
            f"an interval clustered on problems needs at least 2 of them, got {len(rows[0])}\n\n"
            "hint: evaluate on more problems"
        )
    return np.array(rows)
