"""A question and an answer in plain columns: most evaluation sets, DeepScaleR-Preview, GSM8K.

    problem or question                            the first that is not empty
    answers, answer, ground_truth or solution      the first there is; of GSM8K what follows ####
    data_source or source, index, level            may be missing

So come DeepScaleR-Preview, AIME 2024 and 2025, both forms of AMC 2023, MATH-500 and Minerva.
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import answers, fields, need_answer, need_others, need_question, unknown

QUESTION = ("problem", "question")
ANSWER = ("answers", "answer", "ground_truth", "solution")
COLUMNS = frozenset({*QUESTION, *ANSWER, "data_source", "source", "index", "level"})


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has a question and an answer under one of their names."""
    return any(row.get(key) for key in QUESTION) and any(key in row for key in ANSWER)


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not fits(row):
        raise unknown(
            row,
            "prompt and reward_model.ground_truth, or a question "
            f"({' or '.join(QUESTION)}) and an answer ({' or '.join(ANSWER)})",
        )
    key = next(key for key in QUESTION if row.get(key))
    need_question(row[key], key)
    key = next(key for key in ANSWER if key in row)
    need_answer(row[key], key)
    need_others(row, row, "", ("data_source", "source"))


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields."""
    text = next(row[key] for key in QUESTION if row.get(key))
    truth = row[next(key for key in ANSWER if key in row)]
    if isinstance(truth, str):
        truth = truth.rsplit("####", 1)[-1]  # GSM8K: the answer after the working
    return fields(
        text,
        answers(truth),
        instruction,
        source=row.get("data_source") or row.get("source"),
        index=row.get("index"),
        level_=row.get("level"),
    )
