"""What a graded rollout is worth. Correctness stays a column of its own, whatever the reward.

    reward = right | wrong | malformed  +  soft overlong penalty

The published rewards are settings of this one: 1/0, DeepScaleR's and FastCuRL's 1/0 with both
think tags and a box required, AReaL's ±5 where what was cut off is wrong, DAPO's ±1 with the
penalty, and a third value for responses that are wrong in form. What none of them says, a function
of the user's does.
"""

import inspect
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from trainer.rewards import DEEPSCALER, Form, Grade

GIVEN = (
    "reward",
    "correct",
    "reason",
    "answer",
    "answers",
    "response",
    "tokens",
    "context_length",
    "source",
)
"""Arguments that a function of the user's may ask for; all others are settings of its own."""


@dataclass(frozen=True)
class RewardRule:
    """How grades become rewards.

    Attributes:
        right: Reward of a right response.
        wrong: Reward of a wrong one.
        malformed: Reward of one without an answer in the form asked for.
        must_end: Whether one that was cut off is worth `malformed` even if it is right.
        form: What a response must look like.
        overlong_share: Share of the context, its end, over which the penalty grows; 0: none.
        overlong_penalty: What a response that fills the context loses.
    """

    right: float = 1.0
    wrong: float = 0.0
    malformed: float = 0.0
    must_end: bool = False
    form: Form = DEEPSCALER
    overlong_share: float = 0.0
    overlong_penalty: float = 1.0


def reward(
    grade: Grade, tokens: int, context_length: int, rule: RewardRule, *, truncated: bool = False
) -> float:
    """The reward of one rollout.

    Args:
        grade: The grader's verdict.
        tokens: Length of the response.
        context_length: Longest response of the stage, in tokens.
        rule: What is worth what.
        truncated: Whether it was cut off.
    """
    if truncated and rule.must_end:
        value = rule.malformed
    elif grade.correct:
        value = rule.right
    else:
        value = rule.wrong if grade.reason.well_formed else rule.malformed
    if not rule.overlong_share:
        return value
    penalty = soft_overlong(tokens, context_length, rule.overlong_share * context_length)
    return value + rule.overlong_penalty * penalty


def soft_overlong(tokens: int, longest: int, buffer: float) -> float:
    """DAPO's length penalty, in [-1, 0].

        0                               |y| <= L_max - L_cache
        ((L_max - L_cache) - |y|) / L_cache     up to L_max
        -1                              beyond

    Args:
        tokens: |y|, length of the response.
        longest: L_max, tokens at which the response is cut off.
        buffer: L_cache, tokens over which the penalty grows, more than 0.

    Source:
        Yu et al. 2025, "DAPO", arXiv:2503.14476, equation 13.

    >>> [soft_overlong(tokens, 100, 20) for tokens in (80, 90, 100, 120)]
    [0.0, -0.5, -1.0, -1.0]
    """
    return max(-1.0, min(0.0, (longest - buffer - tokens) / buffer))


def of_function(
    function: Callable[..., float], given: Mapping[str, Any], settings: Mapping[str, Any]
) -> float:
    """The reward that a function of the user's gives a rollout.

    Args:
        function: Theirs.
        given: What it may ask for, see `GIVEN`.
        settings: Its own settings.

    Raises:
        ValueError: it returned no finite number.

    >>> of_function(lambda correct, bonus: correct + bonus, {"correct": True}, {"bonus": 0.5})
    1.5
    """
    value = function(
        **{key: given[key] for key in _arguments(function) if key in given}, **settings
    )
    try:
        number = float(value)
    except (TypeError, ValueError):
        number = math.nan
    if not math.isfinite(number):
        raise ValueError(
            f"reward.function returned {value!r:.60}, needed a finite number\n\n"
            "hint: return 0.0 for what is worth nothing"
        )
    return number


@lru_cache
def _arguments(function: Callable) -> tuple[str, ...]:
    return tuple(inspect.signature(function).parameters)
