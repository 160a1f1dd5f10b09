"""Scores of several training seeds on the same problems: problems and seeds are both samples.

A bootstrap over three seeds knows three numbers, and draws from ten sets of them. So intervals over
seeds come from the analysis of variance of the two crossed factors, with Student's quantiles; those
of one seed stay bootstrapped (`trainer.metrics.intervals`). How much seeds differ is a guess from
few numbers too, and by luck a low one: comparisons take it from all arms of a study together.
`benchmarks/interval_coverage.py` measures what comes of it.

Shapes: S seeds, N problems, K samples each.
"""

from collections.abc import Sequence
from sys import float_info
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.metrics import student
from trainer.metrics.design import error_of_design, smallest_difference
from trainer.metrics.graded import graded_matrix
from trainer.metrics.intervals import (
    NO_SPREAD,
    RESAMPLES,
    Difference,
    interval,
    paired_difference,
    same_difference,
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


class SeedSpread(NamedTuple):
    """How much the score of one way of training varies from seed to seed.

    Attributes:
        variance: Of a seed's avg@k, between seeds of one arm.
        freedom: Degrees of freedom of that variance.
    """

    variance: float
    freedom: int


def spread_over_seeds(arms: Sequence[Sequence[ArrayLike]]) -> SeedSpread:
    """How much seeds vary within arms, over all arms together.

        variance = sum_a (S_a - 1) var_s(mean_nk graded[a, s]) / sum_a (S_a - 1)

    Three seeds guess a variance with two degrees of freedom: one time in ten it comes out below a
    ninth of what it is. Nine arms of three seeds have eighteen, and such luck is over.

    Args:
        arms: For each arm its [S][N, K] correctness, on the same problems; S may differ, and an
            arm with one seed tells nothing here.

    Returns:
        `SeedSpread`; with no two seeds of any arm, no variance with 0 degrees of freedom.

    Raises:
        ValueError: an arm has no seed, or its seeds have different numbers of problems.
    """
    means = [_by_seed_and_problem(graded).mean(axis=1) for graded in arms]
    freedom = sum(len(each) - 1 for each in means)
    squares = sum(float(((each - each.mean()) ** 2).sum()) for each in means)
    return SeedSpread(squares / freedom if freedom else 0.0, freedom)


def over_seeds(graded: Sequence[ArrayLike], *, level: float = 0.95) -> Estimate:
    """avg@k of a way of training, seen through S trainings and N problems.

    Args:
        graded: [S][N, K] correctness; K may differ from seed to seed.
        level: Confidence of the interval.

    Returns:
        `Estimate`. With one seed its interval is that of `interval`, and says nothing of others;
        it is that too where every response of all seeds is right, or every one wrong.

    Raises:
        ValueError: no seed, or the seeds have different numbers of problems.
    """
    scores = _by_seed_and_problem(graded)
    means = tuple(scores.mean(axis=1).tolist())
    if len(scores) == 1 or (scores == 0).all() or (scores == 1).all():
        low, high = interval(scores[0], level=level)
    else:
        error, freedom = _crossed_error(scores)
        reach = error * student.quantile((1 + level) / 2, freedom)
        low, high = scores.mean() - reach, scores.mean() + reach
    return Estimate(float(scores.mean()), float(low), float(high), means, scores.shape[1])


def paired_over_seeds(
    before: Sequence[ArrayLike],
    after: Sequence[ArrayLike],
    *,
    level: float = 0.95,
    spread: SeedSpread | None = None,
) -> Difference:
    """How much better one way of training is than another, over the same problems and seeds.

        d_sn = mean_k after[s, n, k] - mean_k before[s, n, k],   difference = mean_sn d_sn
        error^2 = max(MS_problems + 2 N variance - MS_rest, MS_problems) / (S N)

    MS are the mean squares of d; `variance` is that of seeds within arms, the larger of what these
    two and what the whole study show, so that an arm less steady than the others is not compared
    with their error. The degrees of freedom are those of the seeds alone, never more than N - 1:
    Satterthwaite's would be more, and where seeds agree by luck far too many: with three seeds,
    p < 0.001 then came up twenty times as often as it may. The price is paid where training hardly
    varies and arms are few: intervals are wider and p-values larger there than need be.
    Where problems do not matter, this is Student's test of two groups of seeds.

    Args:
        before: [S][N, K] correctness of each seed.
        after: [S][N, K'] of the same seeds on the same problems, in the same order.
        level: Confidence of the interval.
        spread: How seeds vary within all arms of the study, from `spread_over_seeds`. Without it
            within these two. Arms that share their first stages, and so their luck there, differ
            less than this takes for granted: their intervals are wider than need be.

    Returns:
        `Difference`; interval and p-value by Student's t. Where all differences are the same
        there is no error to divide by: p-value and interval are those of `paired_difference`.
        With one seed, `paired_difference`, which says nothing of other seeds.

    Raises:
        ValueError: numbers of seeds or problems differ, or there are none.

    Source:
        The mean squares: Searle, Casella & McCulloch 1992, "Variance Components", chapter 4.
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
    error, freedom = _paired_error(differences, spread_over_seeds([before, after]), spread)
    reach = error * student.quantile((1 + level) / 2, freedom)
    low, high = mean - reach, mean + reach
    if error > NO_SPREAD:
        p_value = 2 * student.above(abs(mean) / error, freedom)
        p_value = max(p_value, float_info.min)  # too small for a float is not never
    else:  # every difference is the same: that is no proof that there is no error
        p_value = sign_flip_p_value(differences.mean(axis=0), RESAMPLES, 0)
        samples = min(np.shape(each)[1] for each in (*before, *after))
        error = error_of_design(differences.shape[1], samples, seeds=len(differences))
        freedom = np.inf
        low, high = same_difference(mean, differences.shape[1], level)
    return Difference(
        mean,
        float(low),
        float(high),
        float(p_value),
        differences.shape[1],
        smallest_difference(error, freedom, level=level),
        len(differences),
        error,
        freedom,
    )


def _paired_error(
    differences: NDArray, pair: SeedSpread, study: SeedSpread | None
) -> tuple[float, float]:
    """Standard error of the mean of [S, N] differences, and its freedom."""
    problems = differences.shape[1]
    square_problems, _, square_rest = _mean_squares(differences)
    known = study or pair
    square_seeds = 2 * problems * max(known.variance, pair.variance)
    variance = max(square_problems + square_seeds - square_rest, square_problems)
    freedom = min(max(known.freedom, pair.freedom), problems - 1)
    return float(np.sqrt(variance / differences.size)), float(freedom)


def _crossed_error(scores: NDArray) -> tuple[float, float]:
    """Standard error of the mean of [S, N] scores, both factors random, and its freedom.

        error^2 = max(MS_problems + MS_seeds - MS_rest, MS_problems) / (S N)

    The lower bound keeps a lucky agreement of few seeds from looking like certainty. Right for
    intervals at 95 %; its tails are too thin for a test, see `paired_over_seeds`.

    Source:
        Satterthwaite 1946 for the degrees of freedom.
    """
    seeds, problems = scores.shape
    square_problems, square_seeds, square_rest = _mean_squares(scores)
    variance = square_problems + square_seeds - square_rest
    if variance <= square_problems:
        return float(np.sqrt(square_problems / scores.size)), problems - 1
    freedom = variance**2 / (
        square_problems**2 / (problems - 1)
        + square_seeds**2 / (seeds - 1)
        + square_rest**2 / ((problems - 1) * (seeds - 1))
    )
    return float(np.sqrt(variance / scores.size)), max(1.0, float(freedom))


def _mean_squares(scores: NDArray) -> tuple[float, float, float]:
    """Of problems, of seeds, and of the rest, in [S, N] scores."""
    seeds, problems = scores.shape
    mean = scores.mean()
    by_problem, by_seed = scores.mean(axis=0), scores.mean(axis=1)
    rest = scores - by_problem - by_seed[:, None] + mean
    return (
        float(seeds * ((by_problem - mean) ** 2).sum() / (problems - 1)),
        float(problems * ((by_seed - mean) ** 2).sum() / (seeds - 1)),
        float((rest**2).sum() / ((problems - 1) * (seeds - 1))),
    )


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
