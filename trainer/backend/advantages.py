"""Our advantage estimators under verl's registry: `stagecraft_grpo`, `stagecraft_rloo`, …

verl computes advantages in the process of its task runner, which imports this. Rows come in any
order, since verl balances lengths before: groups are told by verl's `uid`.
"""

from collections.abc import Callable
from itertools import compress

import torch
from torch import Tensor
from verl.trainer.ppo.core_algos import register_adv_est

from trainer.advantages import ESTIMATORS, PER_TOKEN, by_prompt
from trainer.advantages.rows import per_token
from trainer.functions import find


def register(config) -> None:
    """Make the estimator that verl's `algorithm` settings name known to verl.

    Args:
        config: verl's `algorithm` node, with our `stagecraft.estimator` and `stagecraft.settings`.
    """
    name = config.stagecraft.estimator
    settings = dict(config.stagecraft.settings)
    register_adv_est(config.adv_estimator)(for_verl(estimator(name), settings))


def estimator(name: str) -> Callable[..., Tensor]:
    """The estimator of that name, in its form for tokens where it has one."""
    return find(name, {**ESTIMATORS, **PER_TOKEN})


def for_verl(function: Callable[..., Tensor], settings: dict) -> Callable:
    """An estimator as verl calls it.

    A rollout's reward is the sum over its tokens, so a KL penalty in the reward counts. The
    advantage of a rollout stands on each of its tokens. Rows without a token are padding: they get
    0, and count as nobody's.

    Args:
        function: An estimator of rewards [P, G], or of `token_rewards` and mask [N, T].
        settings: Its own settings.
    """

    def advantage(
        token_level_rewards: Tensor, response_mask: Tensor, index, **_: object
    ) -> tuple[Tensor, Tensor]:
        with torch.no_grad():
            mask = response_mask.to(token_level_rewards)
            # A step that is short of prompts is filled up with rows of no token, as a prompt more.
            real = response_mask.sum(-1) > 0
            rewards, tokens = token_level_rewards[real], response_mask[real]
            if per_token(function):
                found = function(rewards.double(), tokens.double(), **settings)
            else:
                prompts = list(compress(index, real.tolist()))
                of_rollouts = by_prompt(
                    function, rewards.sum(-1), prompts, lengths=tokens.sum(-1), **settings
                )
                found = of_rollouts.to(mask).unsqueeze(-1)
            result = torch.zeros_like(mask)
            result[real] = found.to(mask) * mask[real]
        return result, result

    return advantage
