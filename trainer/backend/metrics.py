"""verl's metric names to ours, and what verl does not count.

verl's names change between releases and mean several things; readers of `metrics.jsonl`, MLflow
and the report see only the names given here.
"""

from collections.abc import Mapping, Sequence

import numpy as np

OURS = {
    "actor/entropy": "entropy",
    "actor/grad_norm": "grad_norm",
    "actor/lr": "learning_rate",
    "actor/pg_loss": "loss",
    "actor/kl_loss": "kl",
    "actor/pg_clipfrac": "clipped_share",
    "actor/ppo_kl": "kl_to_old",
    "training/rollout_probs_diff_max": "probability_difference/max",
    "training/rollout_probs_diff_mean": "probability_difference/mean",
    "training/rollout_kl": "kl_to_engine",
    "timing_s/step": "seconds/step",
    "timing_s/gen": "seconds/generate",
    "timing_s/old_log_prob": "seconds/old_log_prob",
    "timing_s/ref": "seconds/reference",
    "timing_s/adv": "seconds/advantage",
    "timing_s/update_actor": "seconds/update",
    "timing_s/update_weights": "seconds/weights",
    "timing_s/save_checkpoint": "seconds/save",
    "actor/perf/max_memory_allocated_gb": "memory_gib",
}


def translated(metrics: Mapping[str, float]) -> dict[str, float]:
    """The metrics that we know, under our names. Unknown ones are left out."""
    return {ours: float(metrics[name]) for name, ours in OURS.items() if name in metrics}


def rollout_metrics(
    rewards: Sequence[float],
    correct: Sequence[float],
    prompt_lengths: Sequence[int],
    lengths: Sequence[int],
    truncated: Sequence[bool],
) -> dict[str, float]:
    """What a batch of B rollouts was like, counted from the rollouts themselves.

    How many there are, and of which groups, the ledger knows (`trainer.selection.ledger`).

    Args:
        rewards: [B] reward, as shaped for training.
        correct: [B] 1 where the verifier found the answer right, else 0.
        prompt_lengths: [B] tokens of prompt.
        lengths: [B] tokens of response.
        truncated: [B] whether the response was cut off at the context length.

    Returns:
        Means, largest values, and a share in [0, 1]. Lengths of right and of wrong responses only
        where there are any.
    """
    rewards = np.asarray(rewards, dtype=float)
    lengths = np.asarray(lengths, dtype=float)
    correct = np.asarray(correct, dtype=float)
    result = {
        "reward/mean": rewards.mean(),
        "reward/std": rewards.std(),
        "correct/mean": correct.mean(),
        "prompt_length/mean": np.mean(prompt_lengths),
        "prompt_length/max": max(prompt_lengths),
        "response_length/mean": lengths.mean(),
        "response_length/max": lengths.max(),
        "truncated_share": np.mean(truncated),
    }
    for name, chosen in (("correct", correct > 0), ("wrong", correct <= 0)):
        if chosen.any():
            result[f"response_length/{name}"] = lengths[chosen].mean()
    return {name: float(value) for name, value in result.items()}


class ProbabilityMismatchError(RuntimeError):
    """Rollout and trainer disagree on how likely the sampled tokens were."""


def check_probabilities(difference: float, tolerance: float, dtype: str, step: int) -> None:
    """Refuse to train on rollouts of another policy than the one being trained.

    Args:
        difference: Largest |p_rollout - p_trainer| over the tokens of the step.
        tolerance: Largest difference allowed.
        dtype: Type that both compute in. Only float32 is held to the tolerance: bfloat16 differs
            by more from rounding alone, so there the difference is recorded and not judged.
        step: For the message.

    Raises:
        ProbabilityMismatchError: float32, and the difference is larger or not a number.
    """
    if dtype != "float32" or difference <= tolerance:
        return
    raise ProbabilityMismatchError(
        f"step {step}: rollout and trainer probabilities differ by up to {difference:.3g}, "
        f"more than {tolerance:.3g}\n\n"
        "hint: likely causes are weights that did not reach the rollout engine, a model whose "
        "vocabulary is larger than its tokenizer's (ids that one side masks and the other does "
        "not), another temperature or dtype on one side, or padding that shifts positions; "
        "`hardware.probability_tolerance` is the bound"
    )


def check_engine(kl: float, tolerance: float, step: int) -> None:
    """Refuse to train on rollouts of an engine whose weights are far from the trainer's.

    In bfloat16, too, where no single probability says so. Weights that are some updates old are
    near, and not found by it.

    Args:
        kl: KL(engine || trainer), nats per token, estimated on the tokens of the step. Far below
            0, which a KL is not, the engine tells other probabilities than it draws by.
        tolerance: Largest size allowed.
        step: For the message.

    Raises:
        ProbabilityMismatchError: it is more, or not a number.
    """
    if abs(kl) <= tolerance:
        return
    raise ProbabilityMismatchError(
        f"step {step}: the rollouts are not of the policy that is trained: log-probabilities of "
        f"their tokens differ by {kl:.3g} nats on average, needed at most {tolerance:.3g}\n\n"
        "hint: likely weights did not reach the rollout engine: what it says of them stands in "
        "trainer.log. Or it has another temperature. `hardware.kl_tolerance` is the bound"
    )


class RolloutsLostError(RuntimeError):
    """Rollouts that a step was to train on are not in the transfer queue any more."""


def check_rollouts(found: int, wanted: int, step: int) -> None:
    """Refuse a step that has fewer rollouts than were chosen for it.

    Those that fail are no such case: their group is replaced before the step is whole.

    Raises:
        RolloutsLostError: some are missing.
    """
    if found != wanted:
        raise RolloutsLostError(
            f"step {step}: {wanted - found} of {wanted} rollouts are lost\n\n"
            "hint: run the stage again, it goes on from its last checkpoint; a storage unit of the "
            "transfer queue that died says so in trainer.log"
        )


def check_finite(metrics: Mapping[str, float], step: int) -> None:
    """Refuse a step whose loss, gradient norm, entropy or mean reward is no number.

    Raises:
        FloatingPointError: one of them is NaN or infinite.
    """
    bad = {
        name: metrics[name]
        for name in ("loss", "grad_norm", "entropy", "reward/mean")
        if not np.isfinite(metrics.get(name, 0))
    }
    if bad:
        raise FloatingPointError(
            f"step {step}: {', '.join(f'{name} is {value}' for name, value in bad.items())}\n\n"
            "hint: lower stages.N.learning_rate or method.gradient_clip; the next run goes on from "
            "the checkpoint before"
        )


def in_order_of_draws(
    uids: Sequence[str], ids: Sequence[str], correct: Sequence[float]
) -> dict[str, list]:
    """The prompts of a step in the order they were drawn in, and each one's share of right answers.

    Correctness and not reward: a reward may be shaped.

    Args:
        uids: Of each rollout, its group: they sort in the order of the draws.
        ids: Of each rollout, its prompt.
        correct: Of each rollout, 1 if it is right.
    """
    groups: dict[str, list[float]] = {}
    for uid, right in zip(uids, correct, strict=True):
        groups.setdefault(uid, []).append(right)
    named = dict(zip(uids, ids, strict=True))
    return {
        "prompts": [named[uid] for uid in sorted(groups)],
        "pass_rates": [sum(groups[uid]) / len(groups[uid]) for uid in sorted(groups)],
    }
