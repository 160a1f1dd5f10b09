r"""Chains of labelled sums modulo 10: problems, reference solutions, and an exact verifier.

A problem starts from a digit and changes it step by step, each step under its own letter:

    question    7 a+2 b-3 c+1 =?
    response    =7; a+2=9; b-3=6; c+1=7;</think>\boxed{7}

Every step adds characters to the question, tokens to the response it needs, and a chance to slip:
that longer problems need longer reasoning, which FastCuRL assumes, holds here by construction.
"""

import hashlib
import random
import re
from collections.abc import Iterator
from dataclasses import dataclass
from string import ascii_lowercase

INSTRUCTION = "Let's think step by step and output the final answer within \\boxed{}."
"""Ends every prompt, as in the real sets."""

LEVELS = range(2, 17)
"""Numbers of steps that a problem may have."""

OPERANDS = (-5, -4, -3, -2, -1, 1, 2, 3, 4, 5)
"""What a step may add."""

_TEST_SHARE = 5  # one problem in so many belongs to the test split
_QUESTION = re.compile(r"(\d)((?: [a-z][+-]\d)+) =\?")
_STEP = re.compile(r" ([a-z])([+-]\d)")
_ANSWER = re.compile(r"\\boxed\{(\d)\}\s*\Z")


@dataclass(frozen=True)
class Problem:
    """A digit to start from and what each step adds to it, modulo 10.

    >>> problem = Problem(7, (2, -3, 1))
    >>> problem.question
    '7 a+2 b-3 c+1 =?'
    >>> problem.values, problem.answer
    ((9, 6, 7), 7)
    """

    start: int
    operands: tuple[int, ...]

    @property
    def level(self) -> int:
        """Number of steps."""
        return len(self.operands)

    @property
    def question(self) -> str:
        """The problem as text, without the instruction."""
        return f"{self.start}{''.join(self.steps)} =?"

    @property
    def steps(self) -> tuple[str, ...]:
        """Each step as text: its letter and what it adds."""
        return tuple(
            f" {letter}{operand:+d}"
            for letter, operand in zip(ascii_lowercase, self.operands, strict=False)
        )

    @property
    def values(self) -> tuple[int, ...]:
        """The digit after each step."""
        value, values = self.start, []
        for operand in self.operands:
            value = (value + operand) % 10
            values.append(value)
        return tuple(values)

    @property
    def answer(self) -> int:
        """The digit after the last step."""
        return self.values[-1]

    @property
    def split(self) -> str:
        """`test` for one problem in five, by the hash of its question; `train` for the others."""
        first = hashlib.sha256(self.question.encode()).digest()[0]
        return "test" if first % _TEST_SHARE == 0 else "train"


def parse(question: str) -> Problem:
    """The problem that a question states.

    Raises:
        ValueError: if it is no question of this task.
    """
    match = _QUESTION.fullmatch(question)
    steps = _STEP.findall(match[2]) if match else []
    if not match or "".join(letter for letter, _ in steps) != ascii_lowercase[: len(steps)]:
        raise ValueError(
            f"{question!r} is no problem of the lab\n\n"
            "hint: one reads like '7 a+2 b-3 c+1 =?', letters in order"
        )
    return Problem(int(match[1]), tuple(int(operand) for _, operand in steps))


def chain(problem: Problem) -> str:
    """The response that solves a problem in as few tokens as its format allows.

    >>> print(chain(Problem(7, (2, -3))))
    =7; a+2=9; b-3=6;</think>\\boxed{6}
    """
    lines = (f"{step}={value};" for step, value in zip(problem.steps, problem.values, strict=True))
    return f"={problem.start};{''.join(lines)}</think>\\boxed{{{problem.answer}}}"


def is_correct(question: str, response: str) -> bool:
    r"""Whether a response ends its thinking and then boxes the right digit, and nothing after it.

    >>> is_correct("7 a+2 =?", "=7; a+2=9;</think>\\boxed{9}")
    True
    >>> is_correct("7 a+2 =?", "=7; a+2=9; \\boxed{9}")
    False
    """
    _, closed, after = response.rpartition("</think>")
    boxed = _ANSWER.match(after.lstrip())
    return bool(closed and boxed) and int(boxed[1]) == parse(question).answer


def draw(seed: int, split: str) -> Iterator[Problem]:
    """Problems of a split without end, levels equally likely, in the seed's order.

    Of the lowest levels there are only hundreds: in a long run they come again.

    Raises:
        ValueError: for a split other than `train` and `test`.
    """
    if split not in ("train", "test"):
        raise ValueError(f"the lab has no split {split!r}\n\nhint: it has `train` and `test`")
    rng = random.Random(f"{split} {seed}")
    while True:
        level = rng.choice(LEVELS)
        problem = Problem(rng.randrange(10), tuple(rng.choices(OPERANDS, k=level)))
        while problem.split != split:
            problem = Problem(rng.randrange(10), tuple(rng.choices(OPERANDS, k=level)))
        yield problem


def different(count: int, seed: int, split: str) -> list[Problem]:
    """The first problems of `draw` that are not there yet: no two are the same."""
    chosen: dict[Problem, None] = {}
    for problem in draw(seed, split):
        chosen.setdefault(problem)
        if len(chosen) >= count:
            return list(chosen)


def problems(rows: int, seed: int, split: str) -> list[dict]:
    """Problems as rows in the column format of the real sets.

    No row stands there twice, and no problem of one split is in the other, whatever the seeds.

    Args:
        rows: How many.
        seed: Decides which.
        split: `train` or `test`.

    Returns:
        Rows with `data_source`, `prompt` (a chat of one user message that ends with the
        instruction), `ability`, `reward_model` (`ground_truth`, `style`) and `extra_info`
        (`index`, `split`, `level`: number of steps).

    Raises:
        ValueError: for an unknown split, or fewer than one row.
    """
    if rows < 1:
        raise ValueError(f"{rows} problems asked for, needed is 1 or more\n\nhint: raise `rows`")
    return [
        {
            "data_source": "stagecraft/lab",
            "prompt": [{"role": "user", "content": f"{problem.question} {INSTRUCTION}"}],
            "ability": "math",
            "reward_model": {"ground_truth": str(problem.answer), "style": "rule"},
            "extra_info": {"index": index, "split": split, "level": problem.level},
        }
        for index, problem in enumerate(different(rows, seed, split))
    ]
