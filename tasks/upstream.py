"""Rows as the published sets have them, turned into the columns of ours."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import pyarrow as pa

from tasks.artifacts import COLUMNS
from trainer.answers import last_boxed

QUESTION = ("problem", "question")
ANSWER = ("answers", "answer", "ground_truth", "solution")
INDICES = range(-(2**63), 2**63)
LEVELS = range(-(2**31), 2**31)


def to_columns(rows: Sequence[Mapping[str, Any]], name: str, instruction: str) -> pa.Table:
    """Upstream rows as a table of `COLUMNS`, in the order of their indices.

    Two formats are known. The chat format of DeepScaleR and FastCuRL has `prompt` (a list of
    role and content) and `reward_model.ground_truth`; its order is `extra_info.index`. The plain
    format has a question (`problem` or `question`) and an answer (`answers`, `answer`,
    `ground_truth` or `solution`, the first there is). Where two rows share an index (files that
    each count from 0), rows are numbered as they come.

    Args:
        rows: Upstream rows, each of one of the formats.
        name: Name of the set, the start of each id.
        instruction: What each prompt is to end with. It is added where it is not there yet.

    Raises:
        ValueError: when there are no rows, or for what `check_rows` refuses. A row whose truth
            says nothing gets no answers; `tasks.preflight` refuses it where the settings do.
    """
    if not rows:
        raise ValueError(f"{name} holds no rows, needed at least one\n\nhint: look at its source")
    check_rows(rows, name)
    columns = [(_from_chat if _is_chat(row) else _from_plain)(row, instruction) for row in rows]
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

    Of a text with a box, what stands in its last one.

    >>> answers(142.0), answers("025 "), answers(["0.01\n", "0.02\n"]), answers(r"\(\boxed{77}\)")
    (['142'], ['025'], ['0.01', '0.02'], ['77'])
    """
    if hasattr(truth, "tolist"):  # numpy and torch, arrays and scalars
        truth = truth.tolist()
    if isinstance(truth, list | tuple):
        return list(dict.fromkeys(answer for part in truth for answer in answers(part)))
    if isinstance(truth, float) and math.isfinite(truth):
        return [str(int(truth)) if truth.is_integer() else repr(truth)]
    if isinstance(truth, int) and not isinstance(truth, bool):
        return [str(truth)]
    if isinstance(truth, str):
        boxed = last_boxed(truth)  # some published truths are whole last lines
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


def check_rows(rows: Sequence[Mapping[str, Any]], place: str) -> None:
    """Refuse rows that are of neither format, or hold something else than their columns should.

    Args:
        rows: Upstream rows.
        place: Where they are from, the start of the message: a set, or one of its files.

    Raises:
        ValueError: for the first fault, with its row, its column, what was found and needed.
    """
    for position, row in enumerate(rows):
        at = f"{place}: row {position}"
        try:
            (_check_chat if _is_chat(row) else _check_plain)(row)
        except _Unfit as fault:
            raise ValueError(f"{at}{fault}") from None


class _Unfit(ValueError):
    """What is wrong with a row, to be put after its place."""


def _is_chat(row: Mapping[str, Any]) -> bool:
    return "prompt" in row and "reward_model" in row


def _check_chat(row: Mapping[str, Any]) -> None:
    prompt, truth, extra = row["prompt"], row["reward_model"], row.get("extra_info")
    turns = "a list of turns, [{role: user, content: ...}]"
    _need(prompt, "prompt", lambda it: isinstance(it, list | tuple), turns, TURNS)
    _need(prompt, "prompt", len, "at least one turn", TURNS)
    for number, turn in enumerate(prompt):
        at = f"prompt[{number}]"
        _need(turn, at, lambda it: isinstance(it, Mapping), "a role and a content", TURNS)
        for key in ("role", "content"):
            _need(turn.get(key), f"{at}.{key}", _is_text, "text", TURNS)
    hint = "reward_model is {ground_truth: the answer, style: rule}"
    _need(truth, "reward_model", lambda it: isinstance(it, Mapping), "a ground_truth in it", hint)
    _need(truth, "reward_model", lambda it: "ground_truth" in it, "a ground_truth in it", hint)
    hint = "extra_info is {index: 0, ...}; leave it out to have rows numbered as they come"
    _need(extra, "extra_info", lambda it: it is None or isinstance(it, Mapping), "fields", hint)
    _check_others(row, extra or {}, "extra_info.", ("data_source",))


def _check_plain(row: Mapping[str, Any]) -> None:
    question = next((key for key in QUESTION if row.get(key)), None)
    if question is None or not any(key in row for key in ANSWER):
        raise _Unfit(
            f" has the columns {', '.join(row) or '(none)'}; needed prompt and "
            f"reward_model.ground_truth, or a question ({' or '.join(QUESTION)}) and an answer "
            f"({' or '.join(ANSWER)}), none of them empty\n\nhint: rename the columns of the source"
        )
    hint = "write each question as one text"
    _need(row[question], question, _is_text, "text", hint)
    _check_others(row, row, "", ("data_source", "source"))


def _check_others(
    row: Mapping[str, Any], numbers: Mapping[str, Any], prefix: str, sources: Sequence[str]
) -> None:
    for key in sources:
        hint = f"write the name of the set in {key}, or leave it out"
        _need(row.get(key), key, lambda it: it is None or _is_text(it), "text", hint)
    hint = "leave it out, and rows are numbered as they come"
    _need(numbers.get("index"), f"{prefix}index", _is_index, "a whole number of 64 bits", hint)
    hint = "leave it out, or write a small number or a text such as Level 3"
    _need(numbers.get("level"), f"{prefix}level", _is_level, "a whole number of 32 bits", hint)


TURNS = "a prompt is [{role: user, content: the question}]; text in JSON has to be parsed first"


def _need(value: Any, column: str, fits: Callable[[Any], Any], needed: str, hint: str) -> None:
    if not fits(value):
        kind = "nothing" if value is None else f"{type(value).__name__} {value!r:.60}"
        raise _Unfit(f", column {column}: found {kind}, needed {needed}\n\nhint: {hint}")


def _is_text(value: Any) -> bool:
    if not isinstance(value, str):
        return False
    try:
        value.encode()
    except UnicodeEncodeError:  # half of a surrogate pair, as JSON may spell one
        return False
    return True


def _is_index(value: Any) -> bool:
    return value is None or _whole(value) in INDICES


def _is_level(value: Any) -> bool:
    level = _level(value)
    return level is None or level in LEVELS


def _whole(value: Any) -> int | None:
    """A whole number, also of a column that pandas made floats of; None for anything else."""
    if isinstance(value, float) and value.is_integer():
        return int(value)
    return value if isinstance(value, int) and not isinstance(value, bool) else None


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
        "index": _whole(extra.get("index")),
        "level": _level(extra.get("level")),
    }


def _from_plain(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    text = next(row[key] for key in QUESTION if row.get(key))
    question = without_instruction(text, instruction)
    key = next(key for key in ANSWER if key in row)
    truth = row[key]
    if isinstance(truth, str):
        truth = truth.rsplit("####", 1)[-1]  # GSM8K: the answer after the working
    return {
        "prompt": [{"role": "user", "content": f"{question} {instruction}".rstrip()}],
        "question": question,
        "answers": answers(truth),
        "source": row.get("data_source") or row.get("source") or "",
        "index": _whole(row.get("index")),
        "level": _level(row.get("level")),
    }


def _level(level: Any) -> int | None:
    """Difficulty as a number: 3, 3.0, "3" and "Level 3" are 3; anything else is unknown."""
    if isinstance(level, int | float):
        return _whole(level)
    found = re.search(r"\d+$", str(level).strip()) if level is not None else None
    return int(found[0]) if found else None
