"""Losses: how much a token's probability is to change, given its advantage.

Every loss takes log-probabilities and advantages [N, T] and gives the loss of each token; how they
are averaged is `method.loss_average`, the KL and entropy terms are added to the average.

Shapes: N rollouts, T tokens.
"""

import torch
from torch import Tensor

# verl clamps the log-ratio to this, so that exp is finite.
LARGEST_LOG_RATIO = 20.0


def clip(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
) -> Tensor:
    """PPO's clipped surrogate with bounds of their own below and above, and a dual clip.

        ratio = exp(log p - log p_old)
        L = max(-ratio A, -clamp(ratio, 1 - clip_low, 1 + clip_high) A)
        L = min(L, -dual_clip A)    where A < 0

    Without clip_high > clip_low it is PPO's; DAPO's clip-higher is 0.2 and 0.28.

    Args:
        log_probs: [N, T] of the policy.
        old_log_probs: [N, T] of the policy that the step began with.
        advantages: [N, T].
        mask: [N, T], not 0 at tokens of the response.
        clip_low: Clip below 1.
        clip_high: Clip above 1.
        dual_clip: Largest ratio that counts where the advantage is negative; None: no limit.

    Returns:
        [N, T] losses.

    Source:
        Schulman et al. 2017, arXiv:1707.06347, equation 7; Ye et al. 2020, arXiv:1912.09729,
        equation 5 (dual clip); Yu et al. 2025, "DAPO", arXiv:2503.14476, equation 8.

    >>> one = torch.ones(1, 1)
    >>> bounds = {"clip_low": 0.2, "clip_high": 0.28, "dual_clip": 3.0}
    >>> [round(clip(ratio.log() * one, 0 * one, sign * one, one, **bounds).item(), 2)
    ...  for sign in (1, -1) for ratio in torch.tensor([0.5, 2.0, 9.0])]
    [-0.5, -1.28, -1.28, 0.8, 2.0, 3.0]
    """
    ratio = _ratio(log_probs, old_log_probs)
    plain = -advantages * ratio
    clipped = -advantages * ratio.clamp(1 - clip_low, 1 + clip_high)
    loss = torch.maximum(plain, clipped)
    if dual_clip is not None:
        loss = torch.where(advantages < 0, torch.minimum(loss, -advantages * dual_clip), loss)
    return loss


def clip_unless_far(
    log_probs: Tensor,
    old_log_probs: Tensor,
    advantages: Tensor,
    mask: Tensor,
    *,
    clip_low: float,
    clip_high: float,
    dual_clip: float | None,
    farthest: float = 5.0,
) -> Tensor:
    """`clip`, and nothing where the mean ratio of the tokens is above `farthest`.

    Args:
        log_probs: [N, T] of the policy.
        old_log_probs: [N, T] of the policy that the step began with.
        advantages: [N, T].
        mask: [N, T], not 0 at tokens of the response.
        clip_low: Clip below 1.
        clip_high: Clip above 1.
        dual_clip: As in `clip`.
        farthest: Largest mean importance ratio that is trained on.

    Returns:
        [N, T] losses, all 0 with a gradient of 0 where the policy has gone too far.

    Source:
        AReaL v0.1, `early_stop_imp_ratio`. There the mean is over the whole mini-batch, here over
        one forward pass of it.
    """
    bounds = {"clip_low": clip_low, "clip_high": clip_high, "dual_clip": dual_clip}
    loss = clip(log_probs, old_log_probs, advantages, mask, **bounds)
    weights = mask.to(loss)
    ratio = _ratio(log_probs, old_log_probs).detach()
    average = (ratio * weights).sum() / weights.sum().clamp(min=1)
    return loss * (average <= farthest)


def _ratio(log_probs: Tensor, old_log_probs: Tensor) -> Tensor:
    return (log_probs - old_log_probs).clamp(-LARGEST_LOG_RATIO, LARGEST_LOG_RATIO).exp()


# Under the name that `method.loss` and the tables use.
LOSSES = {function.__name__: function for function in (clip, clip_unless_far)}
