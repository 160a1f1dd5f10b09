"""A leave-one-out baseline shrunk towards the mean of the other prompts.

Shapes: P prompt groups (n in the paper), G rollouts per group (m in the paper).
"""

from typing import Literal

import torch
from torch import Tensor

from trainer.advantages.group import everything, mean


def james_stein(
    rewards: Tensor,
    *,
    present: Tensor | None = None,
    variant: Literal["published", "corrected"] = "published",
) -> Tensor:
    """Distance from a baseline between the mean of the others and the mean of other prompts.

        b[p, g] = (1 - λ[p]) mean_{h != g} r[p, h] + λ[p] mean_{q != p} mean_h r[q, h]
        A[p, g] = r[p, g] - b[p, g]

    λ[p] is made of the other prompts only, so the baseline of a rollout does not depend on its own
    reward and the gradient is unbiased. With σ² the mean over q != p of the sample variances, S
    the mean over q != p of (mean_h r[q, h] - their mean)², n prompts and m rollouts:

        published:  λ = (n - 1) / n · v / (v + S),           v = σ² / m
        corrected:  λ = v / (v + τ² + T / (n - 1)),          v = σ² / (m - 1),
                    T = (n - 1) / (n - 2) · S,   τ² = max(T - σ² / m, 0)

    `published` takes σ² / m where a leave-one-out mean has σ² / (m - 1), and leaves the sampling
    noise in S: its λ is too small. `corrected` mends both and counts the error of the other
    prompts' mean; it is derived here, not in the paper. Below n = 8 or so rloo is the safer choice:
    with n = 3 and m = 8 the published baseline is worse than it.

    Groups of equal rewards get an advantage that is not 0 (-0.24 and +0.24 are usual), so filtering
    them out takes part of the method away. At a fixed policy the second moment of r - b cannot
    fall below that of rloo by more than 1 / m.

    Corners: one prompt is rloo (the authors' code gives NaN there); `corrected` is rloo for two
    prompts too, has λ = 1 for a group of one, and baseline 0 for a batch of one rollout. No spread
    anywhere: λ = 0. Groups of unequal size: σ²/m is the mean of each group's own, and σ²/(m - 1)
    takes the target's m; σ² is of groups of several, and stands for that of a group of one.

    Args:
        rewards: [P, G], any unit.
        present: [P, G] bool, which entries are rollouts; None: all.
        variant: "published" or "corrected".

    Returns:
        [P, G] advantages in the unit of the rewards; absent entries are 0.

    Raises:
        ValueError: unknown variant; or `published` with a group of one rollout.

    Source:
        "Shrinkage Baselines", arXiv:2511.03710. The authors' code leaves out (n - 1) / n, which
        their text has, and takes rows to stand in order of their prompts, which verl undoes.

    >>> rewards = Tensor([[1, 0], [1, 1], [0, 0], [1, 0]])
    >>> james_stein(rewards).round(decimals=4)[1]  # all right, above the other prompts
    tensor([0.3750, 0.3750])
    """
    if variant not in ("published", "corrected"):
        raise ValueError(
            f"james_stein: found variant {variant!r}, needed published or corrected\n\n"
            "hint: set method.advantage_settings.variant"
        )
    present = everything(rewards) if present is None else present
    count = present.sum(-1, keepdim=True).to(rewards)
    if variant == "published" and (count < 2).any():
        raise ValueError(
            "james_stein: found a prompt group of one rollout, needed at least two\n\n"
            "hint: raise the stage's group_size, or take the corrected variant"
        )
    own = mean(rewards, present)
    kept = torch.where(present, rewards, own)
    others = torch.where(count > 1, (count * own - kept) / (count - 1).clamp(min=1), 0.0)
    if len(rewards) == 1:
        return (kept - others) * present
    shrink, rest = _published(kept, own, count)
    if variant == "corrected":
        shrink = _corrected(kept, own, count)
    return (kept - (1 - shrink) * others - shrink * rest) * present


def _published(rewards: Tensor, own: Tensor, count: Tensor) -> tuple[Tensor, Tensor]:
    """λ as in the paper and the mean of the other prompts, both [P, 1]."""
    n = len(rewards)
    rest, scatter = _others_of(own)
    noise = _mean_of_others(_variance(rewards, own, count) / count)
    return (n - 1) / n * _share(noise, noise + scatter / (n - 1)), rest


def _corrected(rewards: Tensor, own: Tensor, count: Tensor) -> Tensor:
    """λ [P, 1] without the two biases."""
    n = len(rewards)
    if n < 3:
        return (count == 1).to(rewards)
    _, scatter = _others_of(own)
    variance = _variance(rewards, own, count)
    several = (count > 1).to(rewards)  # a group of one says nothing of the variance
    known = (several.sum() - several).clamp(min=1)
    spread = ((variance * several).sum() - variance * several) / known
    total = scatter / (n - 2)
    # The mean of a group of one varies by `spread`: that of the target, which its own rewards are
    # not in, and not that of the group.
    of_means = _mean_of_others(variance * several / count) + _mean_of_others(1 - several) * spread
    between = (total - of_means).clamp(min=0)
    noise = spread / (count - 1).clamp(min=1)
    shrink = _share(noise, noise + between + total / (n - 1)).clamp(0, 1)
    return torch.where(count > 1, shrink, 1.0)


def _variance(rewards: Tensor, own: Tensor, count: Tensor) -> Tensor:
    """[P, 1] sample variance of each group, 0 for a group of one."""
    return (rewards - own).square().sum(-1, keepdim=True) / (count - 1).clamp(min=1)


def _mean_of_others(values: Tensor) -> Tensor:
    return (values.sum() - values) / (len(values) - 1)


def _others_of(own: Tensor) -> tuple[Tensor, Tensor]:
    """Mean of the other groups' means, and the sum of their squared distances from it."""
    middle = own.mean()
    distance = own - middle  # else the squares would cancel each other's digits
    rest = _mean_of_others(distance)
    squares = distance.square()
    scatter = (squares.sum() - squares) - (len(own) - 1) * rest.square()
    return rest + middle, scatter.clamp(min=0)


def _share(part: Tensor, whole: Tensor) -> Tensor:
    """part / whole, and 0 for 0 / 0."""
    return torch.where(whole > 0, part / whole.where(whole > 0, 1.0), 0.0)
