"""The reward as verl asks for it: one rollout in, one number and what is to be kept out."""

import os
from functools import lru_cache
from typing import Any

from trainer.reward_functions import RewardRule, reward
from trainer.rewards import Form, Limits, configure, grade


def compute_score(
    data_source: str,
    solution_str: str,
    ground_truth: list[str] | str,
    extra_info: dict[str, Any] | None = None,
    *,
    context_length: int,
    think: str,
    boxed: bool,
    seconds: float,
    memory: int,
    workers: int,
    reward_workers: int,
    **values: float,
) -> dict[str, float | str]:
    """The reward of one rollout.

    Not `async`: verl calls a plain function in a thread, so that its event loop goes on while
    answers are compared.

    Args:
        data_source: Name of the source; the same grader serves all.
        solution_str: Decoded response.
        ground_truth: Acceptable answers.
        extra_info: From our reward manager: `response_tokens`, and `thinking`, whether the prompt
            opened a thought.
        context_length: Longest response of the stage, in tokens.
        think: As in `conf.schema.Reward`, and so are those that follow.
        boxed: See `think`.
        seconds: See `think`.
        memory: See `think`.
        workers: See `think`.
        reward_workers: Processes of verl that grade; they share the cores of the machine.
        values: The other knobs of `conf.schema.Reward`.

    Returns:
        `score`, the reward; `acc`, correctness in {0, 1}; and `reason`, why it was decided so.
    """
    configure(_limits(seconds, memory, workers, reward_workers))
    rule = RewardRule(form=Form(think, boxed), **values)
    info = extra_info or {}
    tokens = info.get("response_tokens", 0)
    graded = grade(
        solution_str,
        ground_truth if isinstance(ground_truth, str) else list(ground_truth),
        form=rule.form,
        opened=info.get("thinking", False),
        truncated=tokens >= context_length,
    )
    return {
        "score": reward(graded, tokens, context_length, rule),
        "acc": float(graded.correct),
        "reason": str(graded.reason),
    }


@lru_cache
def _limits(seconds: float, memory: int, workers: int, reward_workers: int) -> Limits:
    on_machine = workers or len(os.sched_getaffinity(0))
    return Limits(seconds, memory, max(1, on_machine // reward_workers))
