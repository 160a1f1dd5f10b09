"""What a trial of an advantage, a loss or a reward finds before a run does."""

import inspect

import pytest
import torch

from trainer.advantages import ESTIMATORS, PER_TOKEN
from trainer.losses import LOSSES
from trainer.reward_functions import GIVEN
from trainer.trial import try_advantage, try_loss, try_reward


@pytest.mark.parametrize("name", [*ESTIMATORS, *PER_TOKEN])
@pytest.mark.parametrize("equal", [False, True])
@pytest.mark.parametrize("group_size", [2, 3, 16])
def test_those_that_ship_pass(name, equal, group_size):
    function = {**ESTIMATORS, **PER_TOKEN}[name]
    try_advantage(function, {}, group_size, equal=equal)


@pytest.mark.parametrize("name", LOSSES)
def test_losses_that_ship_pass(name):
    try_loss(LOSSES[name], {})


def crash(rewards):
    return undefined_name  # noqa: F821


def by_deviation(rewards):
    centred = rewards - rewards.mean(-1, keepdim=True)
    return centred / centred.std(-1, keepdim=True)


def of_tokens(token_rewards, mask):
    return token_rewards.sum(-1)


BAD = [
    (crash, {}, "crash fails, given rewards of 2 prompts x 4 rollouts: NameError: .*test_trial.py"),
    (lambda rewards, *, scale: rewards * scale, {"scale": "abc"}, "TypeError"),
    (lambda rewards: rewards.mean(-1), {}, r"shape \(2,\), needed \(2, 4\)"),
    (lambda rewards: None, {}, "fails, given rewards"),
    (of_tokens, {}, r"of_tokens, given .*: found \(8,\), needed a tensor of shape \(8, 3\)"),
    (lambda token_rewards, mask: 3, {}, "found int, needed a tensor"),
    (by_deviation, {}, "not finite"),
]


@pytest.mark.parametrize(("function", "settings", "told"), BAD)
def test_an_advantage_that_cannot_train_is_refused(function, settings, told):
    with pytest.raises(ValueError, match=rf"{told}[^§]*\n\nhint: "):
        try_advantage(function, settings, 4, equal=True)


def test_groups_of_equal_rewards_are_tried_only_where_they_train():
    try_advantage(by_deviation, {}, 4, equal=False)


def loss(make):
    def own(log_probs, old_log_probs, advantages, mask, *, clip_low, clip_high, dual_clip):
        return make(log_probs, advantages)

    return own


@pytest.mark.parametrize(
    ("make", "told"),
    [
        (lambda log_probs, advantages: (log_probs * advantages).mean(), r"found \(\), needed"),
        (lambda log_probs, advantages: -advantages, "losses without a gradient"),
        (lambda log_probs, advantages: log_probs / 0, "not finite"),
        (lambda log_probs, advantages: torch.cat(log_probs), "TypeError"),
    ],
)
def test_a_loss_that_cannot_train_is_refused(make, told):
    with pytest.raises(ValueError, match=rf"{told}[^§]*\n\nhint: "):
        try_loss(loss(make), {})


@pytest.mark.parametrize(
    ("function", "told"),
    [
        (lambda answer: len(answer), "rollout with reason 'truncated': TypeError: .*test_trial.py"),
        (lambda correct: None, "reason 'equal as text': .*returned None, needed a finite number"),
        (lambda tokens: tokens / 0 if tokens == 64 else 1, "ZeroDivisionError"),
        (lambda reward: float("nan"), "returned nan"),
        (lambda reward, scale: scale, "returned 'much'"),
    ],
)
def test_a_reward_that_cannot_train_is_refused(function, told):
    settings = {"scale": "much"} if "scale" in function.__code__.co_varnames else {}
    with pytest.raises(ValueError, match=rf"{told}[^§]*\n\nhint: ") as refused:
        try_reward(function, settings)
    assert str(refused.value).count("hint: ") == 1


def test_a_reward_gets_what_it_asks_for():
    def asked(reward, correct, reason, answer, answers, response, tokens, context_length, source):
        assert (answer in answers) == correct == (tokens < context_length)
        assert ("boxed" in response) == correct == (reason != "truncated") and source
        return reward

    assert set(GIVEN) == inspect.signature(asked).parameters.keys()
    try_reward(asked, {})
