"""The reward as verl asks for it: one rollout in, one number and what is to be kept out."""

import os
from collections.abc import Callable, Mapping
from functools import lru_cache
from typing import Any

from trainer.functions import find
from trainer.reward_functions import RewardRule, of_function, reward
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
    function: str = "",
    function_settings: Mapping[str, Any] | None = None,
    **values: float,
) -> dict[str, float | str]:
    """The reward of one rollout.

    Not `async`: verl calls a plain function in a thread, so that its event loop goes on while
    answers are compared.

    Args:
        data_source: Name of the source; the same grader serves all.
        solution_str: Decoded response.
        ground_truth: Acceptable answers.
        extra_info: From our reward manager: `response_tokens`; `truncated`, whether no end token
            ended it; and `thinking`, whether the prompt opened a thought.
        context_length: Longest response of the stage, in tokens.
        think: As in `conf.schema.Reward`, and so are those that follow.
        boxed: See `think`.
        seconds: See `think`.
        memory: See `think`.
        workers: See `think`.
        reward_workers: Processes of verl that grade; they share the cores of the machine.
        function: The user's own, where there is one: it has the last word on the reward.
        function_settings: Its own.
        values: The other knobs of `conf.schema.Reward`.

    Returns:
        `score`, the reward; `acc`, correctness in {0, 1}; and `reason`, why it was decided so.
    """
    configure(_limits(seconds, memory, workers, reward_workers))
    rule = RewardRule(form=Form(think, boxed), **values)
    info = extra_info or {}
    tokens, truncated = info.get("response_tokens", 0), info.get("truncated", False)
    answers = [ground_truth] if isinstance(ground_truth, str) else list(ground_truth)
    graded = grade(
        solution_str,
        answers,
        form=rule.form,
        opened=info.get("thinking", False),
        truncated=truncated,
    )
    score = reward(graded, tokens, context_length, rule, truncated=truncated)
    if function:
        facts = {
            "reward": score,
            "correct": graded.correct,
            "reason": str(graded.reason),
            "answer": graded.answer,
            "answers": answers,
            "response": solution_str,
            "tokens": tokens,
            "context_length": context_length,
            "source": data_source,
        }
        score = of_function(_found(function), facts, function_settings or {})
    return {
        "score": score,
        "acc": float(graded.correct),
        "reason": str(graded.reason),
    }


@lru_cache
def _found(function: str) -> Callable[..., float]:
    return find(function, {})


@lru_cache
def _limits(seconds: float, memory: int, workers: int, reward_workers: int) -> Limits:
    on_machine = workers or len(os.sched_getaffinity(0))
    return Limits(seconds, memory, max(1, on_machine // reward_workers))
