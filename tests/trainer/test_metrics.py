"""Scores against closed formulas and brute force, and intervals against a known truth."""

from itertools import combinations, pairwise
from math import comb, isnan

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import beta

from trainer.metrics import (
    avg_at_k,
    interval,
    lengths_by_correctness,
    over_seeds,
    paired_difference,
    pass_at_k,
    pass_at_k_by_problem,
    truncation_share,
)

graded = st.tuples(st.integers(2, 6), st.integers(1, 6)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(0, 1))
)


@pytest.mark.parametrize("correct", range(6))
@pytest.mark.parametrize("k", range(1, 6))
def test_pass_at_k_is_the_published_formula(correct, k):
    """Chen et al. 2021, equation 1, on one problem with five samples."""
    samples = [[1] * correct + [0] * (5 - correct)]
    assert pass_at_k(samples, k) == pytest.approx(1 - comb(5 - correct, k) / comb(5, k))


def test_one_correct_of_16_passes_at_16():
    """Drawing with replacement would say 1 - (15/16)^16 = 0.644."""
    assert pass_at_k([[1] + [0] * 15], 16) == 1.0


@given(graded, st.data())
def test_pass_at_k_is_the_share_of_subsets_with_a_success(correct, data):
    k = data.draw(st.integers(1, correct.shape[1]))
    brute = [np.mean([any(subset) for subset in combinations(row, k)]) for row in correct]
    np.testing.assert_allclose(pass_at_k_by_problem(correct, k), brute, atol=1e-12)


@given(graded)
def test_pass_at_1_is_avg_at_k_and_more_tries_never_hurt(correct):
    scores = [pass_at_k(correct, k) for k in range(1, correct.shape[1] + 1)]
    assert scores[0] == pytest.approx(avg_at_k(correct))
    assert all(later >= earlier - 1e-12 for earlier, later in pairwise(scores))
    assert scores[-1] == pytest.approx(correct.any(axis=1).mean())


def test_avg_at_k_takes_booleans_and_numbers_alike():
    assert avg_at_k([[True, False], [True, True]]) == avg_at_k([[1, 0], [1, 1]]) == 0.75


def test_truncation_share_counts_responses():
    assert truncation_share([[1, 0, 0], [1, 0, 0]]) == pytest.approx(1 / 3)


def test_lengths_are_split_by_correctness():
    lengths = lengths_by_correctness([[10, 20], [60, 30]], [[1, 1], [0, 0]])
    assert lengths == (30, 15, 45)


def test_a_kind_of_response_that_does_not_occur_has_no_length():
    lengths = lengths_by_correctness([10, 20], [0, 0])
    assert isnan(lengths.correct) and lengths.wrong == 15


def test_the_interval_of_two_problems_is_known():
    """Means of two draws from {0, 1} are 0, 1/2, 1 with chances 1/4, 1/2, 1/4.

    So the 5 % and 95 % quantiles are 0 and 1, widened about 1/2 by sqrt(2).
    """
    low, high = interval([0.0, 1.0], level=0.9)
    assert (low, high) == pytest.approx((0.5 - 0.5**0.5, 0.5 + 0.5**0.5))


def test_the_interval_of_many_problems_is_the_normal_one():
    scores = np.random.default_rng(3).random(2_000)
    half = 1.96 * scores.std(ddof=1) / 2_000**0.5
    low, high = interval(scores)
    assert (low, high) == pytest.approx((scores.mean() - half, scores.mean() + half), abs=5e-4)


@pytest.mark.parametrize("problems", [2, 30])
@pytest.mark.parametrize("level", [0.9, 0.95])
def test_a_score_at_an_edge_has_the_exact_interval_of_problems(problems, level):
    """Clopper and Pearson's, whose other end is a quantile of the beta distribution."""
    wrong = np.zeros((problems, 4))
    expected = beta.ppf((1 + level) / 2, 1, problems)
    assert interval(wrong, level=level) == (0, pytest.approx(expected))
    assert interval(1 - wrong, level=level) == (pytest.approx(1 - expected), 1)
    for seeds in (1, 3):
        estimate = over_seeds([wrong] * seeds, level=level)
        assert (estimate.low, estimate.high) == (0, pytest.approx(expected))


@pytest.mark.parametrize("problems", [30, 500])
def test_intervals_cover_the_truth_about_95_times_in_100(problems):
    """Problems of uniform difficulty, 8 samples each, with a true score of 1/2: 1,000 benchmarks.

    With a true coverage of 95 %, the count has a standard deviation of 7; percentile intervals
    of 30 problems are known to cover slightly less.
    """
    random = np.random.default_rng(0)
    covered = both_covered = 0
    for seed in range(1_000):
        chance = random.random((problems, 1))
        before = random.random((problems, 8)) < chance
        after = random.random((problems, 8)) < 0.9 * chance  # truly 0.05 lower
        low, high = interval(before, resamples=600, seed=seed)
        covered += low <= 0.5 <= high
        difference = paired_difference(before, after, resamples=600, seed=seed)
        both_covered += difference.low <= -0.05 <= difference.high
    assert 925 <= covered <= 970
    assert 925 <= both_covered <= 970


def test_samples_of_one_problem_count_as_one_witness():
    """Sixteen times the samples, all the same, tell nothing new."""
    once = np.array([[0], [1], [0], [1], [1]])
    assert interval(np.repeat(once, 16, axis=1)) == interval(once)


@given(graded, st.integers(0, 100))
def test_the_same_seed_gives_the_same_interval(correct, seed):
    assert interval(correct, resamples=200, seed=seed) == interval(
        correct, resamples=200, seed=seed
    )


@given(graded)
def test_the_interval_holds_the_mean(correct):
    low, high = interval(correct)
    assert low - 1e-9 <= avg_at_k(correct) <= high + 1e-9


def test_problems_that_score_the_same_between_the_edges_give_no_width():
    assert interval([[1, 0], [0, 1]]) == (0.5, 0.5)


@given(graded)
def test_nothing_changed_has_difference_zero_and_p_value_one(correct):
    difference = paired_difference(correct, correct, resamples=100)
    assert (difference.mean, difference.p_value) == (0, 1)
    assert not difference.resolved
    # As far as the score of as many wrong problems may lie above 0: nothing seen is not nothing.
    high = interval(np.zeros_like(correct)).high
    assert (difference.low, difference.high) == pytest.approx((-high, high))


@given(graded, st.data())
def test_the_difference_changes_sign_with_the_order_and_the_p_value_does_not(before, data):
    after = data.draw(arrays(np.int8, before.shape, elements=st.integers(0, 1)))
    there, back = (
        paired_difference(first, second, resamples=200)
        for first, second in ((before, after), (after, before))
    )
    assert there.mean == pytest.approx(avg_at_k(after) - avg_at_k(before))
    assert back.mean == pytest.approx(-there.mean)
    assert back.p_value == there.p_value
    assert 0 < there.p_value <= 1


def test_six_problems_all_better_have_the_exact_p_value():
    """Of 2^6 sign patterns only two are as far from zero as the one seen."""
    difference = paired_difference([[0]] * 6, [[1]] * 6)
    assert difference.p_value == 2 / 64
    assert (difference.mean, difference.high) == (1, 1) and difference.resolved
    assert difference.low == pytest.approx(1 - 2 * (1 - 0.025 ** (1 / 6)))
    five = paired_difference([[0]] * 5, [[1]] * 5)  # test and interval agree that it is too little
    assert five.p_value == 2 / 32 and not five.resolved


def test_random_flips_agree_with_all_flips():
    """Twelve problems: 4,096 sign patterns, tried all, and 3,000 drawn at random."""
    random = np.random.default_rng(5)
    before, after = random.random((2, 12, 4)) < np.array([0.4, 0.65])[:, None, None]
    exact = paired_difference(before, after, resamples=4_096).p_value
    drawn = paired_difference(before, after, resamples=3_000).p_value
    assert 0.001 < exact < 0.5 and drawn == pytest.approx(exact, abs=0.03)


def test_a_true_null_is_rejected_about_5_times_in_100():
    random = np.random.default_rng(8)
    chance = random.random((400, 40, 1))
    before, after = (random.random((400, 40, 4)) < chance for _ in range(2))
    rejected = [
        paired_difference(*pair, resamples=400, seed=seed).p_value <= 0.05
        for seed, pair in enumerate(zip(before, after, strict=True))
    ]
    assert 0.02 <= np.mean(rejected) <= 0.08


def test_the_number_of_samples_may_differ_between_the_two():
    assert paired_difference([[0, 1]] * 3, [[1]] * 3).mean == 0.5


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: pass_at_k([[1] * 16], 32), r"hint: set `evaluation.samples=32`"),
        (lambda: pass_at_k([[1]], 0), r"hint: set k to 1 or more"),
        (lambda: avg_at_k([[0.5, 1]]), r"found 0.5\n\nhint: .* not the reward"),
        (lambda: avg_at_k([[float("nan"), 1]]), r"found nan"),
        (lambda: avg_at_k([[1, 0], [1]]), r"hint: check that every problem got all its samples"),
        (lambda: avg_at_k([]), r"`correct` is empty"),
        (lambda: avg_at_k([1, 0]), r"must be \[problems, samples\], got shape \(2,\)"),
        (lambda: truncation_share([]), r"`truncated` is empty"),
        (lambda: lengths_by_correctness([1, 2, 3], [1, 0]), r"\(3,\), correctness \(2,\)"),
        (lambda: interval([[1, 0]]), r"at least 2 of them, got 1"),
        (lambda: interval([1.0, float("nan")]), r"1 of 2 scores are NaN"),
        (lambda: interval([0.0, 1.0], level=95), r"level is 95"),
        (lambda: interval([0.0, 1.0], resamples=0), r"resamples is 0"),
        (lambda: interval([[[1.0]]]), r"got shape \(1, 1, 1\)"),
        (lambda: paired_difference([[1], [0]], [[1]]), r"same problems, got 2 and 1"),
    ],
)
def test_what_cannot_be_scored_is_refused_with_a_hint(call, message):
    with pytest.raises(ValueError, match=message) as error:
        call()
    assert "\n\nhint: " in str(error.value)
