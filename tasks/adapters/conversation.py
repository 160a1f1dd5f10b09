"""Open-Reasoner-Zero's 57k (Open-Reasoner-Zero/orz_math_57k_collection, arXiv:2503.24290).

A JSON file of pairs, which readers hand on under the columns "0" and "1", as the Hub shows them:

    0  {from: human, value: the question}
    1  {from: assistant, ground_truth: {value: the answer}}
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import answers, fields, need, need_answer, need_question, unknown

COLUMNS = frozenset({"0", "1"})


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it is a pair of turns."""
    return "0" in row and "1" in row


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not fits(row):
        raise unknown(row, "the turns 0 (value) and 1 (ground_truth.value)")
    hint = "a pair is [{from: human, value}, {from: assistant, ground_truth: {value}}]"
    need(row["0"], "0", lambda it: isinstance(it, Mapping), "a turn with a value", hint)
    need_question(row["0"].get("value"), "0.value")
    need(row["1"], "1", lambda it: isinstance(it, Mapping), "a turn with a ground_truth", hint)
    truth = row["1"].get("ground_truth")
    need(truth, "1.ground_truth", lambda it: isinstance(it, Mapping), "a value in it", hint)
    need_answer(truth.get("value"), "1.ground_truth.value")


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields."""
    truth = answers(row["1"]["ground_truth"].get("value"))
    return fields(row["0"]["value"].strip(), truth, instruction)
