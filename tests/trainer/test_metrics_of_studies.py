"""Votes, stability, power, several comparisons, several seeds, and the cost of a target."""

from itertools import combinations
from math import inf, isnan

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from scipy.stats import false_discovery_control, hypergeom, nct, ttest_ind
from scipy.stats import t as student

from trainer.metrics import (
    Cost,
    SeedSpread,
    avg_at_k,
    cost_to_target,
    g_pass_at_k,
    holm,
    m_g_pass_at_k,
    maj_at_k,
    over_seeds,
    paired_difference,
    paired_over_seeds,
    pass_at_k,
    score_at,
    smallest_difference,
    smallest_difference_of_design,
    speed_up,
    spread_over_samples,
    spread_over_seeds,
)

graded = st.tuples(st.integers(1, 4), st.integers(2, 6)).flatmap(
    lambda shape: arrays(np.int8, shape, elements=st.integers(0, 1))
)


@pytest.mark.parametrize(
    ("answers", "correct", "share"),
    [
        (["7", "7", "3"], [1, 1, 0], 1.0),
        (["3", "3", "7"], [0, 0, 1], 0.0),
        (["1/2", "0.5", "3", "3"], [1, 1, 0, 0], 0.5),  # a tie; right answers vote as one
        (["7", None, None], [1, 0, 0], 1.0),  # no answer, no vote
        ([None, None], [0, 0], 0.0),
    ],
)
def test_the_majority_votes(answers, correct, share):
    assert maj_at_k([answers], [correct]) == share


@given(graded, st.data())
def test_g_pass_is_the_share_of_subsets_with_enough_right(correct, data):
    k = data.draw(st.integers(1, correct.shape[1]))
    needed = data.draw(st.integers(1, k))
    subsets = [
        [row[list(chosen)].sum() >= needed for chosen in combinations(range(len(row)), k)]
        for row in correct
    ]
    assert g_pass_at_k(correct, k, needed / k) == pytest.approx(np.mean(subsets))


@given(graded)
def test_g_pass_with_one_right_is_pass_and_the_mean_is_between(correct):
    k = correct.shape[1]
    assert g_pass_at_k(correct, k, 1 / k) == pytest.approx(pass_at_k(correct, k))
    assert 0 <= m_g_pass_at_k(correct, k) <= pass_at_k(correct, k) + 1e-9


@pytest.mark.parametrize("samples", [16, 1024])
def test_g_pass_of_many_samples_is_the_hypergeometric_tail(samples):
    skill = np.linspace(0, 1, 40)[:, None]
    correct = np.random.default_rng(0).random((40, samples)) < skill
    for k, needed in ((samples, samples // 2), (samples // 2, samples // 4), (8, 8)):
        tail = hypergeom.sf(needed - 1, samples, correct.sum(axis=1), k).mean()
        assert g_pass_at_k(correct, k, needed / k) == pytest.approx(tail, rel=1e-9)


def test_mg_pass_of_four_tries_is_the_formula_by_hand():
    """K = k = 4 with 3 right: of i/4 for i = 3, 4 only the first is met, and 2/4 of 1 is 0.5."""
    assert m_g_pass_at_k([[1, 1, 1, 0]], 4) == pytest.approx(0.5)


def test_spread_over_samples_is_that_of_whole_benchmarks():
    assert spread_over_samples([[1, 0], [1, 0]]) == pytest.approx(np.std([1, 0], ddof=1))
    assert isnan(spread_over_samples([[1], [0]]))


@pytest.mark.parametrize(
    ("problems", "samples", "expected"),
    [(30, 16, 6.0), (30, 64, 3.0), (500, 16, 1.5), (675, 16, 1.3), (272, 16, 2.0), (40, 16, 5.2)],
    ids=["aime", "aime at 64", "math500", "olympiad", "minerva", "amc of 40"],
)
def test_the_smallest_difference_seen_is_that_of_the_literature_study(problems, samples, expected):
    """Figures in points; AMC's 5.2 is of AReaL's 40 problems, the 83 of FastCuRL see 3.6."""
    found = 100 * smallest_difference_of_design(problems, samples)
    assert found == pytest.approx(expected, rel=0.1)


def test_one_evaluation_of_aime_has_a_standard_error_of_seven_points():
    """30 problems of a model that solves 43 %, chances as unequal as p(1 - p) = 0.11 makes them."""
    random = np.random.default_rng(0)
    scores = [random.binomial(16, _chances(30, random)).mean() / 16 for _ in range(4000)]
    assert 100 * np.std(scores) == pytest.approx(6.8, rel=0.1)


def test_the_power_that_is_promised_is_the_power_there_is():
    """A shift of the smallest difference, found in 80 % of 600 pairs of evaluations of AIME."""
    random, shift = np.random.default_rng(1), smallest_difference_of_design(30, 16)
    found = 0
    for _ in range(600):
        middle = 0.126  # p(1 - p) is 0.11 there
        before = random.random((30, 16)) < middle - shift / 2
        after = random.random((30, 16)) < middle + shift / 2
        found += paired_difference(before, after, resamples=400).p_value < 0.05
    assert 0.74 < found / 600 < 0.86


@pytest.mark.parametrize("freedom", [2, 4, 18, 499])
@pytest.mark.parametrize("comparisons", [1, 8])
def test_the_power_is_that_of_the_non_central_distribution(freedom, comparisons):
    """Where few seeds and several comparisons leave wide tails, t quantiles alone promise more."""
    level = 1 - 0.05 / comparisons
    found = smallest_difference(1.0, freedom, level=level)
    critical = student.ppf((1 + level) / 2, freedom)
    assert nct.sf(critical, freedom, found) == pytest.approx(0.8, abs=0.002)


@pytest.mark.parametrize("seeds", [2, 3])
def test_an_arm_does_not_differ_from_itself(seeds):
    graded = np.random.default_rng(7).integers(0, 2, (seeds, 12, 4))
    found = paired_over_seeds(graded, graded)
    assert found.mean == 0 and found.p_value == 1 and found.detectable > 0


def _chances(problems: int, random) -> np.ndarray:
    """A model's chances: mean 0.431, mean p(1 - p) 0.11."""
    concentration = 0.815
    return random.beta(0.431 * concentration, 0.569 * concentration, problems)


def test_holm_is_the_textbook_example_and_leaves_out_what_is_not_there():
    adjusted = holm([0.01, float("nan"), 0.04, 0.03, 0.005])
    assert adjusted[[0, 2, 3, 4]] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert isnan(adjusted[1])


@given(st.lists(st.floats(0, 1), min_size=1, max_size=8))
def test_holm_raises_p_values_at_most_to_bonferroni_and_keeps_their_order(values):
    adjusted = holm(values)
    assert (adjusted >= np.array(values) - 1e-12).all()
    assert (adjusted <= np.minimum(1, len(values) * np.array(values)) + 1e-12).all()
    assert (np.diff(adjusted[np.argsort(values, kind="stable")]) >= -1e-12).all()
    assert (adjusted >= false_discovery_control(values) - 1e-12).all()  # Holm is stricter


def test_one_seed_is_the_paired_difference_over_problems():
    random = np.random.default_rng(2)
    before, after = random.integers(0, 2, (2, 20, 4))
    assert paired_over_seeds([before], [after]) == paired_difference(before, after)


def test_where_problems_do_not_matter_seeds_are_a_t_test_of_two_groups():
    """Every problem has the same score in a seed: what is left is a t-test of twice four seeds."""
    plain, better = [1, 0, 1, 1], [1, 2, 3, 2]
    before, after = (
        [np.tile([1] * right + [0] * (4 - right), (9, 1)) for right in arm]
        for arm in (plain, better)
    )
    found = paired_over_seeds(before, after)
    expected = ttest_ind([right / 4 for right in better], [right / 4 for right in plain])
    assert found.mean == pytest.approx(0.3125) and found.seeds == 4
    assert found.p_value == pytest.approx(expected.pvalue)
    low, high = expected.confidence_interval()
    assert (found.low, found.high) == pytest.approx((low, high))
    assert found.detectable == pytest.approx(smallest_difference(found.error, found.freedom))


def test_how_seeds_vary_is_taken_from_all_arms_however_many_seeds_they_have():
    random = np.random.default_rng(0)
    arms = [random.integers(0, 2, (seeds, 9, 4)) for seeds in (3, 2, 1)]
    means = [arm.mean(axis=(1, 2)) for arm in arms]
    found = spread_over_seeds(arms)
    assert found.freedom == 3
    squares = 2 * means[0].var(ddof=1) + 1 * means[1].var(ddof=1)
    assert found.variance == pytest.approx(squares / 3)
    assert spread_over_seeds([arms[2]]) == (0.0, 0)


def test_an_agreement_of_seeds_by_luck_is_no_evidence():
    """Three seeds agree within both arms, while those of the other arms lie points apart."""
    random = np.random.default_rng(5)
    chances = random.random(400)[:, None]
    before, after = ([random.random((400, 16)) < chances * by for _ in "123"] for by in (1, 0.97))
    wide = SeedSpread(0.02**2, 18)
    assert paired_over_seeds(before, after, spread=wide).p_value > 0.2
    assert paired_over_seeds(before, after).p_value < 0.2
    # An arm that is less steady than the others is not compared with their error.
    shaken = [random.random((400, 16)) < chances * by for by in (1, 0.8, 0.6)]
    narrow = SeedSpread(1e-8, 18)
    error = paired_over_seeds(before, shaken, spread=narrow).error
    assert error == paired_over_seeds(before, shaken).error > 0.05


@pytest.mark.parametrize("arms", [2, 5])
def test_tests_over_three_seeds_see_little_that_is_not_there(arms):
    """800 studies whose arms do not differ; more in `benchmarks/interval_coverage.py`.

    Of 800, 40 may be seen at 5 %, 8 at 1 % and 1 at 0.1 %.
    """
    random, smallest = np.random.default_rng(6), []
    for _ in range(800):
        chances = _chances(200, random)
        trained = [
            [
                random.random((200, 4)) < (chances + luck * (1 - chances))[:, None]
                for luck in random.normal(0, 0.04, 3)
            ]
            for _ in range(arms)
        ]
        spread = spread_over_seeds(trained)
        values = [paired_over_seeds(trained[0], arm, spread=spread).p_value for arm in trained[1:]]
        smallest.append(holm(values).min())
    seen = [int((np.array(smallest) < alpha).sum()) for alpha in (0.05, 0.01, 0.001)]
    assert seen[0] <= 52 and seen[1] <= 14 and seen[2] <= 3


@pytest.mark.parametrize("seeds", [1, 3])
@pytest.mark.parametrize("gain", [0, 1, 2, 3])
def test_the_same_difference_everywhere_is_no_certainty(seeds, gain):
    """Thirds, so that rounding leaves a spread of 1e-17 where there is none."""
    before = [np.zeros((6, 3), int)] * seeds
    after = [np.tile([1] * gain + [0] * (3 - gain), (6, 1))] * seeds
    found = paired_over_seeds(before, after)
    assert found.p_value == (2 / 64 if gain else 1.0)  # six problems, each could go either way
    assert found.detectable == smallest_difference_of_design(6, 3, seeds=seeds)
    share = 1 - 0.025 ** (1 / 6)
    assert found.low == pytest.approx(gain / 3 - share * (1 + gain / 3))
    assert found.high == pytest.approx(gain / 3 + share * (1 - gain / 3))


def test_no_p_value_over_seeds_is_zero():
    before, after = np.zeros((2, 500, 4), int), np.ones((2, 500, 4), int)
    after[0, 0, 0] = 0
    steady = SeedSpread(0.0, 400)
    assert 0 < paired_over_seeds(before, after, spread=steady).p_value < 1e-300


@settings(max_examples=20)
@given(st.integers(0, 10_000))
def test_turning_a_comparison_round_changes_only_its_sign(seed):
    random = np.random.default_rng(seed)
    before, after = random.integers(0, 2, (2, 3, 12, 4))
    there, back = paired_over_seeds(before, after), paired_over_seeds(after, before)
    assert (back.mean, back.low, back.high) == pytest.approx((-there.mean, -there.high, -there.low))
    assert back.p_value == pytest.approx(there.p_value)


def test_seeds_widen_an_interval_that_problems_alone_would_give():
    random = np.random.default_rng(3)
    lucky = [random.random((200, 4)) < chance for chance in (0.3, 0.5, 0.7)]
    estimate = over_seeds(lucky)
    assert estimate.by_seed == pytest.approx([avg_at_k(each) for each in lucky])
    assert estimate.high - estimate.low > 0.5


@pytest.mark.parametrize("problems", [30, 500])
def test_intervals_over_three_seeds_cover_a_known_truth(problems):
    """600 studies, problems and seeds drawn anew; more in `benchmarks/interval_coverage.py`."""
    random, covered = np.random.default_rng(4), 0
    for _ in range(600):
        chances = _chances(problems, random)
        luck = random.normal(0, 0.02, 3)
        effects = random.normal(0.02, 0.05, problems)
        before = [random.binomial(16, chances) / 16 for _ in range(3)]
        after = [np.clip(random.binomial(16, chances) / 16 + effects + one, -1, 2) for one in luck]
        low, high = _interval_of(np.array(after) - np.array(before))
        covered += low <= 0.02 <= high
    assert 0.92 < covered / 600 < 0.985


def _interval_of(differences: np.ndarray) -> tuple[float, float]:
    from trainer.metrics.seeds import _crossed_error

    error, freedom = _crossed_error(differences)
    reach = error * student.ppf(0.975, freedom)
    return differences.mean() - reach, differences.mean() + reach


def test_a_score_at_a_budget_lies_on_the_line_between_evaluations():
    assert score_at([0, 10, 30], [0.2, 0.4, 0.8], 20) == pytest.approx(0.6)
    assert isnan(score_at([0, 10], [0.2, 0.4], 11))


def test_the_first_crossing_counts_and_not_the_last():
    assert cost_to_target([0, 10, 20, 30], [0.2, 0.6, 0.3, 0.9], 0.5) == Cost(7.5, True)
    assert cost_to_target([0, 10], [0.6, 0.7], 0.5) == Cost(0.0, True)


def test_a_speed_up_is_a_ratio_with_an_interval_over_seeds():
    found = speed_up([Cost(c, True) for c in (90, 100, 110)], [Cost(c, True) for c in (45, 50, 55)])
    assert found.ratio == pytest.approx(2.0) and found.bound == ""
    assert 1 < found.low < 2 < found.high < 4
    alone = speed_up([Cost(100, True)], [Cost(50, True)])
    assert alone.ratio == pytest.approx(2) and isnan(alone.low)


@pytest.mark.parametrize(
    ("before", "after", "bound"),
    [((True, False), (True, True), ">"), ((True, True), (False, True), "<")],
)
def test_a_run_that_never_got_there_makes_the_speed_up_a_bound(before, after, bound):
    costs = [[Cost(100.0 + 5 * i, ok) for i, ok in enumerate(side)] for side in (before, after)]
    found = speed_up(*costs)
    assert found.bound == bound
    assert found.high == inf if bound == ">" else found.low == 0.0


def test_where_neither_always_got_there_nothing_is_said():
    found = speed_up([Cost(10, False)], [Cost(5, False)])
    assert found.bound == "?" and isnan(found.ratio)


@pytest.mark.parametrize(
    ("call", "said"),
    [
        (lambda: paired_over_seeds([[[1], [0]]], []), "the same seeds, got 1 and 0"),
        (lambda: over_seeds([[[1], [0]], [[1]]]), "seeds have 2, 1 problems"),
        (lambda: cost_to_target([0, 1], [0.1, float("nan")], 0.5), "none may be NaN"),
        (lambda: speed_up([], [Cost(1, True)]), "seeds on both sides"),
        (lambda: maj_at_k([["7"]], [[1, 0]]), "answers are 1 by 1"),
        (lambda: g_pass_at_k([[1]], 2, 0.5), "means nothing for 1 samples"),
    ],
)
def test_what_cannot_be_computed_is_refused_with_a_hint(call, said):
    with pytest.raises(ValueError, match=rf"(?s){said}.*\n\nhint: "):
        call()
