"""A flat batch with prompt ids to prompt groups, and back.

verl reorders rows to balance lengths before the advantage is computed: a group is known by its
prompt's id, never by position.
"""

import inspect
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor


def per_token(function: Callable) -> bool:
    """Whether an estimator wants a reward for each token rather than one for each rollout."""
    first = next(iter(inspect.signature(function).parameters), "")
    return first == "token_rewards"


def by_prompt(
    estimator: Callable[..., Tensor],
    rewards: Tensor,
    prompts: Sequence,
    *,
    lengths: Tensor | None = None,
    **settings: object,
) -> Tensor:
    """Advantages of a flat batch, whatever the order of its rows and the sizes of its groups.

    Rows are put in an order of their own before anything is added up, so that another order of
    the batch gives the same numbers in every bit.

    Args:
        estimator: One of `trainer.advantages`, or a function like them. It is given `present` where
            groups are unequal and `lengths` where it asks for them.
        rewards: [N], one per rollout.
        prompts: [N] ids that can be sorted; rollouts of one prompt have the same.
        lengths: [N] tokens of each rollout.
        settings: The estimator's own.

    Returns:
        [N] advantages in float64, in the order of the rows.

    Raises:
        ValueError: lengths of the arguments differ; a reward is not finite; groups are unequal and
            the estimator takes no `present`; or it gives another shape than it got, or advantages
            that are not finite.

    >>> from trainer.advantages import dr_grpo
    >>> by_prompt(dr_grpo, Tensor([1, 3, 0, 1]), ["a", "b", "b", "a"])
    tensor([ 0.0000,  1.5000, -1.5000,  0.0000], dtype=torch.float64)
    """
    if len(rewards) != len(prompts) or (lengths is not None and len(lengths) != len(rewards)):
        raise ValueError(
            f"found {len(rewards)} rewards, {len(prompts)} prompt ids"
            + ("" if lengths is None else f" and {len(lengths)} lengths")
            + ", needed as many of each"
        )
    if not torch.isfinite(rewards).all():
        raise ValueError("found a reward that is not finite\n\nhint: look at the reward function")
    values = rewards.detach().cpu().numpy().astype(np.float64)
    tokens = np.ones_like(values) if lengths is None else lengths.cpu().numpy()
    _, group = np.unique(np.asarray(prompts), return_inverse=True)
    order = np.lexsort((tokens, values, group))
    group = group[order]
    sizes = np.bincount(group)
    column = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    matrix = torch.zeros(len(sizes), int(sizes.max()), dtype=torch.float64)
    matrix[group, column] = torch.from_numpy(values[order])
    takes = inspect.signature(estimator).parameters
    extra: dict[str, Tensor] = {}
    if len(set(sizes)) > 1:
        if "present" not in takes:
            raise ValueError(
                f"{estimator.__name__}: found groups of {sizes.min()} to {sizes.max()} rollouts, "
                "needed groups of one size\n\nhint: give the estimator a keyword `present`"
            )
        extra["present"] = torch.zeros(matrix.shape, dtype=torch.bool)
        extra["present"][group, column] = True
    if lengths is not None and "lengths" in takes:
        extra["lengths"] = torch.zeros_like(matrix)
        extra["lengths"][group, column] = torch.from_numpy(tokens[order].astype(np.float64))
    advantages = estimator(matrix, **extra, **settings)
    if advantages.shape != matrix.shape:
        raise ValueError(
            f"{estimator.__name__}: found advantages of shape {tuple(advantages.shape)}, needed "
            f"{tuple(matrix.shape)}, that of the rewards"
        )
    result = torch.empty(len(values), dtype=torch.float64)
    result[torch.from_numpy(order)] = advantages[group, column].to(torch.float64)
    if not torch.isfinite(result).all():
        first = group[~torch.isfinite(result[torch.from_numpy(order)]).numpy()][0]
        told = ", ".join(f"{value:g}" for value in values[order][group == first][:8])
        raise ValueError(
            f"{estimator.__name__}: found an advantage that is not finite, of a prompt group with "
            f"rewards {told}\n\nhint: rewards of a group may all be equal"
        )
    return result
