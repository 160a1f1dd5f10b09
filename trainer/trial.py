"""Try an advantage, a loss or a reward on made-up rollouts, before a run depends on it."""

import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from trainer.advantages import by_prompt
from trainer.advantages.rows import per_token
from trainer.reward_functions import of_function


def try_advantage(
    function: Callable[..., Tensor],
    settings: Mapping[str, object],
    group_size: int,
    *,
    equal: bool,
) -> None:
    """Call an estimator as a step does, with two prompt groups.

    Args:
        function: An estimator of rewards [P, G], or of `token_rewards` and mask [N, T].
        settings: Its own settings.
        group_size: G.
        equal: Whether all rewards of a group may be equal: then the second group's are.

    Raises:
        ValueError: it raises, or gives another shape than asked for, or a number that is not
            finite.
    """
    rewards = torch.arange(2 * group_size).remainder(2).double()
    if equal:
        rewards[group_size:] = 1.0
    mask = torch.ones(len(rewards), 3, dtype=torch.float64)
    of_tokens = torch.nn.functional.pad(rewards[:, None], (2, 0))
    prompts = [index // group_size for index in range(len(rewards))]

    def call() -> Tensor:
        if per_token(function):
            return function(of_tokens, mask, **settings)
        return by_prompt(function, rewards, prompts, lengths=mask.sum(-1), **settings)

    wanted = mask.shape if per_token(function) else rewards.shape
    _check(function, f"rewards of 2 prompts x {group_size} rollouts", call, tuple(wanted))


def try_loss(function: Callable[..., Tensor], settings: Mapping[str, object]) -> None:
    """Call a loss as an update does, with two rollouts of three tokens.

    Args:
        function: As those of `trainer.losses`.
        settings: Its own settings.

    Raises:
        ValueError: as `try_advantage`; or its losses have no gradient.
    """
    old = torch.full((2, 3), -1.0)
    log_probs = (old + torch.tensor([[0.5], [-0.5]])).requires_grad_()
    advantages = torch.tensor([[1.0], [-1.0]]).expand(2, 3)
    bounds = {"clip_low": 0.2, "clip_high": 0.2, "dual_clip": None}

    def call() -> Tensor:
        return function(log_probs, old, advantages, torch.ones(2, 3), **bounds, **settings)

    made = _check(function, "2 rollouts of 3 tokens", call, (2, 3))
    if not made.requires_grad:
        raise ValueError(
            f"{_name(function)}: found losses without a gradient, needed those that come of "
            "log_probs\n\nhint: do not detach log_probs"
        )


def try_reward(function: Callable[..., float], settings: Mapping[str, object]) -> None:
    """Call a reward as grading does: with a right rollout, and with one cut off, without an answer.

    Args:
        function: See `trainer.reward_functions.of_function`.
        settings: Its own settings.

    Raises:
        ValueError: it raises, or returns no finite number.
    """
    right = {
        "reward": 1.0,
        "correct": True,
        "reason": "equal as text",
        "answer": "2",
        "answers": ["2"],
        "response": r"1+1=2</think>\boxed{2}",
        "tokens": 20,
        "context_length": 64,
        "source": "made up",
    }
    cut_off = {"reward": 0.0, "correct": False, "reason": "truncated", "answer": None, "tokens": 64}
    for facts in (right, {**right, **cut_off, "response": "1+1"}):
        _called(
            function,
            f"a rollout with reason {facts['reason']!r}",
            lambda facts=facts: of_function(function, facts, settings),
        )


def _check(
    function: Callable, given: str, call: Callable[[], Tensor], wanted: tuple[int, ...]
) -> Tensor:
    made = _called(function, given, call)
    found = tuple(getattr(made, "shape", ())) if isinstance(made, Tensor) else type(made).__name__
    if found != wanted:
        raise ValueError(
            f"{_name(function)}, given {given}: found {found}, needed a tensor of shape {wanted}"
            "\n\nhint: it is called as docs/method.md says"
        )
    if not torch.isfinite(made).all():
        raise ValueError(
            f"{_name(function)}, given {given}: found a number that is not finite\n\n"
            "hint: rewards of a group may all be equal, and then their deviation is 0"
        )
    return made


def _called(function: Callable, given: str, call: Callable[[], Any]) -> Any:
    try:
        return call()
    except Exception as error:  # the user's own code: whatever it raises is told
        fact = str(error).partition("\n\nhint: ")[0]
        raise ValueError(
            f"{_name(function)} fails, given {given}: {type(error).__name__}: {fact}"
            f"{_place(error)}\n\nhint: it is called as docs/method.md says"
        ) from error


def _name(function: Callable) -> str:
    return getattr(function, "__name__", "the function")


def _place(error: Exception) -> str:
    """File and line that raised, where that is not ours."""
    ours = Path(__file__).parent
    frames = traceback.extract_tb(error.__traceback__)
    last = next((one for one in frames[::-1] if ours not in Path(one.filename).parents), None)
    return f" ({Path(last.filename).name}, line {last.lineno})" if last else ""
