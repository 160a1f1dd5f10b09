r"""Is a response right? The grader of mathematical answers.

Cheap decisions come first: equal text, equal numbers, lists compared element by element. Only
what they leave open goes to math-verify, in processes that are killed when their time is up. The
conventions are in `trainer.grading.cascade`.
"""

import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from enum import StrEnum
from functools import lru_cache

from trainer.answers import LONGEST_ANSWER, boxed_at, normalized, plain
from trainer.grading import pool
from trainer.grading.cascade import equal
from trainer.grading.extract import ANY, DEEPSCALER, Form, after_thinking, find_answer
from trainer.grading.pool import Limits, Outcome, configure

__all__ = [
    "ANY",
    "DEEPSCALER",
    "Form",
    "Grade",
    "Limits",
    "Reason",
    "answer_is_parsable",
    "configure",
    "grade",
    "grade_many",
]

REMEMBERED = 16_384  # pairs of answer and truths; RL repeats them


class Reason(StrEnum):
    """Why a response was graded as it was."""

    SAME_TEXT = "equal as text"
    SAME_VALUE = "equal by value"
    WRONG = "not equal"
    NO_ANSWER = "no answer found"
    NO_THINK_TAG = "missing think tags"
    UNPARSABLE = "unparsable"
    TIMEOUT = "timed out"
    OUT_OF_MEMORY = "out of memory"
    LOST = "grading process lost"
    TRUNCATED = "truncated"

    @property
    def correct(self) -> bool:
        """Whether it says that the answer is right."""
        return self in (Reason.SAME_TEXT, Reason.SAME_VALUE)

    @property
    def well_formed(self) -> bool:
        """Whether the response gave an answer in the form that was asked for."""
        return self not in (Reason.NO_ANSWER, Reason.NO_THINK_TAG, Reason.TRUNCATED)

    @property
    def undecided(self) -> bool:
        """Whether the answer counts as wrong only because comparing it was given up."""
        return self in (Reason.TIMEOUT, Reason.OUT_OF_MEMORY, Reason.LOST)


@dataclass(frozen=True)
class Grade:
    """The verdict on a response.

    Attributes:
        correct: Whether the answer is one of the accepted ones.
        reason: Why.
        answer: The answer that was found, None where there was none.
        seconds: What grading it took, without the start of the grading processes.
    """

    correct: bool
    reason: Reason
    answer: str | None
    seconds: float = 0.0


def grade(
    response: str,
    answers: Sequence[str] | str,
    *,
    form: Form = ANY,
    opened: bool = False,
    truncated: bool = False,
) -> Grade:
    r"""Grade one response. Whatever it says, this neither raises nor hangs nor executes it.

    Args:
        response: The text after the prompt, without special end tokens.
        answers: Accepted answers; any of them will do.
        form: What the response must look like: `ANY`, or `DEEPSCALER` (both think tags, and a box
            after them).
        opened: Whether the prompt ended with the opening think tag, as many chat templates do.
        truncated: Whether the response was cut off. Then only a box is an answer, and where there
            is none the reason is `truncated`.

    Raises:
        RuntimeError: when no grading process can be started on this machine.

    Source:
        The form and its tags: DeepScaleR's reward (`math_reward.py`), which FastCuRL uses too. We
        differ: unreduced fractions count as numbers, and math-verify replaces sympy's own parser.

    >>> grade(r"1+1=2</think>\boxed{2}", ["2"]).reason
    <Reason.SAME_TEXT: 'equal as text'>
    """
    one = _read(response, answers, form, opened, truncated)
    if isinstance(one, Grade):
        return one
    return _finished(one, *_timed(one.answer, one.truths))


def grade_many(
    responses: Sequence[str],
    answers: Sequence[Sequence[str] | str],
    *,
    form: Form = ANY,
    opened: bool = False,
    truncated: Sequence[bool] | None = None,
) -> list[Grade]:
    """Grade each response by the accepted answers at its position, on all cores.

    Args:
        responses: Texts after the prompts.
        answers: For each, its accepted answers.
        form: As in `grade`.
        opened: As in `grade`, for all of them.
        truncated: For each, whether it was cut off; none of them where left out.

    Raises:
        ValueError: when there are not as many responses as lists of answers.
        RuntimeError: when no grading process can be started on this machine.
    """
    cut = [False] * len(responses) if truncated is None else truncated
    if not len(responses) == len(answers) == len(cut):
        raise ValueError(
            f"found {len(responses)} responses and {len(answers)} lists of answers, needed as "
            "many of each\n\nhint: repeat the answers for every sample of a problem"
        )
    # First what costs nothing; then each pair that is left, once, by all workers together.
    read = [
        _read(response, accepted, form, opened, is_cut)
        for response, accepted, is_cut in zip(responses, answers, cut, strict=True)
    ]
    left = list(dict.fromkeys((o.answer, o.truths) for o in read if isinstance(o, _Open)))
    if not left:
        return read
    with ThreadPoolExecutor(min(len(left), pool.shared().limits.size())) as threads:
        taken = dict(zip(left, threads.map(lambda pair: _timed(*pair), left), strict=True))
    return [
        _finished(one, *taken[one.answer, one.truths]) if isinstance(one, _Open) else one
        for one in read
    ]


def answer_is_parsable(answer: str) -> bool:
    r"""Whether a response could ever be graded right against this answer.

    That is so when it can stand in \boxed{...}: it says something, its braces pair up, and it is
    not longer than what is compared.

    >>> [answer_is_parsable(answer) for answer in (r"\frac{1}{2}", r"\frac{1}{2", "$ $")]
    [True, False, False]
    """
    return (
        bool(normalized(answer))
        and len(answer) <= LONGEST_ANSWER
        and boxed_at(f"\\boxed{{{answer}}}", 0)[0] == answer.strip()
    )


@dataclass(frozen=True)
class _Open:
    """A response whose answer is not decided by text and numbers, and the truths left."""

    answer: str
    truths: tuple[str, ...]
    seconds: float


def _read(
    response: str, answers: Sequence[str] | str, form: Form, opened: bool, truncated: bool
) -> Grade | _Open:
    """All that can be said of a response in this process."""
    started = time.perf_counter()
    found = _found(response, form, opened, truncated)
    if isinstance(found, Reason):
        return Grade(False, found, None, time.perf_counter() - started)
    truths = (answers,) if isinstance(answers, str) else tuple(map(str, answers))
    decided = _cheap(found, truths)
    seconds = time.perf_counter() - started
    if isinstance(decided, Reason):
        return Grade(decided.correct, decided, found, seconds)
    return _Open(found, decided, seconds)


def _finished(one: _Open, reason: Reason, seconds: float) -> Grade:
    return Grade(reason.correct, reason, one.answer, one.seconds + seconds)


def _found(response: str, form: Form, opened: bool, truncated: bool) -> str | Reason:
    """The answer of a response, or why it has none."""
    text = after_thinking(response, form, opened)
    if text is None:
        return Reason.TRUNCATED if truncated else Reason.NO_THINK_TAG
    answer = find_answer(text, Form(form.think, form.boxed or truncated))
    if answer is None or not normalized(answer[: 2 * LONGEST_ANSWER]):
        return Reason.TRUNCATED if truncated else Reason.NO_ANSWER
    return answer


@lru_cache(REMEMBERED)
def _cheap(answer: str, truths: tuple[str, ...]) -> Reason | tuple[str, ...]:
    """What text and numbers decide, else the truths that they leave open."""
    if len(answer) > LONGEST_ANSWER:
        return Reason.UNPARSABLE
    left = []
    for truth in truths:
        decided, as_text = equal(answer, truth)
        if decided:
            return Reason.SAME_TEXT if as_text else Reason.SAME_VALUE
        if decided is None and len(truth) <= LONGEST_ANSWER:
            left.append(truth)
    return tuple(left) or Reason.WRONG


class _LostError(Exception):
    """Says that a comparison came to nothing, so that this is not remembered."""


_REASONS = {
    Outcome.EQUAL: Reason.SAME_VALUE,
    Outcome.DIFFERENT: Reason.WRONG,
    Outcome.UNPARSABLE: Reason.UNPARSABLE,
    Outcome.TIMEOUT: Reason.TIMEOUT,
    Outcome.OUT_OF_MEMORY: Reason.OUT_OF_MEMORY,
}


@lru_cache(REMEMBERED)
def _compared(answer: str, truths: tuple[str, ...]) -> Reason:
    # Time-outs are remembered too: an answer that hangs is often given again in its group.
    outcome = pool.shared().compare(plain(answer), [plain(truth) for truth in truths])
    if outcome is Outcome.LOST:
        raise _LostError
    return _REASONS[outcome]


def _timed(answer: str, truths: tuple[str, ...]) -> tuple[Reason, float]:
    pool.shared().warm()
    started = time.perf_counter()
    try:
        reason = _compared(answer, truths)
    except _LostError:
        reason = Reason.LOST
    return reason, time.perf_counter() - started
