"""Knights and knaves (K-and-K/knights-and-knaves, Xie et al. 2024, arXiv:2410.23123).

    quiz            the puzzle, which ends by asking who is which
    names           of its people
    solution        for each, whether they tell the truth
    knight_knave    {knight: what those who do are called, knave: and the others}, with more
    solution_text   "Ann is a knight, and Bob is a knave."
    index           counted anew in each file, so rows are numbered as they come

Accepted is "Ann is a knight, Bob is a knave" in any order, the published sentence, and the same
with colons. `level` is how many people there are.
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import fields, is_text, need, need_question, unknown

COLUMNS = frozenset({"quiz", "names", "solution", "knight_knave", "solution_text"})
WORDS = {True: "knight", False: "knave"}


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has a quiz, names and a solution."""
    return row.keys() >= {"quiz", "names", "solution"}


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not fits(row):
        raise unknown(row, "quiz, names and solution")
    need_question(row["quiz"], "quiz")
    names, words = row["names"], row.get("knight_knave")
    hint = "names are [Ann, Bob], solution says who tells the truth: [true, false]"
    need(names, "names", lambda it: _all(it, is_text) and it, "a list of names", hint)
    truth = f"a list of {len(names)} truth values"
    need(row["solution"], "solution", lambda it: _all(it, _is_bool), truth, hint)
    need(row["solution"], "solution", lambda it: len(it) == len(names), truth, hint)
    hint = "knight_knave is {knight: a word, knave: a word}; leave it out for these two"
    need(words, "knight_knave", lambda it: it is None or isinstance(it, Mapping), "words", hint)
    hint = "solution_text says who is what; leave it out, and it is made"
    need(
        row.get("solution_text"),
        "solution_text",
        lambda it: it is None or is_text(it),
        "text",
        hint,
    )


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields."""
    words = row.get("knight_knave") or {}
    called = [
        (name, words.get(WORDS[honest]) or WORDS[honest])
        for name, honest in zip(row["names"], row["solution"], strict=True)
    ]
    accepted = [
        ", ".join(f"{name} is a {word}" for name, word in called),
        *filter(None, [row.get("solution_text")]),
        ", ".join(f"{name}: {word}" for name, word in called),
    ]
    return fields(row["quiz"].strip(), accepted, instruction, level_=len(called))


def _all(value: Any, fits) -> bool:
    return isinstance(value, list | tuple) and all(fits(one) for one in value)


def _is_bool(value: Any) -> bool:
    return isinstance(value, bool)
