"""DAPO-Math-17k (BytedTsinghua-SIA/DAPO-Math-17k, arXiv:2503.14476).

verl's chat format with an instruction of its own around the question, and an index that is a text
(a UUID). The published parquet repeats each problem about a hundred times: rows of one index are
copies, of which the first is kept.
"""

from collections.abc import Mapping
from typing import Any

from tasks.adapters import chat
from tasks.adapters.row import answers, fields, need, need_answer

COLUMNS = chat.COLUMNS
BEFORE = "Solve the following math problem step by step."
AFTER = 'Remember to put your answer on its own line after "Answer:".'


def fits(row: Mapping[str, Any]) -> bool:
    """Whether the prompt begins with DAPO's instruction."""
    prompt = row.get("prompt")
    if "reward_model" not in row or not isinstance(prompt, list) or not prompt:
        return False
    content = prompt[-1].get("content") if isinstance(prompt[-1], Mapping) else None
    return isinstance(content, str) and content.startswith(BEFORE)


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    chat.check_prompt(row.get("prompt"))
    truth = row.get("reward_model")
    hint = "reward_model is {ground_truth: the answer, style: ...}"
    need(truth, "reward_model", lambda it: isinstance(it, Mapping), "a ground_truth in it", hint)
    need(truth, "reward_model", lambda it: "ground_truth" in it, "a ground_truth in it", hint)
    need_answer(truth["ground_truth"], "reward_model.ground_truth")


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields, DAPO's instruction replaced by ours."""
    content = row["prompt"][-1]["content"]
    if content.startswith(BEFORE):
        # The instruction is one paragraph; the question starts after the first empty line.
        content = content.partition("\n\n")[2] or content
    question = content.rstrip().removesuffix(AFTER).strip()
    index = (row.get("extra_info") or {}).get("index")
    return {
        **fields(
            question,
            answers(row["reward_model"]["ground_truth"]),
            instruction,
            source=row.get("data_source"),
            index=index,
        ),
        "copy_of": index if isinstance(index, str) else None,
    }
