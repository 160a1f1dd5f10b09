"""How sure is a score? Intervals and tests clustered on problems.

The problems of a benchmark are a sample too, and the K samples of one problem are alike. So
every interval here is clustered on problems: whole rows are drawn, never single samples.

Shapes: N problems, K samples each, R resamples, S training seeds.
"""

from math import inf, nan
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from trainer.metrics.design import error_of_design, smallest_difference
from trainer.metrics.graded import graded_matrix

RESAMPLES = 10_000
NO_SPREAD = 1e-12  # a standard error up to here is what rounding leaves of none
# Draws held in memory together: 4 million int64 are 32 MiB.
_DRAWS_AT_ONCE = 4_000_000


class Interval(NamedTuple):
    """Where the true value lies, with the confidence asked for; in units of the score."""

    low: float
    high: float


class Difference(NamedTuple):
    """How much better `after` is than `before` on the same problems.

    Attributes:
        mean: Mean over problems of avg@k after, less avg@k before. A fraction in [-1, 1].
        low: Lower end of the interval.
        high: Upper end of the interval.
        p_value: Chance of a mean at least as far from zero if the labels "before" and "after"
            meant nothing, in (0, 1].
        problems: N.
        detectable: Smallest true difference that a test of this design would find with a chance
            of 80 %, see `smallest_difference`; where all differences are the same, and so tell of
            no error, see `smallest_difference_of_design`.
        seeds: Training seeds that both were compared over.
        error: Standard error that `detectable` is made of: it is what tells it at other levels.
        freedom: Degrees of freedom of it.
    """

    mean: float
    low: float
    high: float
    p_value: float
    problems: int
    detectable: float
    seeds: int = 1
    error: float = nan
    freedom: float = inf

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


def interval(
    scores: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Bootstrap interval of a mean score, clustered on problems.

    N problems are drawn with replacement R times, each with all its samples, and the interval
    runs between the (1 - level) / 2 and (1 + level) / 2 quantiles of the R means. Their spread
    about the mean is widened by sqrt(N / (N - 1)): a bootstrap mean varies with the variance
    divided by N where N - 1 is right, which matters at AIME's 30 problems.

    Resampling cannot show what the benchmark did not contain. Where all problems score 0, the
    interval ends at the exact bound 1 - ((1 - level) / 2)^(1 / N): the share of problems not
    scoring 0 that leaves a chance of (1 - level) / 2 to draw N that do. Where all score 1, it
    begins as far from there. Where all score the same between, it has no width.

    Args:
        scores: [N, K] correctness, or [N] scores of problems such as `pass_at_k_by_problem`.
        level: Confidence, between 0 and 1.
        resamples: R.
        seed: Seed of the draws; the same seed gives the same interval.

    Returns:
        `Interval`, in units of the scores.

    Raises:
        ValueError: Fewer than two problems, no resamples, a level outside (0, 1), or a NaN.

    Source:
        Efron & Tibshirani 1993, "An Introduction to the Bootstrap", chapter 13; the widening:
        Hesterberg 2015, "What Teachers Should Know about the Bootstrap", section 3.2; the bound:
        Clopper & Pearson 1934, "The Use of Confidence or Fiducial Limits".
    """
    by_problem = _by_problem(scores)
    low, high = _bootstrap(by_problem, level, resamples, seed)
    beyond = unseen(len(by_problem), level)
    if (by_problem == 0).all():
        return Interval(0.0, beyond)
    if (by_problem == 1).all():
        return Interval(1 - beyond, 1.0)
    return Interval(low, high)


def paired_difference(
    before: ArrayLike,
    after: ArrayLike,
    *,
    level: float = 0.95,
    resamples: int = RESAMPLES,
    seed: int = 0,
) -> Difference:
    """How much better `after` is than `before`, both scored on the same problems.

        d_n = mean_k after[n, k] - mean_k before[n, k],   difference = mean_n d_n

    Pairing takes the differing difficulty of problems out of the comparison. The interval is
    that of `interval` on d; the p-value flips the sign of each d_n at random, since a problem's
    two labels could as well be swapped if nothing had changed. All 2^N flips are tried where
    they are fewer than `resamples`, else `resamples` random ones. Where every problem's difference
    is the same, such as none, the interval is that of `same_difference`.

    Args:
        before: [N, K] bool or {0, 1}, a row per problem.
        after: [N, K'] bool or {0, 1}, the same problems in the same order; K' may differ from K.
        level: Confidence of the interval, between 0 and 1.
        resamples: Bootstrap draws, and at most as many sign flips.
        seed: Seed of both.

    Returns:
        `Difference`, in fractions: 0.05 is five points.

    Raises:
        ValueError: The two have different numbers of problems, or fewer than two.

    Source:
        Fisher 1935, "The Design of Experiments", section 21 (the sign-flip test); the 1 added
        to both counts: Phipson & Smyth 2010, "Permutation P-values Should Never Be Zero".
    """
    first, second = graded_matrix(before), graded_matrix(after)
    if len(first) != len(second):
        raise ValueError(
            f"a paired comparison needs the same problems, got {len(first)} and {len(second)}\n\n"
            "hint: evaluate both checkpoints on the same benchmark"
        )
    differences = second.mean(axis=1) - first.mean(axis=1)
    low, high = _bootstrap(differences, level, resamples, seed)
    p_value = sign_flip_p_value(differences, resamples, seed)
    error = float(differences.std(ddof=1) / np.sqrt(len(differences)))
    freedom: float = len(differences) - 1
    if error <= NO_SPREAD:
        error = error_of_design(len(differences), min(first.shape[1], second.shape[1]))
        freedom = inf
        low, high = same_difference(float(differences.mean()), len(differences), level)
    return Difference(
        float(differences.mean()),
        low,
        high,
        p_value,
        len(differences),
        smallest_difference(error, freedom, level=level),
        1,
        error,
        freedom,
    )


def unseen(problems: int, level: float) -> float:
    """The largest share of problems unlike any of N drawn, by the bound of `interval`."""
    return 1 - ((1 - level) / 2) ** (1 / problems)


def same_difference(value: float, problems: int, level: float) -> Interval:
    """Where a mean difference lies if N problems all have the same one: that is no certainty.

        value - share * (1 + value)  to  value + share * (1 - value),  share by `unseen`

    Problems unlike the N may differ by anything from -1 to 1.
    """
    share = unseen(problems, level)
    return Interval(value - share * (1 + value), value + share * (1 - value))


def _bootstrap(scores: NDArray, level: float, resamples: int, seed: int) -> Interval:
    problems = len(scores)
    if problems < 2:
        raise ValueError(
            f"an interval clustered on problems needs at least 2 of them, got {problems}\n\n"
            "hint: evaluate on more problems"
        )
    if not 0 < level < 1:
        raise ValueError(f"level is {level}, not between 0 and 1\n\nhint: 0.95 is usual")
    if resamples < 1:
        raise ValueError(f"resamples is {resamples}\n\nhint: {RESAMPLES} is usual")
    random = np.random.default_rng(seed)
    means = np.concatenate(
        [
            scores[random.integers(problems, size=(rows, problems))].mean(axis=1)
            for rows in _chunks(resamples, problems)
        ]
    )
    mean = scores.mean()
    tails = np.quantile(means - mean, [(1 - level) / 2, (1 + level) / 2])
    low, high = mean + tails * np.sqrt(problems / (problems - 1))
    return Interval(float(low), float(high))


def sign_flip_p_value(differences: NDArray, resamples: int, seed: int) -> float:
    """Chance of a sum at least as far from zero if each difference had either sign, in (0, 1].

    Args:
        differences: [N], one for each problem.
        resamples: Random flips, where all 2^N are more.
        seed: Seed of them.

    Source:
        See `paired_difference`.
    """
    observed = abs(differences.sum())
    # Flips that equal the observed sum must count as such, whatever the order of summation.
    threshold = observed - 1e-9 * (1 + np.abs(differences).sum())
    moved = differences[differences != 0]  # A zero is a zero with either sign.
    if 2 ** min(len(moved), 62) <= resamples:
        bits = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs((2 * bits - 1) @ moved) >= threshold).mean())
    random = np.random.default_rng(seed)
    extreme = 0
    for rows in _chunks(resamples, len(moved)):
        signs = 2 * random.integers(2, size=(rows, len(moved)), dtype=np.int8) - 1
        extreme += int((np.abs(signs @ moved) >= threshold).sum())
    return (1 + extreme) / (1 + resamples)


def _chunks(rows: int, width: int) -> list[int]:
    """Row counts that add up to `rows`, each small enough to draw at once."""
    most = max(1, _DRAWS_AT_ONCE // max(width, 1))
    return [min(most, rows - start) for start in range(0, rows, most)]


def _by_problem(scores: ArrayLike) -> NDArray[np.float64]:
    array = np.asarray(scores, dtype=float)
    if array.ndim not in (1, 2):
        raise ValueError(
            f"scores must be [problems] or [problems, samples], got shape {array.shape}\n\n"
            "hint: give every problem one row"
        )
    if np.isnan(array).any():
        raise ValueError(
            f"{int(np.isnan(array).sum())} of {array.size} scores are NaN\n\n"
            "hint: leave out or regrade what was not graded, and say so"
        )
    return array if array.ndim == 1 else array.mean(axis=1)
