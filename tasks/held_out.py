"""Divide a set into what is trained on and what is kept back for evaluation."""

import hashlib

import pyarrow as pa

from tasks.overlap import question_key

# Raise it when a change of ours alters which are held out: both parts must come of one choice.
HELD_OUT_VERSION = 3


def held_out(table: pa.Table, questions: int, seed: int, part: str) -> pa.Table:
    """One of the two parts of a set; together they are the set, and they share no question.

    The questions kept back are those whose digest with the seed is smallest, so neither the order
    of the rows nor the machine matters. All rows of a question go to the same part.

    Args:
        table: Columns of `tasks.artifacts.COLUMNS`.
        questions: Questions to keep back, different ones but for spaces and typesetting.
        seed: Of the choice.
        part: `held_out`, of each such question its first row; or `rest`.

    Raises:
        ValueError: when there are not more questions than that.

    Source:
        SPEED (arXiv:2506.09016) evaluates on 1,000 problems held out of DAPO-Math-17k. Which ones
        are in its files only: these are others, as many.
    """
    keys = [question_key(text) for text in table["question"].to_pylist()]
    distinct = sorted(set(keys), key=lambda key: hashlib.sha256(f"{seed}:{key}".encode()).digest())
    if len(distinct) <= questions:
        raise ValueError(
            f"found {len(distinct)} different questions, needed more than the {questions} to hold "
            "out\n\nhint: lower held_out"
        )
    kept_back = set(distinct[:questions])
    seen: set[str] = set()
    rows = []
    for row, key in enumerate(keys):
        if part == "rest" and key not in kept_back:
            rows.append(row)
        elif part == "held_out" and key in kept_back and key not in seen:
            seen.add(key)
            rows.append(row)
    return table.take(rows)
