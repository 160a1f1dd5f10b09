"""Every estimator: known answers, and laws that hold for any rewards."""

import inspect
from statistics import mean, pvariance, variance

import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from benchmarks.james_stein import errors
from conf.schema.method import ADVANTAGES, LOSSES
from trainer import losses
from trainer.advantages import (
    ESTIMATORS,
    PER_TOKEN,
    batch_return,
    by_prompt,
    dr_grpo,
    grpo,
    james_stein,
    maxrl,
    reinforce_plus_plus,
    returns_to_go,
    rloo,
)

REWARDS = st.sampled_from([-1.0, -0.5, 0.0, 0.1, 1.0, 5.0])
NAMES = sorted(ESTIMATORS)
CORRECTED = {"variant": "corrected"}
# Every estimator with the settings that change its formula.
CASES = [(name, {}) for name in NAMES] + [("james_stein", CORRECTED)]
IDS = [f"{name}{'-corrected' if options else ''}" for name, options in CASES]


@st.composite
def batches(draw, least: int = 2, most: int = 5):
    """Rewards [N] and prompt ids [N] of groups of unequal size, in any order."""
    sizes = draw(st.lists(st.integers(least, most), min_size=1, max_size=5))
    prompts = [f"{p:03d}" for p, size in enumerate(sizes) for _ in range(size)]
    order = draw(st.permutations(range(len(prompts))))
    rewards = draw(st.lists(REWARDS, min_size=len(prompts), max_size=len(prompts)))
    return torch.tensor(rewards, dtype=torch.float64), [prompts[i] for i in order]


@st.composite
def matrices(draw, least_prompts: int = 1, least: int = 2):
    """Rewards [P, G]."""
    p, g = draw(st.integers(least_prompts, 5)), draw(st.integers(least, 5))
    values = draw(st.lists(REWARDS, min_size=p * g, max_size=p * g))
    return torch.tensor(values, dtype=torch.float64).reshape(p, g)


def usable(name: str, rewards: torch.Tensor) -> torch.Tensor:
    return rewards.abs() if name == "maxrl" else rewards


def test_the_settings_know_every_estimator_and_every_loss():
    assert set(ADVANTAGES) == set(ESTIMATORS)
    assert set(LOSSES) == set(losses.LOSSES)


# --- Known answers --------------------------------------------------------------------------------


def test_one_right_of_four_by_hand():
    rewards = torch.tensor([[1.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    expected = {
        grpo: [1.5, -0.5, -0.5, -0.5],  # deviation sqrt(.75 / 3) = .5
        dr_grpo: [0.75, -0.25, -0.25, -0.25],
        rloo: [1.0, -1 / 3, -1 / 3, -1 / 3],
        maxrl: [3.0, -1.0, -1.0, -1.0],
        batch_return: [3**0.5, -1 / 3**0.5, -1 / 3**0.5, -1 / 3**0.5],  # deviation sqrt(3) / 4
        reinforce_plus_plus: [1.5, -0.5, -0.5, -0.5],
    }
    for estimator, answer in expected.items():
        found = estimator(rewards)
        assert_close(found, torch.tensor([answer], dtype=torch.float64), rtol=0, atol=1e-4)


def test_two_rollouts_have_a_deviation_and_epsilon_is_added_to_it():
    found = grpo(torch.tensor([[1.0, 0.0]], dtype=torch.float64), epsilon=0.5)
    answer = 0.5 / (0.5**0.5 + 0.5)
    assert_close(found, torch.tensor([[answer, -answer]], dtype=torch.float64))


def test_the_baseline_of_james_stein_by_hand():
    """Rows 10, 11, 00, 10. For row 1: σ² = 1/3, v = 1/6, S = 1/18, λ = 3/4 · 3/4 = .5625."""
    rewards = torch.tensor([[1, 0], [1, 1], [0, 0], [1, 0]], dtype=torch.float64)
    baseline = (rewards - james_stein(rewards))[1]
    assert_close(baseline, torch.full((2,), 0.4375 + 0.5625 / 3, dtype=torch.float64))


def test_areal_s_five_and_minus_five_are_normalised_over_all_tokens():
    """Three tokens of a right response, one of a wrong: mean 2.5, deviation sqrt(18.75)."""
    rewards = torch.tensor([[5.0, -5.0]], dtype=torch.float64)
    found = batch_return(rewards, lengths=torch.tensor([[3, 1]]))
    assert_close(found, torch.tensor([[2.5, -7.5]]).double() / 18.75**0.5, rtol=1e-5, atol=0)


def test_a_return_is_what_is_still_to_come():
    """AReaL: -.001 (logp - ref) at each token, ±5 at the last one."""
    rewards = torch.tensor([[-0.001, 0.002, -5.0, 9.0]])
    mask = torch.tensor([[1, 1, 1, 0]])
    assert_close(returns_to_go(rewards, mask), torch.tensor([[-4.999, -4.998, -5.0, 0.0]]))
    half = returns_to_go(torch.tensor([[0.0, 9.0, 4.0]]), torch.tensor([[1, 0, 1]]), 0.5)
    assert_close(half, torch.tensor([[2.0, 0.0, 4.0]]))  # what is masked takes no time


@pytest.mark.parametrize("name", sorted(PER_TOKEN))
@given(matrices(), st.data())
@settings(max_examples=12)
def test_a_reward_on_the_last_token_is_the_reward_of_the_rollout(name, rewards, data):
    count = rewards.numel()
    lengths = torch.tensor(data.draw(st.lists(st.integers(1, 4), min_size=count, max_size=count)))
    mask = (torch.arange(4) < lengths[:, None]).double()
    tokens = torch.zeros(count, 4, dtype=torch.float64)
    tokens[torch.arange(count), lengths - 1] = rewards.flatten()
    found = PER_TOKEN[name](tokens, mask)
    of_rollouts = ESTIMATORS[name](rewards, lengths=lengths.reshape(rewards.shape))
    assert_close(found, of_rollouts.flatten()[:, None] * mask, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize(
    ("case", "published", "corrected"),
    [
        ((16, 2, 1, 1), 0.0891, 0.0729),
        ((64, 4, 1, 1), 0.0367, 0.0344),
        ((64, 8, 1, 1), 0.0189, 0.0187),
        ((64, 16, 1, 1), 0.0099, 0.0099),
        ((64, 8, 0.3, 0.9), 0.0127, 0.0127),
    ],
)
def test_the_error_of_james_stein_s_baseline_is_the_known_one(case, published, corrected):
    found = errors(*case, batches=24_000 // case[0])
    assert found["published"] == pytest.approx(published, rel=0.03)
    assert found["corrected"] == pytest.approx(corrected, rel=0.03)
    assert found["corrected"] < found["rloo"]


# --- Laws -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@given(batches(), st.randoms(use_true_random=False))
@settings(max_examples=15)
def test_another_order_of_the_rows_gives_the_same_in_every_bit(name, options, batch, random):
    rewards, prompts = usable(name, batch[0]), batch[1]
    before = by_prompt(ESTIMATORS[name], rewards, prompts, **options)
    order = list(range(len(prompts)))
    random.shuffle(order)
    after = by_prompt(ESTIMATORS[name], rewards[order], [prompts[i] for i in order], **options)
    assert torch.equal(after, before[order])


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@given(matrices())
@settings(max_examples=12)
def test_groups_of_one_size_need_no_filling_up(name, options, rewards):
    rewards, estimator = usable(name, rewards), ESTIMATORS[name]
    dense = estimator(rewards, **options)
    everything = torch.ones_like(rewards, dtype=torch.bool)
    wider = torch.nn.functional.pad(rewards, (0, 2), value=0.7)
    present = torch.nn.functional.pad(everything, (0, 2))
    filled = estimator(wider, present=present, **options)
    assert_close(filled[:, :-2], dense, rtol=1e-9, atol=1e-9)
    assert (filled[:, -2:] == 0).all()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
def test_rewards_that_are_all_equal_teach_nothing(name, options):
    for value in (0.0, 0.1, 1.0):
        found = ESTIMATORS[name](torch.full((3, 7), value, dtype=torch.float64), **options)
        assert found.abs().max() < 1e-12


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "maxrl"])
@given(matrices())
@settings(max_examples=12)
def test_a_group_of_equal_rewards_gets_exactly_nothing_and_every_group_sums_to_nothing(
    name, rewards
):
    rewards = usable(name, rewards)
    rewards[0] = 0.1
    found = ESTIMATORS[name](rewards)
    assert (found[0] == 0).all()
    assert found.sum(-1).abs().max() < 1e-9


def test_james_stein_gives_a_group_of_equal_rewards_what_is_not_nothing():
    rewards = torch.tensor([[1, 1], [0, 0], [1, 0]], dtype=torch.float64)
    found = james_stein(rewards)
    assert found[0].min() > 0 > found[1].max()


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@given(matrices(), st.sampled_from([-2.0, 0.25, 3.0]))
@settings(max_examples=12)
def test_a_shift_of_all_rewards_changes_nothing_but_for_maxrl(name, options, rewards, shift):
    if name == "maxrl":
        rewards, shift = rewards.abs() + 1, abs(shift)
        once, twice = maxrl(rewards), maxrl(rewards + shift)
        assert (twice.abs() <= once.abs() + 1e-12).all()  # the mean that divides has grown
        return
    before = ESTIMATORS[name](rewards, **options)
    assert_close(ESTIMATORS[name](rewards + shift, **options), before, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize(("name", "options"), CASES, ids=IDS)
@given(matrices(), st.sampled_from([0.5, 2.0, 10.0]))
@settings(max_examples=12)
def test_a_scale_of_all_rewards_scales_or_drops_out(name, options, rewards, scale):
    rewards = usable(name, rewards)
    before = ESTIMATORS[name](rewards, **options)
    after = ESTIMATORS[name](rewards * scale, **options)
    linear = name in ("dr_grpo", "rloo", "james_stein")
    expected = before * scale if linear else before
    # Their epsilons are in units of reward.
    assert_close(after, expected, rtol=1e-9 if linear or name == "maxrl" else 1e-3, atol=1e-9)


@pytest.mark.parametrize(
    ("name", "options"),
    [("rloo", {}), ("james_stein", {}), ("james_stein", CORRECTED)],
    ids=["rloo", "published", "corrected"],
)
@given(matrices(), st.data())
@settings(max_examples=30)
def test_the_baseline_of_a_rollout_does_not_know_its_own_reward(name, options, rewards, data):
    p = data.draw(st.integers(0, rewards.shape[0] - 1))
    g = data.draw(st.integers(0, rewards.shape[1] - 1))
    other = rewards.clone()
    other[p, g] = data.draw(REWARDS)
    baselines = [r - ESTIMATORS[name](r, **options) for r in (rewards, other)]
    assert_close(baselines[0][p, g], baselines[1][p, g], rtol=1e-9, atol=1e-9)


@given(batches(least=1), st.data())
@settings(max_examples=60)
def test_the_corrected_baseline_does_not_know_its_own_reward_beside_groups_of_one(batch, data):
    rewards, prompts = batch
    row = data.draw(st.integers(0, len(prompts) - 1))
    other = rewards.clone()
    other[row] = data.draw(REWARDS)
    found = [(r - by_prompt(james_stein, r, prompts, **CORRECTED))[row] for r in (rewards, other)]
    assert_close(*found, rtol=1e-9, atol=1e-9)


def test_a_group_of_one_takes_part_in_the_corrected_baseline_by_hand():
    """Means 1/4, 3/4, 1, 1/2 of groups of 4, 4, 1, 2. For the last: σ² = 1/4, S = 7/72, T = 7/48,
    τ² = max(7/48 - (1/16 + 1/16 + 1/4) / 3, 0) = 1/48, λ = 1/4 / (1/4 + 1/48 + 7/144) = 36/46."""
    rewards = torch.tensor([1, 0, 0, 0, 1, 1, 1, 0, 1, 0, 1], dtype=torch.float64)
    prompts = list("aaaabbbbcdd")
    found = by_prompt(james_stein, rewards, prompts, **CORRECTED)
    shrink, rest = 36 / 46, 2 / 3
    assert found[-2].item() == pytest.approx(-(1 - shrink) - shrink * rest)


def corrected_shrink(groups: list[list[float]], p: int) -> float:
    """λ of a group of several, word for word as `james_stein`'s docstring has it."""
    n, m, rest = len(groups), len(groups[p]), groups[:p] + groups[p + 1 :]
    means = [mean(group) for group in rest]
    several = [variance(group) for group in rest if len(group) > 1]
    sigma2 = mean(several) if several else 0.0
    noise = [(variance(g) if len(g) > 1 else sigma2) / len(g) for g in rest]
    total = (n - 1) / (n - 2) * pvariance(means)
    v, between = sigma2 / (m - 1), max(total - mean(noise), 0.0)
    return v / (v + between + total / (n - 1)) if v else 0.0


@given(batches(least=1))
@settings(max_examples=60)
def test_the_corrected_baseline_is_what_its_formula_says(batch):
    rewards, prompts = batch
    names = sorted(set(prompts))
    assume(len(names) > 2)
    groups = [rewards[[one == name for one in prompts]].tolist() for name in names]
    found = by_prompt(james_stein, rewards, prompts, **CORRECTED)
    for p, (name, group) in enumerate(zip(names, groups, strict=True)):
        others = mean([mean(each) for each in groups[:p] + groups[p + 1 :]])
        shrink = corrected_shrink(groups, p) if len(group) > 1 else 1.0
        for g, advantage in enumerate(found[[one == name for one in prompts]].tolist()):
            own = mean(group[:g] + group[g + 1 :]) if len(group) > 1 else 0.0
            baseline = (1 - shrink) * own + shrink * others
            assert advantage == pytest.approx(group[g] - baseline, abs=1e-9)


@given(matrices())
@settings(max_examples=15)
def test_rloo_is_dr_grpo_times_g_over_g_minus_1(rewards):
    g = rewards.shape[1]
    assert_close(rloo(rewards), dr_grpo(rewards) * g / (g - 1))


# --- A group of one, one prompt, and what is refused ----------------------------------------------


def test_a_group_of_one_has_no_advantage_by_its_own_mean_and_is_refused_where_one_is_left_out():
    alone = torch.tensor([[1.0], [0.0]], dtype=torch.float64)
    for name in ("grpo", "dr_grpo", "maxrl"):
        assert (ESTIMATORS[name](alone) == 0).all()
    for estimator in (rloo, james_stein):
        with pytest.raises(ValueError, match=r"group of one rollout.*\n\nhint: .*group_size"):
            estimator(alone)


def test_the_corners_of_james_stein():
    one_prompt = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    two = torch.tensor([[1.0, 0.0], [1.0, 1.0]], dtype=torch.float64)
    for variant in ("published", "corrected"):
        assert_close(james_stein(one_prompt, variant=variant), rloo(one_prompt))
    assert_close(james_stein(two, variant="corrected"), rloo(two))
    alone = torch.tensor([[1.0], [0.0], [0.5]], dtype=torch.float64)  # λ = 1: the other prompts
    assert_close(
        james_stein(alone, variant="corrected"), torch.tensor([[0.75], [-0.75], [0.0]]).double()
    )
    single = torch.tensor([[0.7]], dtype=torch.float64)
    assert_close(james_stein(single, variant="corrected"), single)
    with pytest.raises(ValueError, match="found variant 'best'"):
        james_stein(two, variant="best")


def test_maxrl_refuses_negative_rewards():
    with pytest.raises(ValueError, match="found a reward of -1"):
        maxrl(torch.tensor([[-1.0, 1.0]]))


def test_a_flat_batch_is_checked():
    with pytest.raises(ValueError, match="found 2 rewards, 1 prompt ids"):
        by_prompt(rloo, torch.tensor([1.0, 0.0]), ["a"])
    with pytest.raises(ValueError, match="not finite"):
        by_prompt(rloo, torch.tensor([1.0, torch.nan]), ["a", "a"])
    unequal = torch.tensor([1.0, 0.0, 1.0]), ["a", "a", "b"]
    with pytest.raises(ValueError, match="found groups of 1 to 2 rollouts"):
        by_prompt(lambda rewards: rewards, *unequal)
    with pytest.raises(ValueError, match="found advantages of shape"):
        by_prompt(lambda rewards: rewards.sum(-1), torch.tensor([1.0, 0.0]), ["a", "a"])


@pytest.mark.parametrize("name", NAMES)
def test_every_estimator_says_its_formula_and_its_source(name):
    text = inspect.getdoc(ESTIMATORS[name])
    assert " = " in text and "Source:" in text and ">>>" in text
