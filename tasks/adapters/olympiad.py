"""OlympiadBench (He et al. 2024, arXiv:2402.14008; Hothan/OlympiadBench, OE_TO_maths_en_COMP).

question      the question
context       what it refers to, put before it where there is any
final_answer  list of texts, often between dollar signs
subfield      the subject, which becomes `source`
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import (
    answers,
    fields,
    is_text,
    need,
    need_answer,
    need_others,
    need_question,
    unknown,
)

COLUMNS = frozenset({"question", "context", "final_answer", "subfield"})


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has a question and a final_answer."""
    return "question" in row and "final_answer" in row


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not row.get("question") or "final_answer" not in row:
        raise unknown(row, "question and final_answer")
    need_question(row["question"], "question")
    need_answer(row["final_answer"], "final_answer")
    context = row.get("context")
    need(context, "context", lambda it: it is None or is_text(it), "text", "or leave it out")
    need_others(row, {}, "", ("subfield",))


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields."""
    text = "\n".join(filter(None, [row.get("context"), row["question"]]))
    truth = [answer.strip("$ ") for answer in answers(row["final_answer"])]
    return fields(text, list(filter(None, truth)), instruction, source=row.get("subfield"))
