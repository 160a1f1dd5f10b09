"""AIME 2024 as Maxwell-Jia/AIME_2024 has it: ID, Problem, Solution, Answer.

The ID ("2024-II-4") is no number, so rows are numbered as they come.
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import answers, fields, need_answer, need_question, unknown

COLUMNS = frozenset({"Problem", "Answer"})


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has a Problem and an Answer."""
    return row.keys() >= COLUMNS


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not row.get("Problem") or "Answer" not in row:
        raise unknown(row, "Problem and Answer")
    need_question(row["Problem"], "Problem")
    need_answer(row["Answer"], "Answer")


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields."""
    return fields(row["Problem"], answers(row["Answer"]), instruction)
