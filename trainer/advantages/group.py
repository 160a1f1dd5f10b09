"""Advantages from a prompt group alone: no group knows of another.

Shapes: P prompt groups, G rollouts per group.
"""

import torch
from torch import Tensor


def grpo(rewards: Tensor, *, present: Tensor | None = None, epsilon: float = 1e-6) -> Tensor:
    """Distance from the group mean in standard deviations of the group.

        A[p, g] = (r[p, g] - mean_g r[p, g]) / (std_g r[p, g] + epsilon)

    The deviation is the sample one (G - 1 in the denominator). A group of equal rewards gets
    exactly 0. A group of one gets 0; verl 0.9.1 gives it its raw reward, as if the baseline were 0.

    Args:
        rewards: [P, G], any unit.
        present: [P, G] bool, which entries are rollouts; None: all.
        epsilon: Keeps groups of little spread finite, in units of reward.

    Returns:
        [P, G] advantages in standard deviations; each group sums to 0, absent entries are 0.

    Source:
        Shao et al. 2024, "DeepSeekMath", arXiv:2402.03300, section 4.1. verl and TRL take the
        sample deviation, the paper does not say which.

    >>> grpo(Tensor([[1.0, 0.0, 0.0, 0.0]])).round(decimals=2)
    tensor([[ 1.5000, -0.5000, -0.5000, -0.5000]])
    """
    present = everything(rewards) if present is None else present
    centred = dr_grpo(rewards, present=present)
    degrees = (present.sum(-1, keepdim=True) - 1).clamp(min=1)
    deviation = (centred.square().sum(-1, keepdim=True) / degrees).sqrt()
    return centred / (deviation + epsilon)


def dr_grpo(rewards: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Distance from the group mean.

        A[p, g] = r[p, g] - mean_g r[p, g]

    The mean contains the rollout's own reward, so the gradient is (G - 1) / G of the unbiased one.
    This is the estimator of Dr. GRPO; its loss, a sum over tokens divided by a constant, is
    `method.loss_average=seq-mean-token-sum-norm`.

    Args:
        rewards: [P, G], any unit.
        present: [P, G] bool, which entries are rollouts; None: all.

    Returns:
        [P, G] advantages in the unit of the rewards; each group sums to 0, absent entries are 0.

    Source:
        Liu et al. 2025, "Understanding R1-Zero-Like Training", arXiv:2503.20783, section 3.2.

    >>> dr_grpo(Tensor([[1.0, 0.0, 0.0, 0.0]]))
    tensor([[ 0.7500, -0.2500, -0.2500, -0.2500]])
    """
    present = everything(rewards) if present is None else present
    centred = rewards - mean(rewards, present)
    # Without this, equal rewards of 0.1 would differ from their mean in the last bit.
    return torch.where(present & ~equal(rewards, present), centred, 0.0)


def rloo(rewards: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Distance from the mean of the *other* rollouts of the group.

        A[p, g] = r[p, g] - mean_{h != g} r[p, h] = G / (G - 1) (r[p, g] - mean_h r[p, h])

    Args:
        rewards: [P, G] with G >= 2, any unit.
        present: [P, G] bool, which entries are rollouts; None: all.

    Returns:
        [P, G] advantages in the unit of the rewards; each group sums to 0, absent entries are 0.

    Raises:
        ValueError: a group has one rollout. verl 0.9.1 gives it its raw reward.

    Source:
        Kool et al. 2019, "Buy 4 REINFORCE Samples, Get a Baseline for Free!"; Ahmadian et al. 2024,
        "Back to Basics", arXiv:2402.14740.

    >>> rloo(Tensor([[1.0, 0.0, 0.0, 0.0]])).round(decimals=2)
    tensor([[ 1.0000, -0.3300, -0.3300, -0.3300]])
    """
    present = everything(rewards) if present is None else present
    count = present.sum(-1, keepdim=True).to(rewards)  # not int: / would give float32
    if (count < 2).any():
        raise ValueError(
            "rloo: found a prompt group of one rollout, needed at least two\n\n"
            "hint: the baseline is the mean of the others; raise the stage's group_size"
        )
    return dr_grpo(rewards, present=present) * (count / (count - 1))


def maxrl(rewards: Tensor, *, present: Tensor | None = None) -> Tensor:
    """Distance from the group mean in units of that mean: a hard prompt's success counts more.

        A[p, g] = (r[p, g] - mean_g r[p, g]) / mean_g r[p, g],   0 where the mean is not above 0

    In expectation the gradient of the maximum-likelihood objective log p truncated at order G.
    Needs rewards that are not negative, as 1 and 0 are.

    Args:
        rewards: [P, G], 0 or more.
        present: [P, G] bool, which entries are rollouts; None: all.

    Returns:
        [P, G] advantages without unit; each group sums to 0, absent entries are 0.

    Raises:
        ValueError: a reward is negative.

    Source:
        "Maximum Likelihood Reinforcement Learning", arXiv:2602.02710.

    >>> maxrl(Tensor([[1.0, 0.0, 0.0, 0.0], [0.0, 0.0, 0.0, 0.0]]))
    tensor([[ 3., -1., -1., -1.],
            [ 0.,  0.,  0.,  0.]])
    """
    present = everything(rewards) if present is None else present
    if (rewards[present] < 0).any():
        raise ValueError(
            f"maxrl: found a reward of {rewards[present].min():g}, needed none below 0\n\n"
            "hint: it divides by the pass rate; use rewards of 1 and 0 without penalties"
        )
    average = mean(rewards, present)
    centred = dr_grpo(rewards, present=present)
    return torch.where(average > 0, centred / average.where(average > 0, 1.0), 0.0)


def everything(rewards: Tensor) -> Tensor:
    """[P, G] bool, True throughout."""
    return torch.ones_like(rewards, dtype=torch.bool)


def mean(rewards: Tensor, present: Tensor) -> Tensor:
    """[P, 1] mean of each group over the rollouts that are there."""
    total = torch.where(present, rewards, 0.0).sum(-1, keepdim=True)
    return total / present.sum(-1, keepdim=True).clamp(min=1)


def equal(rewards: Tensor, present: Tensor) -> Tensor:
    """[P, 1] bool: whether all rewards of a group are the same."""
    high = torch.where(present, rewards, -torch.inf).amax(-1, keepdim=True)
    low = torch.where(present, rewards, torch.inf).amin(-1, keepdim=True)
    return high <= low
