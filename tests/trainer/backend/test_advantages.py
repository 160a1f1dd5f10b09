"""Our estimators as verl calls them, beside verl's own; and the signs of verl's KL terms."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

core_algos = pytest.importorskip("verl.trainer.ppo.core_algos")

from trainer.advantages import ESTIMATORS, PER_TOKEN  # noqa: E402
from trainer.backend.advantages import estimator, for_verl, register  # noqa: E402
from trainer.backend.overlong import without_truncated  # noqa: E402

CONFIG = SimpleNamespace(gamma=1.0)


def batch(seed: int, prompts: int = 6, rollouts: int = 4, tokens: int = 5, dense: bool = False):
    """Rewards [N, T], mask [N, T] and prompt ids [N], rows in random order."""
    generator = torch.Generator().manual_seed(seed)
    n = prompts * rollouts
    lengths = torch.randint(1, tokens + 1, (n,), generator=generator)
    mask = (torch.arange(tokens) < lengths[:, None]).double()
    rewards = torch.zeros(n, tokens, dtype=torch.float64)
    rewards[torch.arange(n), lengths - 1] = torch.randint(0, 2, (n,), generator=generator).double()
    if dense:  # a KL penalty on each token
        rewards += 0.1 * torch.randn(n, tokens, generator=generator, dtype=torch.float64) * mask
    ids = np.array([f"{i // rollouts:09d}" for i in range(n)], dtype=object)
    order = torch.randperm(n, generator=generator)
    return rewards[order], mask[order], ids[order.numpy()]


@pytest.mark.parametrize("name", ["grpo", "rloo", "reinforce_plus_plus"])
@given(st.integers(0, 10_000), st.booleans())
@settings(max_examples=30)
def test_ours_agree_with_verl_s(name, seed, dense):
    rewards, mask, ids = batch(seed, dense=dense)
    theirs = core_algos.get_adv_estimator_fn(name)
    expected, _ = theirs(
        token_level_rewards=rewards.clone(), response_mask=mask, index=ids, config=CONFIG
    )
    found, returns = for_verl(estimator(name), {})(rewards, mask, ids)
    assert_close(found, expected, rtol=0, atol=1e-6)
    assert returns is found


@pytest.mark.parametrize("name", sorted(ESTIMATORS))
@given(st.integers(0, 10_000))
@settings(max_examples=20)
def test_rows_that_verl_reordered_keep_the_advantages_of_their_prompts(name, seed):
    rewards, mask, ids = batch(seed)
    function = for_verl(estimator(name), {})
    before, _ = function(rewards, mask, ids)
    order = torch.randperm(len(ids), generator=torch.Generator().manual_seed(seed + 1))
    after, _ = function(rewards[order], mask[order], ids[order.numpy()])
    exact = name not in PER_TOKEN  # these add up tokens of the batch, in the order of its rows
    assert_close(after, before[order], rtol=0, atol=0 if exact else 1e-12)


@pytest.mark.parametrize("name", ["grpo", "dr_grpo", "rloo", "maxrl"])
def test_a_group_s_advantages_are_made_of_its_own_rewards_alone(name):
    rewards, mask, ids = batch(1)
    function = for_verl(estimator(name), {})
    whole, _ = function(rewards, mask, ids)
    for prompt in np.unique(ids):
        rows = ids == prompt
        alone, _ = function(rewards[rows], mask[rows], ids[rows])
        assert_close(alone, whole[rows])


def equal_groups(rewards):
    """An estimator of somebody's own, that knows of no `present`."""
    return rewards - rewards.mean(-1, keepdim=True)


@pytest.mark.parametrize("function", [*ESTIMATORS.values(), *PER_TOKEN.values(), equal_groups])
def test_padding_changes_no_advantage(function):
    rewards, mask, ids = batch(3, prompts=5)
    alone, _ = for_verl(function, {})(rewards, mask, ids)
    order = torch.randperm(len(ids) + 6, generator=torch.Generator().manual_seed(4))
    rewards = torch.cat([rewards, torch.zeros(6, 5).double()])[order]
    mask = torch.cat([mask, torch.zeros(6, 5).double()])[order]
    ids = np.array([*ids, *["pad7f"] * 6], dtype=object)[order.numpy()]
    padded, _ = for_verl(function, {})(rewards, mask, ids)
    assert_close(padded[order.argsort()][:-6], alone, rtol=0, atol=1e-12)
    assert not padded[order >= len(ids) - 6].any()


def test_what_a_stage_names_is_what_verl_finds(tmp_path):
    (tmp_path / "mine.py").write_text("def mine(rewards, *, by):\n    return rewards * by\n")
    algorithm = SimpleNamespace(
        adv_estimator="stagecraft_mine",
        stagecraft=SimpleNamespace(estimator=f"{tmp_path / 'mine.py'}:mine", settings={"by": 3.0}),
    )
    register(algorithm)
    rewards, mask, ids = batch(2)
    found, _ = core_algos.get_adv_estimator_fn("stagecraft_mine")(
        token_level_rewards=rewards, response_mask=mask, index=ids, config=algorithm
    )
    assert_close(found, 3 * rewards.sum(-1, keepdim=True) * mask)


# --- What we leave to verl: contracts -------------------------------------------------------------


def test_verl_s_kl_estimators_have_the_known_size_and_sign():
    log_prob, reference = torch.tensor([0.5]).log(), torch.tensor([0.25]).log()
    d = torch.tensor(2.0).log().item()
    for name, expected in (("k1", d), ("k2", d**2 / 2), ("k3", 0.5 - 1 + d)):
        found = core_algos.kl_penalty(log_prob, reference, name)
        assert found.item() == pytest.approx(expected, rel=1e-6)
        assert core_algos.kl_penalty(log_prob, log_prob, name).item() == 0
    k3 = core_algos.kl_penalty(reference, log_prob, "k3")  # never negative, on either side
    assert k3.item() == pytest.approx(2 - 1 - d, rel=1e-6) and k3 > 0


def test_a_kl_term_in_the_loss_draws_towards_the_reference():
    """DeepScaleR's first run had the other sign."""
    for above, sign in ((True, 1), (False, -1)):
        log_prob = torch.tensor([0.6 if above else 0.2]).log().requires_grad_()
        core_algos.kl_penalty(log_prob, torch.tensor([0.4]).log(), "k3").backward()
        assert log_prob.grad.sign().item() == sign  # descent lowers what stands above


def test_a_kl_term_in_the_reward_takes_away_where_the_policy_is_above_the_reference():
    from verl import DataProto
    from verl.trainer.ppo.ray_trainer import apply_kl_penalty

    data = DataProto.from_dict(
        {
            "response_mask": torch.tensor([[1.0, 1.0, 0.0]]),
            "token_level_scores": torch.tensor([[0.0, 5.0, 0.0]]),
            "old_log_probs": torch.tensor([[0.5, 0.25, 0.5]]).log(),
            "ref_log_prob": torch.tensor([[0.25, 0.5, 0.1]]).log(),
        }
    )
    found, _ = apply_kl_penalty(data, core_algos.FixedKLController(0.001), "k1")
    d = 0.001 * torch.tensor(2.0).log()
    assert_close(found.batch["token_level_rewards"], torch.tensor([[-d, 5 + d, 0.0]]))


@pytest.mark.parametrize(
    ("mode", "expected"),
    [
        ("token-mean", (1 + 1 + 4) / 3),
        ("seq-mean-token-mean", (1 + 4) / 2),
        ("seq-mean-token-sum", (2 + 4) / 2),
        ("seq-mean-token-sum-norm", (2 + 4) / 2 / 8),
    ],
)
def test_verl_averages_as_the_names_say(mode, expected):
    losses, mask = torch.tensor([[1.0, 1.0], [4.0, 9.0]]), torch.tensor([[1.0, 1.0], [1.0, 0.0]])
    found = core_algos.agg_loss(losses, mask, mode, loss_scale_factor=8)
    assert found.item() == pytest.approx(expected)


# --- Our losses under verl's registry -------------------------------------------------------------


def actor(**changes):
    values = dict(clip_ratio=0.2, clip_ratio_low=0.2, clip_ratio_high=0.28, clip_ratio_c=3.0)
    config = SimpleNamespace(**values | changes, global_batch_info={})
    config.get = lambda key, default=None: getattr(config, key, default)
    return config


def policy_arguments(seed=0):
    generator = torch.Generator().manual_seed(seed)
    old = torch.randn(8, 6, generator=generator) - 1
    new = old + torch.randn(8, 6, generator=generator)
    mask = (torch.rand(8, 6, generator=generator) > 0.3).float()
    return old, new, torch.randn(8, 6, generator=generator), mask


@pytest.mark.parametrize("dual", [3.0, 1e9])
def test_our_clip_is_verl_s(monkeypatch, dual):
    from trainer.backend.losses import policy_loss

    monkeypatch.setenv("STAGECRAFT_LOSS", '{"loss": "clip", "settings": {}}')
    arguments = policy_arguments()
    config = actor(clip_ratio_c=dual)
    theirs, _ = core_algos.compute_policy_loss_vanilla(*arguments, config=config)
    ours, metrics = policy_loss(*arguments, config=config)
    assert_close(ours, theirs)
    assert 0 < metrics["actor/pg_clipfrac"] < 1
    assert core_algos.get_policy_loss_fn("stagecraft") is policy_loss


def test_a_loss_s_settings_reach_it(monkeypatch):
    from trainer.backend.losses import policy_loss

    loss = '{"loss": "clip_unless_far", "settings": {"farthest": 0.001}}'
    monkeypatch.setenv("STAGECRAFT_LOSS", loss)
    assert policy_loss(*policy_arguments(), config=actor())[0] == 0


def test_truncated_rollouts_leave_one_token_without_advantage():
    responses = [torch.tensor([5, 6, 2]), torch.tensor([5, 6, 7])]  # 2 ends
    masks = [torch.ones(3, dtype=torch.int64) for _ in responses]
    advantages = [torch.full((3,), 0.5), torch.full((3,), -0.5)]
    assert without_truncated(responses, masks, advantages, {2}) == 2
    assert [mask.tolist() for mask in masks] == [[1, 1, 1], [1, 0, 0]]
    assert advantages[0].tolist() == [0.5] * 3 and advantages[1].tolist() == [0.0] * 3
