r"""Where the answer stands in a response.

The text between the first `</think>` and the next is looked at; without think tags, all of it. The
answer is the last \boxed{...}; without one, and where a box is not asked for, what follows the
last "answer is", else the last "result is" or "solution is", else the last formula, else the last
number.
"""

import re
from dataclasses import dataclass
from typing import Literal

from trainer.answers import boxed_answer

OPEN, CLOSE = "<think>", "</think>"
WINDOW = 2000  # characters at the end that an answer without a box is looked for in


@dataclass(frozen=True)
class Form:
    """What a response must look like for its answer to count.

    Attributes:
        think: `required`: it must open and close its thought; `optional`: a thought that was
            opened must be closed.
        boxed: Whether only an answer in a box counts.
    """

    think: Literal["optional", "required"] = "optional"
    boxed: bool = False


ANY = Form()
DEEPSCALER = Form(think="required", boxed=True)


def after_thinking(response: str, form: Form, opened: bool) -> str | None:
    """What follows the thought; None where the think tags are not as they should be.

    Args:
        response: Text after the prompt.
        form: Whether tags are required.
        opened: Whether the prompt ended with the opening tag, as many chat templates do.
    """
    opened = opened or OPEN in response
    before, closed, rest = response.partition(CLOSE)
    if closed and (opened or form.think == "optional"):
        return rest.partition(CLOSE)[0]
    return None if opened or form.think == "required" else before


def find_answer(text: str, form: Form) -> str | None:
    r"""The answer that a text gives, None if it gives none.

    >>> find_answer(r"The answer is $\frac{1}{2}$.", ANY), find_answer("So 7 apples", DEEPSCALER)
    ('\\frac{1}{2}', None)
    """
    boxed = boxed_answer(text)
    if boxed is not None:
        return boxed
    if form.boxed or "\\boxed" in text:
        return None
    return _unboxed(text[-WINDOW:].strip())


# "The answer is correct" says none; nor is what "this solution is" of more weight than an answer.
_IS = (
    r"\b(?:[^\n.$:=]{0,60}?\b(?:is|are|be)\b"
    r"(?!\s+(?:in)?(?:correct|consistent|complete|confirmed|verified|helpful)\b)\s*:?|\s*[:=])"
)
_SAYS = (
    re.compile(rf"(?i)\banswer{_IS}|####"),
    re.compile(rf"(?i)\b(?:result|solution){_IS}"),
)
_FORMULA = re.compile(
    r"\$\$([^$]{1,500})\$\$|\$((?:\\\$|[^$\n]){1,500})\$|\\\[(.{1,500}?)\\\]|\\\((.{1,500}?)\\\)",
    re.DOTALL,
)
_JOIN = re.compile(r"\s*+(?:,\s*+(?:and|or)?|and|or)\s*")
_NUMERAL = re.compile(
    r"(?<![\w.])-?(?:\\frac\{-?\d{1,40}\}\{-?\d{1,40}\}|\d{1,3}(?:,\d{3})+(?:\.\d+)?"
    r"|(?:\d{1,40}\.)?\d{1,40}(?:/\d{1,40})?|\.\d{1,40})(?:\s*\\?%)?(?!\w)"
)


def _unboxed(text: str) -> str | None:
    for says in _SAYS:
        if said := list(says.finditer(text)):
            return _stated(text[said[-1].end() :].strip(" \n*:"))
    if text and "\n" not in text and len(text) <= 80 and len(text.split()) <= 3:
        return text.strip("*").rstrip(".")  # nothing but an answer
    return _last(text)


def _stated(text: str) -> str | None:
    """The answer at the start of a text: its first formulas, or its first sentence."""
    first = _FORMULA.search(text[:600])
    sentence = re.split(r"\.(?:\s|$)|\n", text, maxsplit=1)[0].strip(" *")
    if first and first.start() < len(sentence) + 2:
        found, end = [_inside(first)], first.end()
        while (joint := _JOIN.match(text, end)) and (more := _FORMULA.match(text, joint.end())):
            found.append(_inside(more))
            end = more.end()
        return ", ".join(found[:8])
    if len(sentence.split()) > 4:
        numbers = _NUMERAL.findall(sentence)
        return numbers[0] if numbers else sentence[:200]
    return sentence or None


def _last(text: str) -> str | None:
    formulas = list(_FORMULA.finditer(text))
    if formulas:
        return _inside(formulas[-1]).rpartition("=")[2].strip()
    numbers = _NUMERAL.findall(text)
    return numbers[-1] if numbers else None


def _inside(found: re.Match[str]) -> str:
    return next(filter(None, found.groups()), "").strip().rstrip(".,")
