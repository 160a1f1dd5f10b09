"""MATH with its five levels (Hendrycks et al. 2021, arXiv:2103.03874; EleutherAI/hendrycks_math).

problem   the question
level     "Level 1" ... "Level 5"
type      the subject, which becomes `source`
solution  the worked solution, whose last box is the answer, with those joined to it
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import answers, fields, is_text, need, need_others, need_question, unknown
from trainer.answers import boxed_answer

COLUMNS = frozenset({"problem", "level", "type", "solution"})


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has MATH's four columns and no answer beside them."""
    return row.keys() >= COLUMNS and "answer" not in row


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not row.get("problem") or "solution" not in row:
        raise unknown(row, "problem, level, type and solution")
    need_question(row["problem"], "problem")
    need(row["solution"], "solution", is_text, "text", "a solution ends with its answer in a box")
    need_others(row, {"level": row.get("level")}, "", ("type",))


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields; without a box in the solution it has no answer."""
    boxed = boxed_answer(row["solution"])
    return fields(
        row["problem"],
        [] if boxed is None else answers(boxed),
        instruction,
        source=row.get("type"),
        level_=row.get("level"),
    )
