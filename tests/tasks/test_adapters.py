"""Each adapter on rows of exactly the upstream schema; problems are made up."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import choices, load
from conf.schema import Data, Source
from tasks.adapters import ADAPTERS, adapter_of
from tasks.download import download
from tasks.upstream import to_columns
from trainer.rewards import grade

INSTRUCTION = Data().instruction
DAPO = (
    "Solve the following math problem step by step. The last line of your response should be of "
    "the form Answer: $Answer (without quotes) where $Answer is the answer to the problem.\n\n"
    "How much is $1+1$?\n\nIn words, a sum.\n\n"
    'Remember to put your answer on its own line after "Answer:".'
)
PROOF = {"answer": "proof", "question_type": "proof"}
NUMINA = {
    "problem": "1+1?",
    "solution": r"so $\boxed{1} + 1 = \boxed{2}$.",
    "answer": "2",
    "problem_type": "Algebra",
    "question_type": "math-word-problem",
    "source": "olympiads",
    "synthetic": False,
    "problem_is_valid": "Yes",
    "solution_is_valid": "Yes",
}
KNIGHTS = {
    "quiz": "Ann says: Bob is a knave. Who is who?",
    "names": ["Ann", "Bob"],
    "knight_knave": {"knight": "knight", "knave": "knave", "a_knight": "a knight"},
    "solution": [True, False],
    "solution_text": "Ann is a knight, and Bob is a knave.",
    "solution_text_format": "(1) Ann is a knight\n(2) Bob is a knave",
    "cot_head": "Let's think step by step.",
    "cot_repeat_steps": ["Assume Ann is a knight."],
    "cot_foot": "This leads to a solution.",
    "statements": "(('lying', 1), ('lying', 0))",
    "index": 7,
}
OLYMPIAD = {
    "id": 2231,
    "question": "How many?",
    "solution": ["..."],
    "final_answer": ["$2^{3}$", "8\n"],
    "context": None,
    "image_1": None,
    "modality": "Text-only",
    "difficulty": "Competition",
    "is_multiple_answer": False,
    "unit": None,
    "answer_type": "Numerical",
    "error": None,
    "question_type": "Open-ended",
    "subfield": "Number Theory",
    "subject": "Math",
    "language": "English",
}

# (adapter, row, question, answers, source, level)
ROWS = [
    (
        "chat",  # FastCuRL
        {
            "data_source": "",
            "prompt": [{"content": f"1+1? {INSTRUCTION}", "role": "user"}],
            "ability": "math",
            "reward_model": {"ground_truth": "2", "style": "rule"},
            "extra_info": {"index": 7, "split": "train"},
        },
        "1+1?", ["2"], "set", None,
    ),
    (
        "dapo",
        {
            "data_source": "math_dapo",
            "prompt": [{"content": DAPO, "role": "user"}],
            "ability": "MATH",
            "reward_model": {"ground_truth": "2", "style": "rule-lighteval/MATH_v2"},
            "extra_info": {"index": "9a9b6eb4-a1cb-49d1-8c1e-62eaf2f74079"},
        },
        "How much is $1+1$?\n\nIn words, a sum.", ["2"], "math_dapo", None,
    ),
    ("plain", {"problem": "1+1?", "answer": "2", "solution": "..."}, "1+1?", ["2"], "set", None),
    (
        "plain",  # AMC, 83 problems
        {"id": 0, "problem": "1+1?", "answer": 2.0, "url": "https://example.org/"},
        "1+1?", ["2"], "set", None,
    ),
    ("plain", {"id": 0, "question": "1+1?", "answer": "2", "url": ""}, "1+1?", ["2"], "set", None),
    ("plain", {"problem": "1+1?", "answer": "2", "id": "0"}, "1+1?", ["2"], "set", None),
    (
        "plain",  # MATH-500
        {"problem": "1+1?", "solution": r"\boxed{2}", "answer": "2", "subject": "Algebra",
         "level": 3, "unique_id": "test/algebra/1.json"},
        "1+1?", ["2"], "set", 3,
    ),
    (
        "capitals",  # AIME 2024
        {"ID": "2024-II-4", "Problem": "1+1?", "Solution": "...", "Answer": 33},
        "1+1?", ["33"], "set", None,
    ),
    (
        "math",
        {"problem": "1+1?", "level": "Level 5", "type": "Algebra", "solution": r"\boxed{2}."},
        "1+1?", ["2"], "Algebra", 5,
    ),
    (
        "math",  # nothing in a box: no answer, and not the whole solution
        {"problem": "1+1?", "level": "Level ?", "type": "Algebra", "solution": "two"},
        "1+1?", [], "Algebra", None,
    ),
    (
        "math",  # boxes that are joined state the answer together, as in a response
        {"problem": "1+1?", "level": "Level 5", "type": "Algebra",
         "solution": r"From $\boxed{1}$ we get $x=\boxed{2}$ or $\boxed{3}$."},
        "1+1?", ["2, 3"], "Algebra", 5,
    ),
    (
        "numina",
        {"source": "aops_forum", "problem": "1+1?", "solution": r"(a) \boxed{1}\n\n(b) \boxed 2"},
        "1+1?", ["2"], "aops_forum", None,
    ),
    (
        "numina",
        {"source": "aops_forum", "problem": "1+1?", "solution": r"$\boxed{2}$ and $\boxed{3}$"},
        "1+1?", ["2, 3"], "aops_forum", None,
    ),
    ("plain", {"problem": "q", "answer": r"\boxed{2}, \boxed{3}"}, "q", ["2, 3"], "set", None),
    (
        "numina",  # CoT
        {"source": "aops_forum", "problem": "1+1?", "solution": r"$\boxed{2}$",
         "messages": [{"content": "1+1?", "role": "user"}]},
        "1+1?", ["2"], "aops_forum", None,
    ),
    ("numina", NUMINA, "1+1?", ["2"], "olympiads", None),
    ("numina", NUMINA | PROOF, "1+1?", [], "olympiads", None),
    ("numina", NUMINA | {"problem_is_valid": "Incomplete"}, "1+1?", [], "olympiads", None),
    (
        "conversation",  # Open-Reasoner-Zero
        {"0": {"from": "human", "value": "1+1? "},
         "1": {"from": "assistant", "ground_truth": {"value": "2"}}},
        "1+1?", ["2"], "set", None,
    ),
    (
        "knights", KNIGHTS, KNIGHTS["quiz"],
        ["Ann is a knight, Bob is a knave", KNIGHTS["solution_text"], "Ann: knight, Bob: knave"],
        "set", 2,
    ),
    (
        "knights",  # the words of the perturbed sets
        {**KNIGHTS, "knight_knave": {"knight": "saint", "knave": "sinner"}, "solution_text": None},
        KNIGHTS["quiz"], ["Ann is a saint, Bob is a sinner", "Ann: saint, Bob: sinner"], "set", 2,
    ),
    ("olympiad", OLYMPIAD, "How many?", ["2^{3}", "8"], "Number Theory", None),
    (
        "olympiad",
        OLYMPIAD | {"context": "Let there be cats."},
        "Let there be cats.\nHow many?", ["2^{3}", "8"], "Number Theory", None,
    ),
]  # fmt: skip


@pytest.mark.parametrize("named", [True, False], ids=["by name", "by its columns"])
@pytest.mark.parametrize(("name", "row", "question", "answers", "source", "level"), ROWS)
def test_an_upstream_row_becomes_ours(name, row, question, answers, source, level, named):
    assert adapter_of(row) is ADAPTERS[name]
    (got,) = to_columns([row], "set", INSTRUCTION, name if named else "auto").to_pylist()
    assert got["question"] == question
    assert got["prompt"] == [{"role": "user", "content": f"{question} {INSTRUCTION}"}]
    assert (got["answers"], got["source"], got["level"]) == (answers, source, level)


@pytest.mark.parametrize(("name", "row"), [row[:2] for row in ROWS])
def test_an_adapter_reads_only_the_columns_it_names(name, row):
    needed = {key: value for key, value in row.items() if key in ADAPTERS[name].COLUMNS}
    whole, less = (to_columns([given], "set", "", name) for given in (row, needed))
    assert whole.equals(less)


WRONG = [
    ("math", {"problem": "q", "level": "Level 1"}, "needed problem, level, type and solution"),
    ("math", {"problem": "q", "solution": None}, "column solution: found nothing, needed text"),
    ("conversation", {"0": {"value": "q"}, "1": {"ground_truth": {"value": True}}}, "found bool"),
    ("olympiad", {"question": "q", "final_answer": [b"2"]}, "column final_answer: found bytes"),
    ("capitals", {"Problem": "q", "Answer": False}, "column Answer: found bool False, needed text"),
    ("capitals", {"Problem": " ", "Answer": 1}, "column Problem: found str ' ', needed a question"),
    ("numina", {"problem": "q"}, "needed problem, solution and source"),
    ("numina", {"problem": "q", "answer": 2}, "column answer: found int 2, needed text"),
    ("conversation", {"0": {"value": "q"}}, "needed the turns 0 "),
    ("conversation", {"0": {"value": None}, "1": {}}, "column 0.value: found nothing"),
    ("conversation", {"0": {"value": "q"}, "1": {}}, "column 1.ground_truth: found nothing"),
    ("olympiad", {"question": "q"}, "needed question and final_answer"),
    ("olympiad", {"question": "q", "final_answer": [], "context": 1}, "column context: found int"),
    ("capitals", {"Problem": "", "Answer": 1}, "needed Problem and Answer"),
    ("dapo", {"prompt": "q"}, "column prompt: found str"),
    ("dapo", {"prompt": [{"role": "user", "content": "q"}]}, "column reward_model: found nothing"),
    ("knights", {"quiz": "q"}, "needed quiz, names and solution"),
    ("knights", {**KNIGHTS, "names": "Ann"}, "column names: found str 'Ann', needed a list"),
    ("knights", {**KNIGHTS, "solution": [True]}, "column solution: .* a list of 2 truth values"),
    ("knights", {**KNIGHTS, "solution": [1, 0]}, "column solution: .* a list of 2 truth values"),
    ("knights", {**KNIGHTS, "knight_knave": "knave"}, "column knight_knave: found str"),
    ("knights", {**KNIGHTS, "solution_text": 3}, "column solution_text: found int 3, needed text"),
    ("plain", {"problem": "x" * 2**20, "answer": "1"}, "found a text of 1,048,576 characters"),
]


@pytest.mark.parametrize(("name", "row", "message"), WRONG)
def test_a_row_that_does_not_fit_its_adapter_is_refused(name, row, message):
    with pytest.raises(ValueError, match=f"^set: row 0.*{message}.*\n\nhint: ") as refusal:
        to_columns([row], "set", INSTRUCTION, name)
    assert len(str(refusal.value)) < 500


@pytest.mark.parametrize(
    ("answer", "right"),
    [
        ("Bob is a knave, Ann is a knight", True),
        ("Ann is a knight and Bob is a knave", True),
        (r"\text{Ann is a knight, and Bob is a knave.}", True),
        ("Ann: knight, Bob: knave", True),
        ("Ann is a knave, Bob is a knight", False),
        ("Ann is a knight, Bob is a knight", False),
        ("Ann is a knight", False),
    ],
)
def test_who_is_a_knight_may_be_said_in_several_ways(answer, right):
    (row,) = to_columns([KNIGHTS], "set", INSTRUCTION).to_pylist()
    assert grade(rf"So \boxed{{{answer}}}.", row["answers"]).correct == right


@pytest.mark.parametrize(
    "end", ["or $\\boxed{3}$.", "so $\\boxed{3}$.", "$, \\boxed{3}, \\boxed{4}$", ""]
)
def test_a_solution_that_is_given_as_the_response_is_right(end):
    solution = f"First $\\boxed{{1}}$.\n\nThen $\\boxed{{2}}$ {end}"
    row = {"problem": "q", "level": "Level 1", "type": "Algebra", "solution": solution}
    assert grade(solution, to_columns([row], "set", "").to_pylist()[0]["answers"]).correct


def test_of_copies_that_dapo_repeats_the_first_stays(tmp_path):
    rows = [
        {
            "data_source": "math_dapo",
            "prompt": [{"content": DAPO.replace("1+1", f"1+{number}"), "role": "user"}],
            "reward_model": {"ground_truth": str(1 + number), "style": "rule"},
            "extra_info": {"index": f"uuid-{number}"},
        }
        for number in (3, 1, 2)
    ]
    pq.write_table(pa.Table.from_pylist(rows * 4), tmp_path / "dapo.parquet")
    source = Source(kind="file", path=str(tmp_path / "dapo.parquet"), format="dapo")
    table = download(source, Data(), tmp_path / "out").table()
    assert table["answers"].to_pylist() == [["4"], ["2"], ["3"]]
    assert table["id"].to_pylist() == ["train-0", "train-1", "train-2"]


def test_a_file_of_conversations_is_read(tmp_path):
    pairs = [
        [{"from": "human", "value": f"{n}?"}, {"from": "assistant", "ground_truth": {"value": "2"}}]
        for n in range(3)
    ]
    (tmp_path / "orz.json").write_text(json.dumps(pairs))
    source = Source(kind="file", path=str(tmp_path / "orz.json"), format="conversation")
    assert download(source, Data(), tmp_path).table()["question"].to_pylist() == ["0?", "1?", "2?"]


@pytest.mark.parametrize("name", choices("data"))
def test_every_shipped_set_names_an_adapter_and_prompt_sets(name):
    data = load("experiment=lab/smoke", f"data={name}").data
    assert data.train.format in (*ADAPTERS, "auto")
    assert data.segmentation.labels is None or data.segmentation.whole in data.segmentation.labels


def test_both_forms_of_amc_are_kept_apart_by_name():
    sets = {
        one.name: one
        for one in load("experiment=lab/smoke", "evaluation=hub").evaluation.benchmarks
    }
    assert sets["amc2023_83"].path != sets["amc2023_40"].path
    assert {"aime2024", "aime2025", "math500", "minerva", "olympiadbench"} < set(sets)
