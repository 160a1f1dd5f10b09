"""Steps of a single update: the old log-probabilities are those of the update itself.

verl computes the log-probabilities that a step begins with in a forward pass of their own. A step
that makes one update, of all its rollouts, has them in the update's own forward pass, by the same
weights: the ratio is 1, its gradient that of the log-probability. So a step does without the
first pass, a fifth of its time where the model is small, and entropy and the difference to the
engine's probabilities are told by the update. verl's earlier workers did the same.

Rollouts of an older policy keep the log-probabilities that the engine gave when it sampled them, as
in other steps (`rows.correct_for_age`).
"""

from collections.abc import Callable
from typing import Any

import torch
from omegaconf import DictConfig
from tensordict import TensorDict
from torch import Tensor
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.core_algos import agg_loss
from verl.utils import tensordict_utils as tu
from verl.utils.metric import AggregationType, Metric
from verl.workers.utils.padding import no_padding_2_padding

from trainer.backend import engine
from trainer.backend.group_store import POLICY

SINGLE = "stagecraft_single_update"  # in the batch: the present policy, if the step is such a one
LARGEST, SUM, NATS, COUNT = (
    f"actor/engine_difference_{name}" for name in ("max", "sum", "nats", "count")
)


def is_single(config: DictConfig, batch: KVBatchMeta) -> bool:
    """Whether a step may take its old log-probabilities from its update.

    Not so if it makes several updates, if something needs them earlier (a KL term in the reward, an
    entropy term whose gradient verl computes with the loss), or if some rollouts are padding.

    Args:
        config: verl's.
        batch: The rollouts of the step, all of which train.
    """
    actor = config.actor_rollout_ref.actor
    return (
        actor.ppo_epochs == 1
        and len(batch.keys) == actor.ppo_mini_batch_size * config.actor_rollout_ref.rollout.n
        and not actor.entropy_coeff
        and not config.algorithm.use_kl_in_reward
        and not any(tag.get("is_padding", False) for tag in batch.tags)
    )


def loss(
    usual: Callable[..., tuple[Tensor, dict[str, Any]]],
    *,
    model_output: dict[str, Tensor],
    data: TensorDict,
    dp_group: Any = None,
) -> tuple[Tensor, dict[str, Any]]:
    """verl's loss; in a step of a single update with the log-probabilities that it is made of.

    Args:
        usual: verl's, with its `config`.
        model_output: `log_probs` and, in such a step, `entropy`, as nested tensors.
        data: Rollouts; `rollout_log_probs` are the engine's, `policy` [B] tells their age.
        dp_group: Ranks that share the work.

    Returns:
        The loss, and metrics; in such a step also entropy, and over tokens of the present policy
        their number, and of the differences of probabilities between engine and trainer the largest
        and the sum; the sum, too, of those of log-probabilities.
    """
    policy = tu.get_non_tensor_data(data, key=SINGLE, default=None)
    if policy is None:
        return usual(model_output=model_output, data=data, dp_group=dp_group)
    entropy = no_padding_2_padding(model_output.pop("entropy"), data).detach()
    own = no_padding_2_padding(model_output["log_probs"], data).detach()
    mask = data["response_mask"].to_padded_tensor(0)
    engines = data["rollout_log_probs"].to_padded_tensor(0.0)
    fresh = (data[POLICY] == policy).reshape(-1, 1)
    compared = mask * fresh
    difference = (own.exp() - engines.exp()).abs() * compared
    data["old_log_probs"] = torch.where(fresh, own, engines)
    value, metrics = usual(model_output=model_output, data=data, dp_group=dp_group)
    config = usual.keywords["config"]
    metrics["actor/entropy"] = Metric(
        AggregationType.SUM,
        agg_loss(entropy, mask.bool(), config.loss_agg_mode, **config.global_batch_info),
    )
    metrics[LARGEST] = Metric(AggregationType.MAX, difference.max())
    metrics[SUM] = Metric(AggregationType.SUM, difference.sum())
    nats = torch.where(compared.bool(), engines.float() - own.float(), 0.0)
    metrics[NATS] = Metric(AggregationType.SUM, nats.sum())
    metrics[COUNT] = Metric(AggregationType.SUM, compared.sum().float())
    return value, metrics


def told(metrics: dict[str, float]) -> bool:
    """Give the differences the names that they have in other steps; False if there are none."""
    largest, total, nats, count = (metrics.pop(name) for name in (LARGEST, SUM, NATS, COUNT))
    if count:
        metrics[engine.LARGEST] = largest
        metrics[engine.MEAN] = total / count
        metrics[engine.KL] = nats / count
    return bool(count)
