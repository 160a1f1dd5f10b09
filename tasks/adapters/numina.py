"""NuminaMath-CoT and NuminaMath-1.5 (AI-MO/NuminaMath-CoT, AI-MO/NuminaMath-1.5).

    problem, solution, source
    answer   1.5 only; "proof" and "notfound" are no answers
    problem_is_valid, solution_is_valid   1.5 only: "Yes", "No", "Incomplete", ...
    messages CoT only, never read

Of CoT the answer is the last box of the solution, with those joined to it. A row that 1.5 itself
calls invalid, or whose answer is a proof, gets no answers: the gates report and drop it.
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import answers, fields, is_text, need, need_others, need_question, unknown
from trainer.answers import boxed_answer

COLUMNS = frozenset(
    {"problem", "solution", "source", "answer", "problem_is_valid", "solution_is_valid"}
)
NO_ANSWERS = ("proof", "notfound", "not found")


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has 1.5's columns of validity, or CoT's problem, solution and source alone."""
    if "problem_is_valid" in row:
        return "problem" in row
    return row.keys() >= {"problem", "solution", "source"} and not row.keys() & {"answer", "level"}


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not row.get("problem") or not row.keys() & {"solution", "answer"}:
        raise unknown(row, "problem, solution and source")
    need_question(row["problem"], "problem")
    for key in ("solution", "answer"):
        need(row.get(key), key, lambda it: it is None or is_text(it), "text", f"mend {key}")
    need_others(row, {}, "", ("source",))


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields."""
    return fields(row["problem"], _truth(row), instruction, source=row.get("source"))


def _truth(row: Mapping[str, Any]) -> list[str]:
    if any(row.get(key) not in (None, "Yes") for key in ("problem_is_valid", "solution_is_valid")):
        return []
    if "answer" in row:
        answer = (row["answer"] or "").strip()
        return [] if answer.lower() in NO_ANSWERS else answers(answer)
    boxed = boxed_answer(row["solution"] or "")
    return [] if boxed is None else answers(boxed)
