"""How far the engine that samples is from the policy that is trained."""

import torch
from torch import Tensor
from verl import DataProto

LARGEST, MEAN, KL = (
    "training/rollout_probs_diff_max",
    "training/rollout_probs_diff_mean",
    "training/rollout_kl",
)


def distance(trainers: Tensor, engines: Tensor) -> dict[str, float]:
    """Differences over N sampled tokens, under verl's names, and one that verl does not tell.

        KL(engine || trainer) = E[log p_engine - log p_trainer],   tokens drawn from p_engine

    Args:
        trainers: [N] log-probabilities by the weights that are trained.
        engines: [N] by the engine, of the same tokens.

    Returns:
        Of |p_engine - p_trainer| the largest and the mean; and the KL in nats per token. Zeros
        where there is no token.
    """
    if not len(trainers):
        trainers = engines = torch.zeros(1)
    apart = (trainers.exp() - engines.exp()).abs()
    return {
        LARGEST: apart.max().item(),
        MEAN: apart.mean().item(),
        KL: (engines - trainers).mean().item(),
    }


def of_batch(data: DataProto) -> dict[str, float]:
    """`distance` over the responses of a batch."""
    batch = data.batch
    sampled = batch["response_mask"].bool()
    return distance(batch["old_log_probs"][sampled], batch["rollout_log_probs"][sampled])


def tell_distance() -> None:
    """Have verl's trainer tell `distance` where it fetches both, in place of what it tells else."""
    from verl.trainer.ppo.v1 import trainer_base  # which the trainer's workers do without

    trainer_base.calculate_debug_metrics = of_batch
