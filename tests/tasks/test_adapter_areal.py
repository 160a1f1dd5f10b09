"""AReaL's two files, exactly of the layout of its v0.1 tutorial, in a mirror; made-up problems."""

import json

import pytest

from conf.load import load
from tasks.adapters import ADAPTERS, adapter_of
from tasks.download import download
from tasks.upstream import to_columns

BAR = "\uff5c"
BOXED = "put your final answer within \\boxed{}."
DISTILLED = f"<{BAR}User{BAR}>\nASKED Please reason step by step, and {BOXED}"
DISTILLED += f"<{BAR}Assistant{BAR}><think>\n"
DEEPSCALER = "<|User|>ASKED Let's think step by step and output the final answer within \\boxed{}."
DEEPSCALER += "<|Assistant|>"
QWEN = (
    "<|im_start|>system\nHi.<|im_end|>\n<|im_start|>user\nASKED\nPlease reason step by step, and "
)
QWEN += f"{BOXED}<|im_end|>\n<|im_start|>assistant\n"
ZERO = (
    "A conversation between User and Assistant. The user asks a question, and the Assistant solves "
    "it. The answer is enclosed within <answer> </answer> tags, i.e., <answer> answer here "
    "</answer>. User: You must put your answer inside <answer> </answer> tags, i.e., <answer> "
    "answer here </answer>. And your final answer will be extracted automatically by the \\boxed{} "
    "tag. This is the problem: ASKED\nAssistant: <think>\n"
)
QUESTION = "How much is $1+1$?\n\nPlease reason: User or Assistant? User: both."


def row(template=DISTILLED, question=QUESTION, **other):
    prompt = template.replace("ASKED", question)
    return {
        "prompt": prompt,
        "task": "math",
        "query_id": "a9",
        "solutions": [r"\boxed{2}"],
        **other,
    }


@pytest.fixture
def mirror(tmp_path):
    """The repository as the tutorial downloads it: three files, none of them called train."""
    root = tmp_path / "mirror" / "datasets--inclusionAI--AReaL-RL-Data"
    data = root / "snapshots" / ("0123456789" * 4) / "data"
    data.mkdir(parents=True)
    (root / "refs").mkdir()
    (root / "refs" / "main").write_text("0123456789" * 4)
    for name, template in (("r1_distilled", DISTILLED), ("zero", ZERO)):
        rows = [
            row(template, f"{n}+1?", solutions=[rf"\boxed{{{n + 1}}}"], query_id=f"id{n}")
            for n in range(3)
        ]
        lines = "\n".join(json.dumps(one, ensure_ascii=False) for one in rows)
        (data / f"prompts_for_{name}.jsonl").write_text(lines + "\n")
    (data / "id2info.json").write_text(json.dumps({"a9": row()}))
    return tmp_path / "mirror"


@pytest.mark.parametrize(
    ("recipe", "file"),
    [("1_5b_v0_1", "r1_distilled"), ("1_5b_v0_1_1_single", "r1_distilled"), ("7b_zero", "zero")],
)
def test_an_areal_recipe_loads_its_own_file(recipe, file, mirror, tmp_path):
    data = load(f"experiment=areal/{recipe}", f"data.train.mirror={mirror}").data
    got = download(data.train, data, tmp_path / "out")
    assert list(got.manifest["files"]) == [f"prompts_for_{file}.jsonl"]
    table = got.table()
    assert table["question"].to_pylist() == ["0+1?", "1+1?", "2+1?"]
    assert table["answers"].to_pylist() == [["1"], ["2"], ["3"]]
    assert table["prompt"][0].as_py() == [{"role": "user", "content": f"0+1? {data.instruction}"}]


@pytest.mark.parametrize("template", [DISTILLED, QWEN, DEEPSCALER, ZERO])
def test_of_a_prompt_the_question_alone_stays(template):
    assert adapter_of(row(template)) is ADAPTERS["areal"]
    (got,) = to_columns([row(template)], "set", "Think.").to_pylist()
    assert got["question"] == QUESTION
    assert got["prompt"] == [{"role": "user", "content": f"{QUESTION} Think."}]


@pytest.mark.parametrize(
    ("solutions", "answers"),
    [
        ([r"\boxed{\frac{1}{2}}", r"so \boxed{0.5}."], [r"\frac{1}{2}", "0.5"]),
        ([r"\boxed{2}", "two"], ["2"]),
        ([r"\boxed{}"], []),  # as six of the 40k are in DeepScaleR's own files
        ([r"\boxed{\frac{1}{2}"], []),  # and two lack a brace: the gates report them
    ],
)
def test_answers_are_what_the_boxes_hold(solutions, answers):
    (got,) = to_columns([row(solutions=solutions)], "set", "").to_pylist()
    assert got["answers"] == answers


@pytest.mark.parametrize(
    ("given", "says"),
    [
        (
            {"question": "1+1?", "answer": "2"},
            "has the columns question, answer; needed prompt and",
        ),
        (row("1+1?"), "column prompt: found str '1.1.', needed a user's turn in a chat template"),
        (row(question=""), "column prompt: .* needed a user's turn"),
        (row(solutions=["2"]), r"column solutions: found list .'2'., needed a list of texts with"),
        (row(solutions=[]), "column solutions: found list"),
        (row(solutions=r"\boxed{2}"), "column solutions: found str"),
        (row(solutions=[2]), "column solutions: found list"),
        (row(task="code"), "column task: found str 'code', needed math or stem"),
    ],
)
def test_a_row_of_another_layout_is_refused_with_what_it_has(given, says):
    with pytest.raises(ValueError, match=rf"^set: row 0.*{says}.*\n\nhint: ") as refused:
        to_columns([given], "set", "", "areal")
    assert "data=deepscaler has the same 40k" in str(refused.value) or given.get("task") == "code"


def test_a_plain_question_beside_such_a_prompt_is_read_as_before():
    assert adapter_of(row(problem="1+1?", answer="2")) is ADAPTERS["plain"]


def test_the_columns_that_it_names_are_all_it_reads():
    assert {"prompt", "query_id", "solutions", "task"} == ADAPTERS["areal"].COLUMNS
