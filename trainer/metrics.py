"""How good is a policy? Scores from graded samples, without models or files.

Vocabulary (papers mix these up; we do not):
    avg@k   mean correctness over k samples per problem. Many papers print it as "pass@1".
    pass@k  chance that at least one of k samples is correct.

The problems of a benchmark are a sample too, and the K samples of one problem are alike. So
every interval here is clustered on problems: whole rows are drawn, never single samples.

Shapes: N problems, K samples each, R resamples.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

RESAMPLES = 10_000
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
    """

    mean: float
    low: float
    high: float
    p_value: float
    problems: int

    @property
    def resolved(self) -> bool:
        """Whether the interval leaves out zero."""
        return self.low > 0 or self.high < 0


class Lengths(NamedTuple):
    """Mean response length in tokens; NaN where there is no such response."""

    all: float
    correct: float
    wrong: float


def avg_at_k(correct: ArrayLike) -> float:
    """Mean correctness over all samples of all problems.

    Args:
        correct: [N, K] bool or {0, 1}. N problems, K samples each.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: `correct` is empty, ragged, or holds anything but 0 and 1.

    >>> avg_at_k([[1, 0], [1, 1]])
    0.75
    """
    return float(_graded(correct).mean())


def pass_at_k_by_problem(correct: ArrayLike, k: int) -> NDArray[np.float64]:
    """Unbiased estimate, for each problem, of the chance that one of `k` samples is correct.

        pass@k_n = 1 - C(K - c_n, k) / C(K, k),   c_n correct out of K

    Args:
        correct: [N, K] bool or {0, 1}. N problems, K samples each.
        k: Number of tries, 1 <= k <= K.

    Returns:
        [N] fractions in [0, 1].

    Raises:
        ValueError: k is below 1, or larger than the number of samples drawn.

    Source:
        Chen et al. 2021, "Evaluating Large Language Models Trained on Code",
        arXiv:2107.03374, equation 1.
    """
    graded = _graded(correct)
    samples = graded.shape[1]
    if k < 1:
        raise ValueError(f"pass@{k} means nothing\n\nhint: set k to 1 or more")
    if k > samples:
        raise ValueError(
            f"pass@{k} needs at least {k} samples per problem, got {samples}\n\n"
            f"hint: set `evaluation.samples={k}`"
        )
    wrong = samples - graded.sum(axis=1)
    tries = np.arange(k)
    # C(wrong, k) / C(K, k) as a product of k fractions: no factorials, no overflow.
    return 1 - (np.maximum(wrong[:, None] - tries, 0) / (samples - tries)).prod(axis=1)


def pass_at_k(correct: ArrayLike, k: int) -> float:
    """Mean over problems of `pass_at_k_by_problem`. With k = 1 it equals `avg_at_k`.

    One correct of 16 gives pass@16 = 1; drawing 16 of them with replacement would give 0.644.

    >>> pass_at_k([[1] + [0] * 15], 16)
    1.0
    """
    return float(pass_at_k_by_problem(correct, k).mean())


def truncation_share(truncated: ArrayLike) -> float:
    """Share of responses that were cut off by the context length.

    Args:
        truncated: [N, K] or [B] bool or {0, 1}.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: There are no responses, or anything but 0 and 1.
    """
    return float(_zeros_and_ones(truncated, "truncated").mean())


def lengths_by_correctness(tokens: ArrayLike, correct: ArrayLike) -> Lengths:
    """Mean response length: of all responses, of correct ones, and of wrong ones.

    Args:
        tokens: [N, K] or [B] response lengths, in tokens.
        correct: bool or {0, 1}, as many.

    Returns:
        `Lengths`, in tokens; NaN for a kind of response that does not occur.

    Raises:
        ValueError: The two differ in shape, or are empty.

    >>> lengths_by_correctness([10, 20, 60], [1, 1, 0])
    Lengths(all=30.0, correct=15.0, wrong=60.0)
    """
    length = np.asarray(tokens, dtype=float)
    right = _zeros_and_ones(correct, "correct").astype(bool)
    if length.shape != right.shape:
        raise ValueError(
            f"lengths have shape {length.shape}, correctness {right.shape}\n\n"
            "hint: pass one length for every graded response"
        )
    return Lengths(_mean(length), _mean(length[right]), _mean(length[~right]))


def interval(
    scores: ArrayLike, *, level: float = 0.95, resamples: int = RESAMPLES, seed: int = 0
) -> Interval:
    """Bootstrap interval of a mean score, clustered on problems.

    N problems are drawn with replacement R times, each with all its samples, and the interval
    runs between the (1 - level) / 2 and (1 + level) / 2 quantiles of the R means. Their spread
    about the mean is widened by sqrt(N / (N - 1)): a bootstrap mean varies with the variance
    divided by N where N - 1 is right, which matters at AIME's 30 problems.

    Where all problems score the same, the interval has no width: resampling cannot show what
    the benchmark did not contain.

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
        Hesterberg 2015, "What Teachers Should Know about the Bootstrap", section 3.2.
    """
    return _bootstrap(_by_problem(scores), level, resamples, seed)


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
    they are fewer than `resamples`, else `resamples` random ones.

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
    first, second = _graded(before), _graded(after)
    if len(first) != len(second):
        raise ValueError(
            f"a paired comparison needs the same problems, got {len(first)} and {len(second)}\n\n"
            "hint: evaluate both checkpoints on the same benchmark"
        )
    differences = second.mean(axis=1) - first.mean(axis=1)
    low, high = _bootstrap(differences, level, resamples, seed)
    p_value = _sign_flip_p_value(differences, resamples, seed)
    return Difference(float(differences.mean()), low, high, p_value, len(differences))


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


def _sign_flip_p_value(differences: NDArray, resamples: int, seed: int) -> float:
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


def _graded(correct: ArrayLike) -> NDArray[np.float64]:
    graded = _zeros_and_ones(correct, "correct")
    if graded.ndim != 2:
        raise ValueError(
            f"correctness must be [problems, samples], got shape {graded.shape}\n\n"
            "hint: give every problem a row with the same number of samples"
        )
    return graded


def _zeros_and_ones(values: ArrayLike, what: str) -> NDArray[np.float64]:
    try:
        array = np.asarray(values, dtype=float)
    except ValueError as ragged:
        raise ValueError(
            f"`{what}` has rows of different lengths or values that are no numbers\n\n"
            "hint: check that every problem got all its samples"
        ) from ragged
    if array.size == 0:
        raise ValueError(f"`{what}` is empty\n\nhint: check that the evaluation wrote responses")
    if not np.isin(array, (0, 1)).all():
        strange = array[~np.isin(array, (0, 1))].flat[0]
        raise ValueError(
            f"`{what}` must hold 0 and 1 only, found {strange}\n\n"
            "hint: pass correctness, which is not the reward"
        )
    return array


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


def _mean(values: NDArray) -> float:
    return float(values.mean()) if values.size else float("nan")
