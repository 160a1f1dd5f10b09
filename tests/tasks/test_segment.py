import os
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.load import load
from conf.schema import Data, Segmentation, Selection
from tasks.artifacts import Dataset
from tasks.download import download
from tasks.segment import pass_rates_in, segment, split_by_length
from tasks.segmentations import remaining
from tasks.upstream import to_columns
from trainer.records import append_record
from trainer.rewards import answer_is_parsable
from trainer.selection import Bounds, Prompt, Stream, make_curriculum
from trainer.selection.simulator import Simulator, constant

BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "fastcurl"
REAL = Path(os.environ.get("STAGECRAFT_FASTCURL_DATA", BESIDE))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="FastCuRL's files are not here")


def table_of(*lengths):
    rows = [{"question": "x" * length, "answer": "1"} for length in lengths]
    return to_columns(rows, "toy", "Think.")


def test_the_threshold_is_the_rounded_mean_and_belongs_to_the_short():
    split = split_by_length(table_of(1, 2, 4, 6))  # mean 3.25
    assert (split.mean, split.threshold) == (3.25, 3)
    assert split.short == [True, True, False, False]
    split = split_by_length(table_of(2, 3, 3, 3))  # mean 2.75, rounded up to 3
    assert split.threshold == 3 and all(split.short)


def test_a_threshold_in_characters_is_taken_as_it_is():
    assert split_by_length(table_of(1, 5, 6), threshold=5).short == [True, True, False]


def test_a_chat_is_as_long_as_its_python_text():
    split = split_by_length(table_of(3), length_of="repr_chat")
    assert split.lengths == [len("[{'role': 'user', 'content': 'xxx Think.'}]")]


def test_characters_are_counted_not_bytes():
    table = to_columns([{"question": "é∑語", "answer": "1"}], "toy", "")
    assert split_by_length(table).lengths == [3]


@given(st.lists(st.integers(1, 50), min_size=1, max_size=30))
@settings(max_examples=50)
def test_short_and_long_divide_the_set_at_the_threshold(lengths):
    split = split_by_length(table_of(*lengths))
    assert split.lengths == lengths
    assert all(
        (length <= split.threshold) is short
        for length, short in zip(lengths, split.short, strict=True)
    )
    assert any(split.short), "no mean is below every length"


def test_an_empty_set_is_refused():
    with pytest.raises(ValueError, match="found no rows to divide"):
        split_by_length(table_of(1)[:0])


def test_prompt_sets_are_written_with_their_rule_and_found_again(tmp_path):
    train = Dataset.write(tmp_path / "train", "toy", table_of(9, 1, 8, 2))
    sets = segment(train, Data(), tmp_path)
    assert {name: part.table()["index"].to_pylist() for name, part in sets.items()} == {
        "L1": [1, 3],
        "L2": [0, 1, 2, 3],
        "L3": [0, 2],
    }
    assert sets["L2"].digest == train.digest
    manifest = sets["L3"].manifest
    assert (manifest["segment"], manifest["rule"]) == ("L3", "raw_question")
    assert (manifest["mean"], manifest["threshold"]) == (5, 5)
    assert manifest["counts"] == {"L1": 2, "L2": 4, "L3": 2}
    assert manifest["parent_digest"] == train.digest
    assert manifest["lengths"]["max"] == 9
    assert sets["L1"].folder.name.endswith("-L1") and sets["L1"].name == "toy-L1"
    made = sets["L1"].path.stat().st_mtime_ns
    assert segment(train, Data(), tmp_path) == sets
    assert sets["L1"].path.stat().st_mtime_ns == made
    other = segment(train, Data(segmentation=Segmentation(threshold=8)), tmp_path)
    assert other["L1"].rows == 3 and other["L1"].folder != sets["L1"].folder


def test_an_empty_prompt_set_is_written_and_says_so(tmp_path):
    train = Dataset.write(tmp_path / "train", "toy", table_of(4, 4))
    sets = segment(train, Data(), tmp_path)
    assert (sets["L1"].rows, sets["L3"].rows) == (2, 0)
    assert sets["L3"].manifest["lengths"]["mean"] is None


@pytest.fixture(scope="module")
def fastcurl(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("STAGECRAFT_FASTCURL_DATA", str(REAL))
        data = load("experiment=fastcurl", "data=fastcurl_files").data
    output = tmp_path_factory.mktemp("fastcurl")
    return download(data.train, data, output), data, output


@needs_real_data
def test_fastcurls_split_of_april_comes_out_row_for_row(fastcurl):
    """Song et al. 2025, release of 17 April: train_L1.parquet and train_L3.parquet."""
    train, data, output = fastcurl
    assert train.rows == 40_315
    assert train.table()["index"].to_pylist() == list(range(40_315))
    sets = segment(train, data, output)
    assert [sets[name].rows for name in ("L1", "L2", "L3")] == [24_976, 40_315, 15_339]
    manifest = sets["L1"].manifest
    assert round(manifest["mean"], 2) == 247.24
    assert manifest["threshold"] == 247
    assert train.manifest["lengths"] == {"mean": manifest["mean"], "median": 206, "max": 5154}
    for name in ("L1", "L3"):
        released = pq.read_table(REAL / f"train_{name}.parquet")
        mine = sets[name].table()
        index = pc.struct_field(released["extra_info"], "index")
        assert mine["index"].to_pylist() == index.to_pylist()
        # Same prompts and same truths, not only the same indices.
        prompts = [[(t["role"], t["content"]) for t in chat] for chat in mine["prompt"].to_pylist()]
        assert prompts == [
            [(t["role"], t["content"]) for t in chat] for chat in released["prompt"].to_pylist()
        ]
        truth = pc.struct_field(released["reward_model"], "ground_truth").to_pylist()
        for text, accepted in zip(truth, mine["answers"].to_pylist(), strict=True):
            if text and "boxed" not in text:
                assert accepted == [text.strip()]


@needs_real_data
def test_rows_that_are_left_out_for_their_length_move_no_other(fastcurl, tmp_path):
    train, data, _ = fastcurl
    short = pc.less_equal(pc.utf8_length(train.table()["question"]), 1500)
    kept = Dataset.write(tmp_path / "kept", "kept", train.table().filter(short))
    sets = segment(kept, data, tmp_path)
    assert kept.rows < 40_315 and round(sets["L1"].manifest["mean"]) < 247
    assert sets["L1"].rows == 24_976 and sets["L3"].rows == kept.rows - 24_976


@needs_real_data
def test_fastcurls_split_of_march_comes_out_by_the_other_length(fastcurl):
    """Song et al. 2025, release of 19 March: short, all and long chains of thought."""
    train, _, output = fastcurl
    data = Data(segmentation=Segmentation(length_of="repr_chat"))
    sets = segment(train, data, output)
    assert [sets[name].rows for name in ("L1", "L2", "L3")] == [25_008, 40_315, 15_307]
    assert round(sets["L1"].manifest["mean"], 2) == 356.88
    assert sets["L1"].manifest["threshold"] == 357


@needs_real_data
def test_eight_of_fastcurls_training_problems_cannot_be_graded(fastcurl):
    rows = fastcurl[0].table().to_pylist()
    indices = [row["index"] for row in rows if not any(map(answer_is_parsable, row["answers"]))]
    # Two truths lack a closing brace, six are empty.
    assert indices == [3153, 4949, 6328, 6336, 6408, 6415, 38209, 38211]


def sealed(number, name, correct, rollouts, fate="trained"):
    return {"number": number, "id": name, "correct": correct, "rollouts": rollouts, "fate": fate}


def test_all_groups_that_a_stage_sampled_tell_pass_rates_and_the_last_draw_wins(tmp_path):
    steps = [
        [sealed(4, "a", 4.0, 4, "solved"), sealed(0, "a", 1.0, 2), sealed(1, "b", 0.0, 4)],
        [sealed(2, "b", 3.0, 24), sealed(3, "c", 0.0, 4, "hopeless"), sealed(5, "d", 0, 0)],
        [sealed(6, "c", 0.0, 0, "failed: timeout"), sealed(7, "b", 4.0, 4, "failed: grader")],
    ]
    for step, groups in enumerate(steps, 1):
        append_record(tmp_path / "groups.jsonl", {"step": step, "groups": groups})
    assert pass_rates_in(tmp_path) == {"a": 1.0, "b": 0.125, "c": 0.0}


@pytest.mark.parametrize("groups", [None, [], [{"id": "a"}], [7], ["a"]])
def test_where_no_pass_rates_are_known_it_is_said(groups, tmp_path):
    if groups is not None:
        append_record(tmp_path / "groups.jsonl", {"step": 1, "groups": groups})
    with pytest.raises(ValueError, match=r"groups.jsonl: found .*\n\nhint: train that stage again"):
        pass_rates_in(tmp_path)


@pytest.mark.parametrize("name", ["uniform", "dapo", "speed", "greso", "shuffle_r1"])
def test_solved_and_hopeless_prompts_are_left_out_after_every_selection(name, tmp_path):
    rates = [0.0] * 10 + [1.0] * 10 + [0.5] * 10
    ids = [f"p{i}" for i in range(len(rates))]
    curriculum = make_curriculum(
        Selection(name=name).model_dump(),
        [Prompt(name) for name in ids],
        group_size=8,
        seed=0,
        steps=9,
    )
    stream = Stream(curriculum, Bounds(4, 16, 1, 64))
    for step, (_, _, groups) in enumerate(Simulator(stream, constant(rates)).steps(9), 1):
        append_record(tmp_path / "groups.jsonl", {"step": step, "groups": groups})
    kept = remaining(ids, pass_rates_in(tmp_path), solved=1.0, hopeless=0.0)
    # Four rollouts of a screening may all be right by luck.
    assert kept[:20].count(False) >= 15 and kept[20:].count(True) >= 7
