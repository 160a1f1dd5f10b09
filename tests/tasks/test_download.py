import json
import os
import re
from decimal import Decimal
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import load
from conf.schema import Data, Source
from tasks.artifacts import COLUMNS, Dataset
from tasks.download import download, paths
from tasks.upstream import answers, to_columns, without_instruction
from trainer.rewards import answer_is_parsable

BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "fastcurl"
REAL = Path(os.environ.get("STAGECRAFT_FASTCURL_DATA", BESIDE))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="FastCuRL's files are not here")

INSTRUCTION = Data().instruction


def chat_row(index, question, truth, **extra):
    return {
        "data_source": "",
        "prompt": [{"content": f"{question} {INSTRUCTION}", "role": "user"}],
        "ability": "math",
        "reward_model": {"ground_truth": truth, "style": "rule"},
        "extra_info": {"index": index, "split": "train", **extra},
    }


def file_source(*paths, **settings):
    return Source(kind="file", name="toy", path=[str(path) for path in paths], **settings)


@pytest.mark.parametrize(
    ("truth", "expected"),
    [
        ("\\frac{1}{2}", ["\\frac{1}{2}"]),
        ("025 ", ["025"]),
        (142.0, ["142"]),  # AMC
        (-4.0, ["-4"]),
        (0.5, ["0.5"]),
        (7, ["7"]),
        (np.float64(142.0), ["142"]),
        (["9.6\n"], ["9.6"]),  # Minerva
        (["0.01\n", "0.02\n", "0.01\n"], ["0.01", "0.02"]),
        (np.array(["a", "b"], dtype=object), ["a", "b"]),
        (["", "x"], ["x"]),
        ("\\[\n\\boxed{2, 3, 7}\n\\]", ["2, 3, 7"]),  # DeepScaleR has some thirty of these
        ("", []),
        (None, []),
        ([], []),
        (float("nan"), []),
        (True, []),
        (Decimal("1.50"), ["1.5"]),
        (Decimal("142"), ["142"]),
        (Decimal("100.00"), ["100"]),
        (Decimal("1E+3"), ["1000"]),
        (Decimal("NaN"), []),
        (Decimal("12345678901234567890123456789.125"), ["12345678901234567890123456789.125"]),
    ],
)
def test_every_form_of_a_truth_becomes_a_list_of_answers(truth, expected):
    assert answers(truth) == expected


def test_only_the_instruction_and_one_space_are_taken_off():
    assert without_instruction(f"q \n {INSTRUCTION}", INSTRUCTION) == "q \n"
    assert without_instruction(f"{INSTRUCTION} q", INSTRUCTION) == f"{INSTRUCTION} q"
    assert without_instruction("q", "") == "q"


def test_the_chat_format_becomes_our_columns():
    table = to_columns([chat_row(5, "1+1?", "2", level=3)], "toy", INSTRUCTION)
    assert table.schema.equals(COLUMNS)
    assert table.to_pylist() == [
        {
            "id": "toy-5",
            "prompt": [{"role": "user", "content": f"1+1? {INSTRUCTION}"}],
            "question": "1+1?",
            "answers": ["2"],
            "source": "toy",
            "index": 5,
            "level": 3,
        }
    ]


@pytest.mark.parametrize(
    ("row", "expected"),
    [
        ({"problem": "1+1?", "answer": "2", "solution": "see"}, "2"),  # answer before solution
        ({"question": "1+1?", "answers": ["2"]}, "2"),
        ({"question": "1+1?", "answer": 2.0}, "2"),
        ({"question": "1+1?", "answer": "we add\n#### 2"}, "2"),  # GSM8K
        ({"problem": "1+1?", "solution": "so $\\boxed{2}$."}, "2"),  # MATH
        ({"problem": f"1+1? {INSTRUCTION}", "answer": "2"}, "2"),  # it has the instruction already
    ],
)
def test_the_plain_format_becomes_our_columns(row, expected):
    (got,) = to_columns([row], "toy", INSTRUCTION).to_pylist()
    assert got["answers"] == [expected]
    assert got["question"] == "1+1?"
    assert got["prompt"] == [{"role": "user", "content": f"1+1? {INSTRUCTION}"}]
    assert (got["id"], got["level"]) == ("toy-0", None)


def test_an_instruction_is_added_where_a_chat_has_none():
    row = chat_row(0, "1+1?", "2")
    row["prompt"] = [{"role": "system", "content": "s"}, {"role": "user", "content": "1+1?"}]
    (got,) = to_columns([row], "toy", INSTRUCTION).to_pylist()
    assert [turn["role"] for turn in got["prompt"]] == ["system", "user"]
    assert got["prompt"][-1]["content"] == f"1+1? {INSTRUCTION}"


@pytest.mark.parametrize(
    ("level", "number"),
    [
        (3, 3),
        (3.0, 3),
        (-2, -2),
        ("3", 3),
        ("3.0", 3),
        ("-2", -2),
        ("Level 5", 5),
        ("level3", 3),
        (None, None),
        (float("nan"), None),  # as pandas writes no level
        ("", None),
        ("Level ?", None),  # MATH
    ],
)
def test_levels_become_numbers(level, number):
    rows = [{"question": "q", "answer": "a", "level": level}]
    assert to_columns(rows, "toy", "")["level"].to_pylist() == [number]


@pytest.mark.parametrize(
    "level",
    [0.06, "0.75", "1.5", "hard", "AIME 2024", "Level 3 of 5", "Level-3", True, [3], "1e3", "٣"],
)
def test_a_level_that_is_no_whole_number_is_refused_with_its_row_and_value(level):
    rows = [{"question": "q", "answer": "a", "level": each} for each in (1, level)]
    with pytest.raises(ValueError, match=r"toy: row 1, column level: found .*whole") as refusal:
        to_columns(rows, "toy", "")
    assert repr(level) in str(refusal.value)


def test_rows_of_several_files_come_in_the_order_of_their_indices(tmp_path):
    rows = [chat_row(i, f"{i}?", str(i)) for i in range(6)]
    for name, part in (("odd", rows[1::2]), ("even", rows[::2])):
        pq.write_table(pa.Table.from_pylist(part), tmp_path / f"{name}.parquet")
    source = file_source(tmp_path / "odd.parquet", tmp_path / "even.parquet")
    dataset = download(source, Data(), tmp_path / "out")
    assert dataset.table()["index"].to_pylist() == list(range(6))
    assert dataset.table()["question"].to_pylist() == [f"{i}?" for i in range(6)]


def test_files_that_each_count_from_zero_are_numbered_as_they_come(tmp_path):
    for name in ("a", "b"):
        rows = [chat_row(i, f"{name}{i}", "1") for i in range(2)]
        pq.write_table(pa.Table.from_pylist(rows), tmp_path / f"{name}.parquet")
    source = file_source(tmp_path / "b.parquet", tmp_path / "a.parquet")
    table = download(source, Data(), tmp_path / "out").table()
    assert table["question"].to_pylist() == ["b0", "b1", "a0", "a1"]
    assert table["id"].to_pylist() == [f"toy-{i}" for i in range(4)]


def test_parquet_json_and_jsonl_hold_the_same_set(tmp_path):
    rows = [{"problem": f"{i}? \u2028 é", "answer": str(i)} for i in range(3)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    (tmp_path / "a.json").write_text(json.dumps(rows))
    lines = "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    (tmp_path / "a.jsonl").write_text(lines)
    digests = {
        download(file_source(tmp_path / f"a.{kind}"), Data(), tmp_path / "out").digest
        for kind in ("parquet", "json", "jsonl")
    }
    assert len(digests) == 1


def test_a_second_download_finds_the_first(tmp_path):
    path = tmp_path / "a.json"
    path.write_text(json.dumps([{"problem": "1+1?", "answer": "2"}]))
    first = download(file_source(path), Data(), tmp_path / "out")
    made = first.manifest["created"]
    assert download(file_source(path), Data(), tmp_path / "out") == first
    assert Dataset.load(first.folder).manifest["created"] == made
    # Changed content, another instruction: another set beside it.
    other = download(file_source(path), Data(instruction="Think."), tmp_path / "out")
    path.write_text(json.dumps([{"problem": "1+2?", "answer": "3"}]))
    changed = download(file_source(path), Data(), tmp_path / "out")
    assert len({first.folder, other.folder, changed.folder}) == 3


def test_the_manifest_says_where_a_set_is_from(tmp_path):
    (tmp_path / "a.json").write_text(
        json.dumps([{"problem": "1+1?", "answer": "2"}, {"problem": "1+10?", "answer": "11"}])
    )
    source = file_source(tmp_path / "a.json")
    manifest = download(source, Data(), tmp_path / "out").manifest
    assert manifest["source"] == source.model_dump(mode="json")
    assert manifest["lengths"] == {"mean": 4.5, "median": 4.5, "max": 5}
    assert (manifest["rows"], manifest["revision"]) == (2, "local")
    assert len(manifest["upstream_digest"]) == 64


def test_the_lab_makes_sets_that_never_overlap(tmp_path):
    sets = [
        download(Source(name=split, split=split, rows=50), Data(), tmp_path)
        for split in ("train", "test")
    ]
    questions = [set(dataset.table()["question"].to_pylist()) for dataset in sets]
    assert [len(found) for found in questions] == [50, 50]
    assert not questions[0] & questions[1]
    assert all(level for level in sets[0].table()["level"].to_pylist())


def hub_folder(tmp_path):
    folder = tmp_path / "hub" / "toy"
    (folder / "train").mkdir(parents=True)
    rows = [chat_row(i, f"{i}?", str(i)) for i in (1, 0)]
    pq.write_table(pa.Table.from_pylist(rows), folder / "train" / "part.parquet")
    (folder / "README.md").write_text(
        "---\nconfigs:\n- config_name: default\n  data_files:\n"
        "  - split: train\n    path: train/*.parquet\n---\n"
    )
    return folder


@pytest.mark.parametrize("files", [[], ["train/part.parquet"]])
def test_a_folder_laid_out_like_a_hub_dataset_is_read_by_its_card(tmp_path, files):
    source = Source(name="toy", kind="hub", path=str(hub_folder(tmp_path)), files=files)
    dataset = download(source, Data(), tmp_path / "out")
    assert dataset.table()["question"].to_pylist() == ["0?", "1?"]
    assert dataset.manifest["revision"] == "local"


def test_what_the_hub_does_not_have_is_refused(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    wrong_split = Source(name="toy", kind="hub", path=str(hub_folder(tmp_path)), split="dev")
    with pytest.raises(ValueError, match=r"toy: could not read split 'dev'.*\n*.*hint: check name"):
        download(wrong_split, Data(), tmp_path / "out")
    with pytest.raises(ValueError, match="could not read 'nobody/nothing' at revision 'main'"):
        download(Source(name="toy", kind="hub", path="nobody/nothing"), Data(), tmp_path / "out")
    assert not (tmp_path / "out").exists()


GOOD = {"problem": "1+1?", "answer": "2"}
REFUSED = [
    # (file, its content, message)
    ("none.json", None, r"toy: no file .*none\.json\n\nhint: set its path"),
    (
        "a.jsonl",
        '\n{"a": 1}\n{"a": x}',
        r"jsonl file: line 3, column 7: Expecting value\n\nhint: mend",
    ),
    ("a.jsonl", "{}\n\n[3]\n", r"a\.jsonl holds '\[3\]' in line 3, which is no object"),
    ("a.csv", "a,b", r"ends in '\.csv', needed one of \.parquet, \.json, \.jsonl"),
    ("a.parquet", "no parquet", r"a\.parquet is no readable parquet file"),
    ("a.json", "[", r"a\.json is no readable json file"),
    ("a.json", "{}\n{}", r"a\.json is no readable json(.|\n)*hint: if .*, call it a\.jsonl$"),
    ("a.json", '{"a": 1}', r"toy: .*a\.json holds no list of objects"),
    ("a.json", "[]", r"toy: found no rows in .*a\.json, needed at least one"),
    ("a.json", [{"text": "q"}], r"row 0 has the columns text; needed prompt and reward_model"),
    ("a.json", [GOOD, {"problem": "q"}], r"row 1 has the columns problem; needed prompt"),
    (
        "a.json",
        [{"prompt": [], "reward_model": {"ground_truth": "1"}}],
        r"needed at least one turn",
    ),
    ("a.json", [chat_row(0, "q", "1") | {"reward_model": {}}], r"needed a ground_truth in it"),
    (
        "a.json",
        '[{"problem": "\\ud800", "answer": "1"}]',
        r"column problem: found str .*needed text",
    ),
]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_a_byte_order_mark_is_no_part_of_a_file(tmp_path, suffix):
    path = tmp_path / f"a.{suffix}"
    text = json.dumps([GOOD] if suffix == "json" else GOOD)
    path.write_text(text, encoding="utf-8-sig")
    assert download(file_source(path), Data(), tmp_path / "out").rows == 1


def test_a_files_own_names_of_columns_are_read_and_no_others(tmp_path):
    row = {"input": "1+1?", "target": "2", "level": "easy", "question": "else"}
    source = file_source(tmp_path / "a.json", columns={"question": "input", "answer": "target"})
    (tmp_path / "a.json").write_text(json.dumps([row]))
    (got,) = download(source, Data(), tmp_path / "out").table().to_pylist()
    assert (got["question"], got["answers"], got["level"]) == ("1+1?", ["2"], None)
    pq.write_table(pa.Table.from_pylist([row | {"text": "q"}]), tmp_path / "a.parquet")
    names = {"question": "input", "answer": "target", "level": "difficulty"}
    source = file_source(tmp_path / "a.parquet", columns=names)
    needed = "columns input, target, level, question, text; needed difficulty, its level"
    with pytest.raises(ValueError, match=f"a.parquet: row 0 has the {needed}"):
        download(source, Data(), tmp_path / "out")


def test_the_lines_that_the_docs_show_are_read(tmp_path):
    text = (Path(__file__).parents[2] / "docs" / "data.md").read_text(encoding="utf-8")
    plain, own = re.findall(r"(?:^    |`)({\".*?})`?", text, re.MULTILINE)
    names = re.search(r"'data\.train\.columns={question:(\w+),answer:(\w+)}'", text).groups()
    columns = dict(zip(("question", "answer"), names, strict=True))
    for line, settings in ((plain, {}), (own, {"columns": columns})):
        (tmp_path / "a.jsonl").write_text(line)
        source = file_source(tmp_path / "a.jsonl", **settings)
        assert download(source, Data(), tmp_path / "out").table()["answers"].to_pylist() == [["2"]]


def test_only_a_source_that_names_columns_is_another_for_it():
    assert "columns" not in Source().model_dump()
    names = {"question": "input", "answer": "target"}
    named = Source(kind="file", path="a.json", columns=names).model_dump()
    assert named["columns"] == names and Source(**named).columns == names


def test_files_that_are_looked_for_by_a_variable_are_missing_by_its_name(monkeypatch):
    monkeypatch.delenv("STAGECRAFT_FASTCURL_DATA", raising=False)
    source = load("experiment=lab/smoke", "data=fastcurl_files").data.train
    with pytest.raises(ValueError, match="no file STAGECRAFT_FASTCURL_DATA/train_L1"):
        paths(source)


@pytest.mark.parametrize(("name", "content", "message"), REFUSED)
def test_bad_files_are_refused_in_words(tmp_path, name, content, message):
    path = tmp_path / name
    if content is not None:
        path.write_text(content if isinstance(content, str) else json.dumps(content))
    with pytest.raises(ValueError, match=message) as refusal:
        download(file_source(path), Data(), tmp_path / "out")
    assert "\n\nhint: " in str(refusal.value)
    assert not (tmp_path / "out").exists()


CHAT = chat_row(0, "1+1?", "2")
BADLY_TYPED = [
    # (what differs from a good row, the column, what was found, what was needed)
    ({"prompt": "1+1?"}, "prompt", "str '1+1?'", "a list of turns"),
    ({"prompt": None}, "prompt", "nothing", "a list of turns"),
    ({"prompt": ["1+1?"]}, "prompt[0]", "str '1+1?'", "a role and a content"),
    ({"prompt": [{"content": "1+1?"}]}, "prompt[0].role", "nothing", "text"),
    ({"prompt": [{"role": "user", "content": None}]}, "prompt[0].content", "nothing", "text"),
    ({"prompt": [{"role": "user", "content": ["a"]}]}, "prompt[0].content", "list ['a']", "text"),
    ({"prompt": [{"role": "user", "content": " \n"}]}, "prompt[0].content", "str", "a question"),
    (
        {"prompt": [*CHAT["prompt"], {"role": "assistant", "content": "2"}]},
        *("prompt[1].role", "str 'assistant'", "user, as the last turn's"),
    ),
    ({"reward_model": {"ground_truth": b"2"}}, "reward_model.ground_truth", "bytes", "text, a"),
    ({"reward_model": {"ground_truth": True}}, "reward_model.ground_truth", "bool", "text, a"),
    ({"reward_model": "ground_truth"}, "reward_model", "str 'ground_truth'", "a ground_truth"),
    ({"reward_model": None}, "reward_model", "nothing", "a ground_truth"),
    ({"reward_model": {"style": "rule"}}, "reward_model", "dict {'style'", "a ground_truth"),
    ({"extra_info": "index 0"}, "extra_info", "str 'index 0'", "fields"),
    ({"extra_info": {"index": "7"}}, "extra_info.index", "str '7'", "a whole number of 64"),
    ({"extra_info": {"index": 0.5}}, "extra_info.index", "float 0.5", "a whole number of 64"),
    ({"extra_info": {"level": 2**40}}, "extra_info.level", "int 1099", "a whole number of 32"),
    ({"extra_info": {"level": "Level 9999999999"}}, "extra_info.level", "str 'L", "of 32 bits"),
    ({"data_source": 3}, "data_source", "int 3", "text"),
]
PLAIN_BADLY_TYPED = [
    ({"question": 11, "answer": "2"}, "question", "int 11", "text"),
    ({"problem": ["1+1?"], "answer": "2"}, "problem", "list ['1+1?']", "text"),
    ({"question": "  ", "answer": "2"}, "question", "str '  '", "a question"),
    ({"question": "q", "answer": b"2"}, "answer", "bytes b'2'", "text, a number, or a list"),
    ({"question": "q", "answer": True}, "answer", "bool True", "text, a number, or a list"),
    ({"question": "q", "answers": [None, b"2"]}, "answers", "bytes b'2'", "text, a number"),
    ({"question": "q", "answer": {"value": 2}}, "answer", "dict {'value': 2}", "text, a number"),
    ({"question": "q", "answer": "2", "index": "a"}, "index", "str 'a'", "a whole number of 64"),
    ({"question": "q", "answer": "2", "level": 2**31}, "level", "int 2147483648", "of 32 bits"),
    ({"question": "q", "answer": "2", "source": 1.5}, "source", "float 1.5", "text"),
]
ROWS = [(CHAT | change, *said) for change, *said in BADLY_TYPED] + PLAIN_BADLY_TYPED


def refused(tmp_path, *files):
    with pytest.raises(ValueError) as refusal:
        download(file_source(*files), Data(), tmp_path / "out")
    assert type(refusal.value) is ValueError
    assert not (tmp_path / "out").exists()
    fact, _, hint = str(refusal.value).partition("\n\nhint: ")
    assert fact and hint
    return fact


@pytest.mark.parametrize(("row", "column", "found", "needed"), ROWS)
def test_a_badly_typed_column_of_a_parquet_is_refused_in_words(
    tmp_path, row, column, found, needed
):
    good, bad = tmp_path / "good.parquet", tmp_path / "bad.parquet"
    pq.write_table(pa.Table.from_pylist([CHAT]), good)
    pq.write_table(pa.Table.from_pylist([row]), bad)
    fact = refused(tmp_path, good, bad)
    assert fact.startswith(f"toy: {bad}: row 0, column {column}: found {found}")
    assert f", needed {needed}" in fact or needed in fact.partition(", needed ")[2]


@pytest.mark.parametrize("suffix", ["json", "jsonl"])
def test_true_as_an_answer_is_refused_with_its_row(tmp_path, suffix):
    rows = [{"problem": "q", "answer": 2}, {"problem": "r", "answer": True}]
    lines = [json.dumps(row) for row in rows]
    path = tmp_path / f"toy.{suffix}"
    path.write_text("\n".join(lines) if suffix == "jsonl" else f"[{','.join(lines)}]")
    assert "row 1, column answer: found bool True, needed text" in refused(tmp_path, path)


def test_decimals_of_a_parquet_are_answers(tmp_path):
    truths = pa.array([Decimal("1.50"), Decimal("-3.00"), Decimal("0.00"), None])
    path = tmp_path / "toy.parquet"
    pq.write_table(pa.table({"problem": list("qrst"), "answer": truths}), path)
    made = download(file_source(path), Data(), tmp_path / "out").table()
    assert made["answers"].to_pylist() == [["1.5"], ["-3"], ["0"], []]


def test_a_chat_may_have_other_turns_before_the_question(tmp_path):
    before = [{"role": "system", "content": ""}, {"role": "user", "content": "Hello."}]
    turns = [*before, {"role": "assistant", "content": "Hello."}, *CHAT["prompt"]]
    (row,) = to_columns([CHAT | {"prompt": turns}], "toy", INSTRUCTION).to_pylist()
    assert row["question"] == "1+1?" and row["prompt"] == turns


def test_a_parquet_that_lacks_the_columns_is_refused_with_those_it_has(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": ["1+1?"], "label": ["2"]}), path)
    fact = refused(tmp_path, path)
    assert f"toy: {path}: row 0 has the columns text, label; needed prompt and reward_" in fact


def test_a_parquet_without_rows_is_refused(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([CHAT])[:0], path)
    assert f"toy: found no rows in {path}, needed at least one" in refused(tmp_path, path)


def _without_bytes(whole):
    return b""


def _cut(whole):
    return whole[: len(whole) // 2]


def _damaged_page(whole):
    return whole[:4] + bytes(60) + whole[64:]


def _damaged_footer(whole):
    at = len(whole) - 8 - 100
    return whole[:at] + bytes(range(60)) + whole[at + 60 :]


@pytest.mark.parametrize("damage", [_without_bytes, _cut, _damaged_page, _damaged_footer])
def test_a_damaged_parquet_is_refused(tmp_path, damage):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.Table.from_pylist([CHAT] * 50), path)
    path.write_bytes(damage(path.read_bytes()))
    assert f"toy: {path} is no readable parquet file: " in refused(tmp_path, path)


def test_files_of_both_formats_make_one_set(tmp_path):
    for name, row in (("chat", CHAT), ("plain", {"problem": "1+2?", "answer": 3, "level": 2.0})):
        pq.write_table(pa.Table.from_pylist([row]), tmp_path / f"{name}.parquet")
    source = file_source(tmp_path / "chat.parquet", tmp_path / "plain.parquet")
    table = download(source, Data(), tmp_path / "out").table()
    assert table["question"].to_pylist() == ["1+1?", "1+2?"]
    assert table["answers"].to_pylist() == [["2"], ["3"]]
    assert table["level"].to_pylist() == [None, 2]


def test_indices_that_pandas_made_floats_of_are_whole_numbers(tmp_path):
    rows = [chat_row(float(i), f"{i}?", "1") for i in (1, 0)]
    assert to_columns(rows, "toy", "")["id"].to_pylist() == ["toy-0", "toy-1"]


def test_a_source_of_files_names_them(tmp_path):
    with pytest.raises(ValueError, match="found no path, needed a file"):
        download(Source(kind="file"), Data(), tmp_path)


@needs_real_data
def test_the_five_test_sets_load_with_all_their_truths(tmp_path, monkeypatch):
    monkeypatch.setenv("STAGECRAFT_FASTCURL_DATA", str(REAL))
    experiment = load("experiment=fastcurl", "evaluation=fastcurl_files")
    sets = {
        source.name: download(source, experiment.data, tmp_path)
        for source in experiment.evaluation.benchmarks
    }
    assert {name: dataset.rows for name, dataset in sets.items()} == {
        "aime2024": 30,
        "amc2023": 83,
        "math500": 500,
        "minerva": 272,
        "olympiadbench": 675,
    }
    found = {name: dataset.table()["answers"].to_pylist() for name, dataset in sets.items()}
    assert found["aime2024"][0] == ["204"]
    assert found["amc2023"][0] == ["142"]  # 142.0
    assert found["math500"][0] == ["\\left( 3, \\frac{\\pi}{2} \\right)"]
    assert found["minerva"][0] == ["9.6"]  # ["9.6\n"]
    assert found["minerva"][10] == ["0.01", "0.02"]  # ["0.01\n", "0.02\n"]
    assert found["olympiadbench"][2] == ["$2^{1009}$"]
    for name, accepted in found.items():
        flat = [answer for row in accepted for answer in row]
        assert [answer for answer in flat if not answer_is_parsable(answer)] == [], name
    for dataset in sets.values():
        assert not any(INSTRUCTION in text for text in dataset.table()["question"].to_pylist())
