"""What adapters share: checks of a field, answers as a list, a prompt from a question."""

import math
import re
from collections.abc import Callable, Mapping
from decimal import Decimal
from typing import Any

from trainer.answers import boxed_answer

LONGEST = 100_000
"""Characters of a question; the longest of the public sets has a few thousand."""

# Whole, so that neither 0.75 nor "AIME 2024" is a level; MATH has "Level ?" where it is unknown.
_LEVEL = re.compile(r"\s*(?:level\s*(?=[0-9]))?(-?[0-9]{1,20})(?:\.0+)?\s*", re.IGNORECASE)
_UNKNOWN = re.compile(r"\s*(?:level)?\s*\??\s*", re.IGNORECASE)


class UnfitError(ValueError):
    """What is wrong with a row, to be put after its place."""


def need(value: Any, column: str, fits: Callable[[Any], Any], needed: str, hint: str) -> None:
    """Raise UnfitError unless a field is what it should be."""
    if not fits(value):
        kind = "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"
        raise UnfitError(f", column {column}: found {kind}, needed {needed}\n\nhint: {hint}")


def need_question(value: Any, column: str) -> None:
    """Raise UnfitError unless a field is a text of reasonable length that says something."""
    need_text(value, column)
    hint = "write the question there, or take the row out of the source"
    need(value, column, str.strip, "a question", hint)


def need_text(value: Any, column: str) -> None:
    """Raise UnfitError unless a field is a text of reasonable length."""
    need(value, column, is_text, "text", "write each question as one text")
    if len(value) > LONGEST:
        raise UnfitError(
            f", column {column}: found a text of {len(value):,} characters, needed at most "
            f"{LONGEST:,}\n\nhint: take the row out of the source; no model reads such a prompt"
        )


def need_answer(value: Any, column: str) -> None:
    """Raise UnfitError for what can be no answer, binary and true or false among it.

    What may be one and says nothing, such as null or an empty text, is left to the gates.
    """
    if hasattr(value, "tolist"):
        value = value.tolist()
    if isinstance(value, list | tuple):
        for part in value:
            need_answer(part, column)
        return
    hint = "write answers as text, such as 'True' or '12', or leave the row out of the source"
    need(value, column, is_answer, "text, a number, or a list of such", hint)


def need_others(
    row: Mapping[str, Any], numbers: Mapping[str, Any], prefix: str, sources: tuple[str, ...]
) -> None:
    """Check the columns that may be missing: names of the set, `index` and `level`."""
    for key in sources:
        hint = f"write the name of the set in {key}, or leave it out"
        need(row.get(key), key, lambda it: it is None or is_text(it), "text", hint)
    hint = "leave it out, and rows are numbered as they come"
    need(numbers.get("index"), f"{prefix}index", is_index, "a whole number of 64 bits", hint)
    hint = "write whole numbers, such as 1 for easy and 2 for hard, and null where it is unknown"
    needed = "a whole number of 32 bits, such as 3, '3' or 'Level 3'"
    need(numbers.get("level"), f"{prefix}level", is_level, needed, hint)


def unknown(row: Mapping[str, Any], needed: str) -> UnfitError:
    """The refusal of a row whose columns are of another schema."""
    return UnfitError(
        f" has the columns {', '.join(row) or '(none)'}; needed {needed}, none of them empty\n\n"
        "hint: say which is which, as in columns={question:input,answer:target} beside its path; "
        "docs/data.md shows what a file may look like"
    )


def is_text(value: Any) -> bool:
    """Whether a value is text that can be written as UTF-8."""
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may spell one
        return False
    return True


def is_answer(value: Any) -> bool:
    """Whether a value is of a type that `answers` reads, or nothing."""
    return value is None or (
        isinstance(value, str | int | float | Decimal) and not isinstance(value, bool)
    )


def is_index(value: Any) -> bool:
    """Whether a value is nothing, or a whole number of 64 bits."""
    index = whole(value)
    return value is None or (index is not None and -(2**63) <= index < 2**63)


def is_level(value: Any) -> bool:
    """Whether a value is no level, or one of 32 bits."""
    if value is None or (isinstance(value, float) and math.isnan(value)):  # as pandas has no value
        return True
    if isinstance(value, str) and _UNKNOWN.fullmatch(value):
        return True
    found = level(value)
    return found is not None and -(2**31) <= found < 2**31


def whole(value: Any) -> int | None:
    """A whole number, also of a column that pandas made floats of; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


def level(value: Any) -> int | None:
    """Difficulty as a whole number, None where it is unknown or `is_level` refuses it.

    >>> [level(value) for value in (3, 3.0, "3", "3.0", "Level 3", "Level ?", "", None, "hard")]
    [3, 3, 3, 3, 3, None, None, None, None]
    """
    if not isinstance(value, str):
        return whole(value)
    found = _LEVEL.fullmatch(value)
    return int(found[1]) if found else None


def answers(truth: Any) -> list[str]:
    r"""The accepted answers that a ground truth holds: none, one or several, each once.

    Of a text with boxes, what a response is taken to say by them: the last, or those joined to it.

    >>> answers(142.0), answers("025 "), answers(["0.01\n", "0.02\n"]), answers(r"\(\boxed{77}\)")
    (['142'], ['025'], ['0.01', '0.02'], ['77'])
    >>> answers(r"\boxed{1}, so $\boxed{2}$ or $\boxed{3}$.")
    ['2, 3']
    """
    if hasattr(truth, "tolist"):  # numpy and torch, arrays and scalars
        truth = truth.tolist()
    if isinstance(truth, list | tuple):
        return list(dict.fromkeys(answer for part in truth for answer in answers(part)))
    if isinstance(truth, float) and math.isfinite(truth):
        return [str(int(truth)) if truth.is_integer() else repr(truth)]
    if isinstance(truth, Decimal) and truth.is_finite():  # as parquet may have them: 1.50
        text = f"{truth:f}"
        return [text.rstrip("0").rstrip(".") if "." in text else text]
    if isinstance(truth, int) and not isinstance(truth, bool):
        return [str(truth)]
    if is_text(truth):  # no answer holds half of a surrogate pair
        boxed = boxed_answer(truth)  # some published truths are whole last lines
        text = truth.strip() if boxed is None else boxed
        return [text] if text else []
    return []


def without_instruction(content: str, instruction: str) -> str:
    """The raw question: a prompt less the instruction that ends it and the one space between.

    >>> without_instruction("What is 1+1? Think.", "Think.")
    'What is 1+1?'
    """
    if not instruction or not content.endswith(instruction):
        return content
    question = content.removesuffix(instruction)
    return question[:-1] if question.endswith((" ", "\n")) else question


def fields(
    text: str,
    found: list[str],
    instruction: str,
    *,
    source: str | None = "",
    index: Any = None,
    level_: Any = None,
) -> dict[str, Any]:
    """A row in our fields, its prompt the question and the instruction as one user's turn."""
    question = without_instruction(text, instruction)
    return {
        "prompt": [{"role": "user", "content": f"{question} {instruction}".rstrip()}],
        "question": question,
        "answers": found,
        "source": source or "",
        "index": whole(index),
        "level": level(level_),
    }
