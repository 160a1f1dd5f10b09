r"""AReaL v0.1's prompts (inclusionAI/AReaL-RL-Data; github.com/inclusionAI/AReaL).

The layout is that of its v0.1 tutorial and loader; the files themselves were not seen here.

    data/prompts_for_r1_distilled.jsonl   DeepScaleR's 40k, for the distilled models
    data/prompts_for_zero.jsonl           Open-Reasoner-Zero's, for 7B-Zero
    data/id2info.json                     the same rows by query_id: never read

    prompt     one text: chat template, question, instruction, and often an opened think tag
    query_id   text
    solutions  list of texts, the accepted answers in boxes, as in ["\\boxed{2}"]
    task       "math" or "stem"; may be missing

The question is what stands in the user's turn, less the instruction of the file. So a prompt is
made as of any other set: by `data.instruction` and the model's own chat template.
"""

import re
from collections.abc import Mapping
from typing import Any

from tasks.adapters.row import UnfitError, answers, fields, is_text, need, need_question
from trainer.answers import last_boxed

COLUMNS = frozenset({"prompt", "query_id", "solutions", "task"})
TASKS = (None, "math", "stem")
ELSEWHERE = (
    "this is the layout of AReaL's v0.1 tutorial; if upstream has another by now, data=deepscaler "
    "has the same 40k problems, and data=orz_57k data.segmentation.rule=length those of 7B-Zero"
)

# Where a user's turn begins and, at the end of the prompt, ends.
_TURNS = [
    (re.compile(begins), re.compile(ends + r"\Z"))
    for begins, ends in (
        (r"<[|\uff5c]User[|\uff5c]>", r"<[|\uff5c]Assistant[|\uff5c]>"),  # DeepSeek-R1-Distill
        (r"<\|im_start\|>user\n", r"<\|im_end\|>\s*<\|im_start\|>assistant"),  # Qwen
        (r"(?<!\w)User:", r"(?<!\w)Assistant:"),  # Open-Reasoner-Zero
    )
]
_BEFORE = re.compile(r"\AYou must put your answer inside <answer>.*?This is the problem:", re.S)
_AFTER = re.compile(
    r"(?:\A|\s)(?:Please reason step by step|Let's think step by step|Please put your final answer)"
    r"[^\n\\]*\\boxed\{\}\.?\Z"
)


def fits(row: Mapping[str, Any]) -> bool:
    """Whether it has a prompt that is one text, a query_id and solutions, and no plain question."""
    if row.keys() & {"problem", "question"} or not row.keys() >= {"query_id", "solutions"}:
        return False
    return isinstance(row.get("prompt"), str)


def check(row: Mapping[str, Any]) -> None:
    """Raise UnfitError for the first field that is not what it should be."""
    if not row.keys() >= {"prompt", "solutions"}:
        raise UnfitError(
            f" has the columns {', '.join(row) or '(none)'}; needed prompt and solutions"
            f"\n\nhint: {ELSEWHERE}"
        )
    need_question(row["prompt"], "prompt")
    need(row["prompt"], "prompt", _question, "a user's turn in a chat template", ELSEWHERE)
    need(row.get("task"), "task", lambda it: it in TASKS, "math or stem", "leave other tasks out")
    boxes = r"a list of texts with a \boxed{answer}"
    need(row["solutions"], "solutions", lambda it: isinstance(it, list | tuple), boxes, ELSEWHERE)
    need(row["solutions"], "solutions", lambda it: all(map(is_text, it)), boxes, ELSEWHERE)
    need(row["solutions"], "solutions", lambda it: any(map(_has_box, it)), boxes, ELSEWHERE)


def convert(row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
    """The row in our fields; a box that is empty or not closed is no answer."""
    boxes = [last_boxed(solution) for solution in row["solutions"]]
    return fields(_question(row["prompt"]), answers(list(filter(None, boxes))), instruction)


def _question(prompt: str) -> str:
    """What the user asks in a prompt of a known template, "" in any other."""
    prompt = prompt.rstrip().removesuffix("<think>").rstrip()
    for begins, ends in _TURNS:
        begin, end = begins.search(prompt), ends.search(prompt)
        if begin and end and begin.end() <= end.start():
            turn = prompt[begin.end() : end.start()].strip()
            return _AFTER.sub("", _BEFORE.sub("", turn, count=1)).strip()
    return ""


def _has_box(solution: str) -> bool:
    return re.search(r"\\(?:boxed|fbox)\s*\{", solution) is not None
