"""Advantages normalised over the whole batch: no prompt has a baseline of its own.

Both estimators weigh a rollout by its tokens, since both average over tokens. Given `rewards`
[P, G] the reward stands on the last token and is not discounted, so every token of a rollout has
its return; the forms on tokens take a reward for each, such as a KL penalty.

Shapes: P prompt groups, G rollouts per group; N rollouts, T tokens.
"""

import torch
from torch import Tensor


def reinforce_plus_plus(
    rewards: Tensor, *, present: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Returns, shifted and scaled to mean 0 and variance 1 over the tokens of the batch.

        A[p, g] = (r[p, g] - mean r) / sqrt(var r + 1e-8)

    Mean and variance are over tokens, the variance with (tokens - 1) in its denominator.

    Args:
        rewards: [P, G], any unit.
        present: [P, G] bool, which entries are rollouts; None: all.
        lengths: [P, G] tokens of each rollout; None: all alike.

    Returns:
        [P, G] advantages in standard deviations; 0 for a batch of equal rewards.

    Source:
        Hu 2025, "REINFORCE++", arXiv:2501.03262, as in verl 0.9.1: the paper's mini-batch
        normalisation is over the batch of the step here.

    >>> reinforce_plus_plus(Tensor([[1.0, 0.0], [1.0, 0.0]])).round(decimals=2)
    tensor([[ 0.8700, -0.8700],
            [ 0.8700, -0.8700]])
    """
    weights = _tokens(rewards, present, lengths)
    return _plus_plus(rewards, weights) * (weights > 0)


def batch_return(
    rewards: Tensor, *, present: Tensor | None = None, lengths: Tensor | None = None
) -> Tensor:
    """Return-to-go with discount 1, λ 1 and no critic, normalised over the tokens of the batch.

        A[p, g] = (r[p, g] - mean r) / (std r + 1e-5)

    The deviation is the population's (tokens in the denominator).

    Args:
        rewards: [P, G]; AReaL gives +5 for right and -5 for wrong. The scale drops out here, but
            not of the KL penalty that is added to it.
        present: [P, G] bool, which entries are rollouts; None: all.
        lengths: [P, G] tokens of each rollout; None: all alike.

    Returns:
        [P, G] advantages in standard deviations; 0 for a batch of equal rewards.

    Source:
        AReaL v0.1, `ppo_interface.py:553-571` with `adv_norm` on, `group_adv_norm` off and
        `disable_value` on.

    >>> batch_return(Tensor([[5.0, -5.0], [5.0, -5.0]])).round(decimals=2)
    tensor([[ 1., -1.],
            [ 1., -1.]])
    """
    weights = _tokens(rewards, present, lengths)
    return _areal(rewards, weights) * (weights > 0)


def reinforce_plus_plus_tokens(
    token_rewards: Tensor, mask: Tensor, *, discount: float = 1.0
) -> Tensor:
    """`reinforce_plus_plus` where each token has a reward, such as minus its KL penalty.

    Args:
        token_rewards: [N, T], any unit.
        mask: [N, T], not 0 at tokens of the response.
        discount: factor per token, in (0, 1].

    Returns:
        [N, T] advantages, 0 outside the mask.
    """
    returns = returns_to_go(token_rewards, mask, discount)
    return _plus_plus(returns, mask.to(returns)) * mask


def batch_return_tokens(token_rewards: Tensor, mask: Tensor, *, discount: float = 1.0) -> Tensor:
    """`batch_return` where each token has a reward, such as minus its KL penalty.

    Args:
        token_rewards: [N, T], any unit.
        mask: [N, T], not 0 at tokens of the response.
        discount: factor per token, in (0, 1].

    Returns:
        [N, T] advantages, 0 outside the mask.
    """
    returns = returns_to_go(token_rewards, mask, discount)
    return _areal(returns, mask.to(returns)) * mask


def returns_to_go(token_rewards: Tensor, mask: Tensor, discount: float = 1.0) -> Tensor:
    """What is still to come from each token on.

        R[n, t] = sum_{u >= t} discount^(u - t) r[n, u]

    Tokens outside the mask count neither as reward nor as time.

    Args:
        token_rewards: [N, T].
        mask: [N, T], not 0 at tokens of the response.
        discount: Factor per token, in (0, 1].

    Returns:
        [N, T], 0 outside the mask.

    >>> returns_to_go(Tensor([[-0.1, -0.1, 5.0]]), torch.ones(1, 3))
    tensor([[4.8000, 4.9000, 5.0000]])
    """
    rewards = torch.where(mask != 0, token_rewards, 0.0)
    if discount == 1.0:
        return rewards.flip(-1).cumsum(-1).flip(-1) * mask
    returns, later = torch.zeros_like(rewards), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[-1])):
        later = torch.where(mask[:, t] != 0, rewards[:, t] + discount * later, later)
        returns[:, t] = later * mask[:, t]
    return returns


def _tokens(rewards: Tensor, present: Tensor | None, lengths: Tensor | None) -> Tensor:
    weights = torch.ones_like(rewards) if lengths is None else lengths.to(rewards)
    return weights if present is None else torch.where(present, weights, 0.0)


def _moments(values: Tensor, weights: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Distance from the weighted mean, its mean square, and the sum of weights."""
    total = weights.sum()
    counted = values[weights > 0]
    if len(counted) == 0 or counted.max() == counted.min():
        return torch.zeros_like(values), total.new_zeros(()), total
    distance = values - (values * weights).sum() / total
    return distance, (distance.square() * weights).sum() / total, total


def _plus_plus(values: Tensor, weights: Tensor) -> Tensor:
    distance, variance, total = _moments(values, weights)
    return distance * torch.rsqrt(variance * total / (total - 1).clamp(min=1) + 1e-8)


def _areal(values: Tensor, weights: Tensor) -> Tensor:
    distance, variance, _ = _moments(values, weights)
    return distance / (variance.sqrt() + 1e-5)
