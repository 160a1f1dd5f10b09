"""A loss of ours, or of the user's, under verl's registry.

The plain clipped loss is verl's own (`vanilla`). Any other is called `stagecraft` there; which one
it is stands in the environment, since verl's policy-loss settings take no keys but their own.
"""

import json
import os

from torch import Tensor
from verl.trainer.ppo.core_algos import agg_loss, register_policy_loss
from verl.utils.torch_functional import masked_mean

from trainer.backend.settings import LOSS, NO_DUAL_CLIP
from trainer.backend.surroundings import LOSS_VARIABLE
from trainer.functions import find
from trainer.losses import LOSSES


@register_policy_loss(LOSS)
def policy_loss(
    old_log_prob: Tensor,
    log_prob: Tensor,
    advantages: Tensor,
    response_mask: Tensor,
    loss_agg_mode: str = "token-mean",
    config=None,
    rollout_is_weights: Tensor | None = None,
) -> tuple[Tensor, dict[str, float]]:
    """The chosen loss, averaged as verl averages its own.

    Returns:
        The loss, and verl's two metrics of how far the policy has gone.
    """
    chosen = json.loads(os.environ[LOSS_VARIABLE])
    dual = config.clip_ratio_c
    losses = find(chosen["loss"], LOSSES)(
        log_prob,
        old_log_prob,
        advantages,
        response_mask,
        clip_low=config.clip_ratio_low,
        clip_high=config.clip_ratio_high,
        dual_clip=None if dual >= NO_DUAL_CLIP else dual,
        **chosen["settings"],
    )
    if rollout_is_weights is not None:
        losses = losses * rollout_is_weights
    loss = agg_loss(
        loss_mat=losses,
        loss_mask=response_mask,
        loss_agg_mode=loss_agg_mode,
        **config.global_batch_info,
    )
    distance = (log_prob - old_log_prob).detach()
    low, high = 1 - config.clip_ratio_low, 1 + config.clip_ratio_high
    outside = (distance.exp() < low) & (advantages < 0) | (distance.exp() > high) & (advantages > 0)
    return loss, {
        "actor/ppo_kl": masked_mean(-distance, response_mask).item(),
        "actor/pg_clipfrac": masked_mean(outside.float(), response_mask).item(),
    }
