"""verl's chat format: FastCuRL's released files, DeepScaleR's prepared ones.

prompt        [{role: user, content: question + " " + instruction}]
reward_model  {ground_truth: the answer or a list of answers, style: rule}
extra_info    {index: place in the whole set, split, level?}        may be missing
data_source   name of the set                                       may be missing
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import (
    answers,
    is_text,
    level,
    need,
    need_answer,
    need_others,
    need_question,
    need_text,
    whole,
    without_instruction,
)

COLUMNS = frozenset({"prompt", "reward_model", "extra_info", "data_source"})
_TURNS = "a prompt is [{role: user, content: the question}]; text in JSON has to be parsed first"


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has a prompt and a reward_model, and nothing shows that it is DAPO's."""
    from tasks.adapters import dapo

    return "prompt" in row and "reward_model" in row and not dapo.fits(row)


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    prompt, truth, extra = row.get("prompt"), row.get("reward_model"), row.get("extra_info")
    check_prompt(prompt)
    hint = "reward_model is {ground_truth: the answer, style: rule}"
    need(truth, "reward_model", lambda it: isinstance(it, Mapping), "a ground_truth in it", hint)
    need(truth, "reward_model", lambda it: "ground_truth" in it, "a ground_truth in it", hint)
    need_answer(truth["ground_truth"], "reward_model.ground_truth")
    hint = "extra_info is {index: 0, ...}; leave it out to have rows numbered as they come"
    need(extra, "extra_info", lambda it: it is None or isinstance(it, Mapping), "fields", hint)
    need_others(row, extra or {}, "extra_info.", ("data_source",))


def check_prompt(prompt: Any) -> None:
    """Raise UnfitError unless a prompt is a list of turns, the last the user's question."""
    turns = "a list of turns, [{role: user, content: ...}]"
    need(prompt, "prompt", lambda it: isinstance(it, list | tuple), turns, _TURNS)
    need(prompt, "prompt", len, "at least one turn", _TURNS)
    for number, turn in enumerate(prompt):
        at = f"prompt[{number}]"
        need(turn, at, lambda it: isinstance(it, Mapping), "a role and a content", _TURNS)
        need(turn.get("role"), f"{at}.role", is_text, "text", _TURNS)
        need(turn.get("content"), f"{at}.content", is_text, "text", _TURNS)
        need_text(turn["content"], f"{at}.content")
    hint = "the last turn asks the question; take out what answers it"
    need(
        prompt[-1]["role"], f"{at}.role", lambda it: it == "user", "user, as the last turn's", hint
    )
    need_question(prompt[-1]["content"], f"{at}.content")


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields; the instruction is added where the prompt does not end with it."""
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
        "index": whole(extra.get("index")),
        "level": level(extra.get("level")),
    }
