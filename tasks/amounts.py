"""What a stage will make and what may end it early, from its settings alone."""

from conf.schema import Selection, Stage
from trainer.transitions import told

BATCH = 128
"""Prompts of the step that FastCuRL counts in."""


def amounts(stage: Stage, steps: int, selection: Selection) -> dict[str, float]:
    """What so many steps of a stage make: updates, prompts, rollouts, and at most so many tokens.

    updates = steps * (rollouts of a batch that train) / (those of a mini-batch)
    tokens <= steps * (rollouts that a step samples at most) * context_length
    steps_at_128 = prompts / 128, FastCuRL's count: two steps of 64 prompts are one

    Prompts and rollouts are those that train: how many are sampled for them, a selection finds out.
    """
    batch, mini, group = stage.batch_size, stage.mini_batch_size, stage.group_size
    prompts = steps * batch
    return {
        "steps": steps,
        "updates": steps * selection.updates(batch, mini, group),
        "prompts": prompts,
        "rollouts": prompts * selection.rows_trained(group),
        "tokens_at_most": steps * selection.most_rollouts(batch, group) * stage.context_length,
        "steps_at_128": prompts / BATCH,
    }


def endings(stage: Stage) -> tuple[str, str]:
    """What may end a stage early, and what stops it as collapsed: a sentence each, or ""."""
    transition, alarm = stage.transition, stage.alarm
    joined = " and " if transition.policy == "all" else " or "
    ends = joined.join(told(each.model_dump()) for each in transition.when)
    stops = " or ".join(told(each.model_dump()) for each in alarm.when)
    return (
        f"may end before its {stage.steps} steps, when {ends}" if ends else "",
        f"is stopped when {stops}" if stops else "",
    )
