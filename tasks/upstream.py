"""Rows as the published sets have them, turned into the columns of ours."""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any

import pyarrow as pa

from tasks.artifacts import COLUMNS

QUESTION = ("problem", "question")
ANSWER = ("answers", "answer", "ground_truth", "solution")


def to_columns(rows: Sequence[Mapping[str, Any]], name: str, instruction: str) -> pa.Table:
    """Upstream rows as a table of `COLUMNS`, in the order of their indices.

    Two formats are known. The chat format of DeepScaleR and FastCuRL has `prompt` (a list of
    role and content) and `reward_model.ground_truth`; its order is `extra_info.index`. The plain
    format has a question (`problem` or `question`) and an answer (`answers`, `answer`,
    `ground_truth` or `solution`, the first there is). Where two rows share an index (files that
    each count from 0), rows are numbered as they come.

    Args:
        rows: Upstream rows, all of one format.
        name: Name of the set, the start of each id.
        instruction: What each prompt is to end with. It is added where it is not there yet.

    Raises:
        ValueError: when there are no rows, a column is missing, or a row has no answer.
    """
    if not rows:
        raise ValueError(f"{name} holds no rows, needed at least one\n\nhint: look at its source")
    chat = "prompt" in rows[0] and "reward_model" in rows[0]
    _check_columns(rows, name, chat)
    read = _from_chat if chat else _from_plain
    columns = [read(row, instruction) for row in rows]
    for position, row in enumerate(columns):
        if not row["answers"]:
            raise ValueError(
                f"{name}: row {position} has no answer to check against "
                f"(question: {row['question'][:60]!r})\n\nhint: take the row out of the source"
            )
    indices = [row["index"] for row in columns]
    if None in indices or len(set(indices)) < len(indices):
        for position, row in enumerate(columns):
            row["index"] = position
    columns.sort(key=lambda row: row["index"])
    for row in columns:
        row["id"] = f"{name}-{row['index']}"
        row["source"] = row["source"] or name
    return pa.Table.from_pylist(columns, schema=COLUMNS)


def answers(truth: Any) -> list[str]:
    r"""The accepted answers that a ground truth holds: none, one or several, each once.

    >>> answers(142.0), answers("025 "), answers(["0.01\n", "0.02\n"])
    (['142'], ['025'], ['0.01', '0.02'])
    """
    if hasattr(truth, "tolist"):  # numpy and torch, arrays and scalars
        truth = truth.tolist()
    if isinstance(truth, list | tuple):
        return list(dict.fromkeys(answer for part in truth for answer in answers(part)))
    if isinstance(truth, float) and math.isfinite(truth):
        return [str(int(truth)) if truth.is_integer() else repr(truth)]
    if isinstance(truth, int) and not isinstance(truth, bool):
        return [str(truth)]
    if isinstance(truth, str) and truth.strip():
        return [truth.strip()]
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


def _check_columns(rows: Sequence[Mapping[str, Any]], name: str, chat: bool) -> None:
    for position, row in enumerate(rows):
        if chat:
            good = bool(row.get("prompt")) and "ground_truth" in (row.get("reward_model") or ())
        else:
            good = any(row.get(key) for key in QUESTION) and any(key in row for key in ANSWER)
        if not good:
            raise ValueError(
                f"{name}: row {position} has the columns {', '.join(row) or '(none)'}; needed "
                "prompt and reward_model.ground_truth, or a question "
                f"({' or '.join(QUESTION)}) and an answer ({' or '.join(ANSWER)})\n\n"
                "hint: rename the columns of the source"
            )


def _from_chat(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    prompt = [{"role": turn["role"], "content": turn["content"]} for turn in row["prompt"]]
    question = without_instruction(prompt[-1]["content"], instruction)
    if not prompt[-1]["content"].endswith(instruction):
        prompt[-1]["content"] = f"{question} {instruction}"
    extra = row.get("extra_info") or {}
    return {
        "prompt": prompt,
        "question": question,
        "answers": answers(row["reward_model"]["ground_truth"]),
        "source": row.get("data_source") or "",
        "index": extra.get("index"),
        "level": _level(extra.get("level")),
    }


def _from_plain(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    text = next(row[key] for key in QUESTION if row.get(key))
    question = without_instruction(text, instruction)
    key = next(key for key in ANSWER if key in row)
    truth = row[key]
    if isinstance(truth, str):
        truth = _final_answer(truth)
    return {
        "prompt": [{"role": "user", "content": f"{question} {instruction}".rstrip()}],
        "question": question,
        "answers": answers(truth),
        "source": row.get("data_source") or row.get("source") or "",
        "index": row.get("index"),
        "level": _level(row.get("level")),
    }


def _final_answer(text: str) -> str:
    r"""The answer a worked solution ends with: in \boxed{}, after "####", or the text itself."""
    from trainer.rewards import last_boxed

    boxed = last_boxed(text)
    if boxed is not None:
        return boxed
    return text.rsplit("####", 1)[-1]


def _level(level: Any) -> int | None:
    """Difficulty as a number: 3, "3" and "Level 3" are 3; anything else is unknown."""
    found = re.search(r"\d+$", str(level).strip()) if level is not None else None
    return int(found[0]) if found else None
