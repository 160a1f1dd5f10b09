"""One number for a matrix of graded samples: N problems, K samples each."""

from collections import Counter
from collections.abc import Hashable, Sequence
from math import ceil
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.special import gammaln

from trainer.metrics.graded import graded_matrix, zeros_and_ones


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
    return float(graded_matrix(correct).mean())


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
    graded = graded_matrix(correct)
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


def maj_at_k(answers: Sequence[Sequence[Hashable | None]], correct: ArrayLike) -> float:
    """Share of problems whose most frequent answer is correct: majority vote over all K samples.

    Correct answers count as one, however they are written; wrong ones are told apart by their
    text. A sample without an answer does not vote; where nobody votes the problem is wrong. Of
    answers with equally many votes one is drawn, so each counts its share.

    Args:
        answers: [N][K] the answers found; None where there is none.
        correct: [N, K] bool or {0, 1}.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: The two differ in shape.

    Source:
        Wang et al. 2023, "Self-Consistency Improves Chain of Thought Reasoning", arXiv:2203.11171,
        table 1 (unweighted sum). We break ties by expectation, not by order.

    >>> maj_at_k([["7", "7.0", "3"], ["1", "2", None]], [[1, 1, 0], [1, 0, 0]])
    0.75
    """
    graded = graded_matrix(correct)
    if graded.shape != (len(answers), len(answers[0])):
        raise ValueError(
            f"answers are {len(answers)} by {len(answers[0])}, correctness {graded.shape}\n\n"
            "hint: pass one answer for every graded response"
        )
    right = []
    for row, marks in zip(answers, graded.astype(bool), strict=True):
        votes = Counter(
            ("right",) if mark else ("wrong", answer)
            for answer, mark in zip(row, marks, strict=True)
            if mark or answer is not None
        )
        most = max(votes.values(), default=0)
        first = [answer for answer, count in votes.items() if count == most]
        right.append((("right",) in first) / len(first) if first else 0.0)
    return float(np.mean(right))


def g_pass_at_k(correct: ArrayLike, k: int, tau: float) -> float:
    """Unbiased estimate of the chance that at least a share `tau` of k samples is correct.

        G-Pass@k_tau = mean_n sum_{j = ceil(tau k)}^{k} C(c_n, j) C(K - c_n, k - j) / C(K, k)

    It rewards stability: with tau = 1 all k must be correct. Where tau k <= 1 it is pass@k.

    Args:
        correct: [N, K] bool or {0, 1}.
        k: Number of tries, 1 <= k <= K.
        tau: Share of them that must be correct, in (0, 1].

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: k or tau is out of bounds.

    Source:
        Liu et al. 2024, "Are Your LLMs Capable of Stable Reasoning?", arXiv:2412.13147, eq. 3.
    """
    graded = graded_matrix(correct)
    samples = graded.shape[1]
    if not 1 <= k <= samples or not 0 < tau <= 1:
        raise ValueError(
            f"G-Pass@{k} with tau {tau} means nothing for {samples} samples\n\n"
            f"hint: k from 1 to {samples}, tau above 0 and at most 1"
        )
    # 0.3 * 10 is 3.0000000000000004 in binary, and would ask for four.
    needed = ceil(tau * k - 1e-9)
    # Of scipy.special: scipy.stats has this distribution, and takes half a second to import.
    counts, problems = np.unique(graded.sum(axis=1), return_counts=True)
    right, c = np.arange(needed, k + 1), counts[:, None]
    ways = _log_choose(c, right) + _log_choose(samples - c, k - right)
    chances = np.exp(ways - _log_choose(samples, k)).sum(axis=1)
    return float(np.average(np.minimum(chances, 1.0), weights=problems))


def _log_choose(n: ArrayLike, r: ArrayLike) -> NDArray[np.float64]:
    """Natural logarithm of the number of ways to choose r of n; -inf where there are none."""
    n, r = np.broadcast_arrays(n, r)
    some = (r >= 0) & (r <= n)
    n, r = np.where(some, n, 0), np.where(some, r, 0)
    return np.where(some, gammaln(n + 1) - gammaln(r + 1) - gammaln(n - r + 1), -np.inf)


def m_g_pass_at_k(correct: ArrayLike, k: int) -> float:
    """Mean of G-Pass@k over thresholds from one half to one: how good, and how stably so.

        mG-Pass@k = 2/k sum_{i = ceil(k/2) + 1}^{k} G-Pass@k_{i/k}

    Source:
        Liu et al. 2024, arXiv:2412.13147, equation 5. With k = 1 that sum is empty: k is from 2.
    """
    if k < 2:
        raise ValueError(f"mG-Pass@{k} is an empty sum\n\nhint: k from 2")
    graded = graded_matrix(correct)
    steps = range(ceil(k / 2) + 1, k + 1)
    return 2 / k * sum(g_pass_at_k(graded, k, step / k) for step in steps)


def spread_over_samples(correct: ArrayLike) -> float:
    """Standard deviation of the benchmark's accuracy from one sample of each problem to the next.

        sd_k ( mean_n correct[n, k] ),  K - 1 in the denominator; NaN for K = 1

    What papers print behind a "±" when they evaluate with several seeds and one sample each.
    It knows nothing of other problems: see `interval`.
    """
    graded = graded_matrix(correct)
    return float(graded.mean(axis=0).std(ddof=1)) if graded.shape[1] > 1 else float("nan")


def truncation_share(truncated: ArrayLike) -> float:
    """Share of responses that were cut off by the context length.

    Args:
        truncated: [N, K] or [B] bool or {0, 1}.

    Returns:
        A fraction in [0, 1].

    Raises:
        ValueError: There are no responses, or anything but 0 and 1.
    """
    return float(zeros_and_ones(truncated, "truncated").mean())


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
    right = zeros_and_ones(correct, "correct").astype(bool)
    if length.shape != right.shape:
        raise ValueError(
            f"lengths have shape {length.shape}, correctness {right.shape}\n\n"
            "hint: pass one length for every graded response"
        )
    return Lengths(_mean(length), _mean(length[right]), _mean(length[~right]))


def _mean(values: NDArray) -> float:
    return float(values.mean()) if values.size else float("nan")
