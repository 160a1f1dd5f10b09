import os
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.load import load
from conf.schema import GATES, Gates
from tasks import gates as gating
from tasks.download import download
from tasks.gates import Finding, inspect, judge, matrix, told
from tasks.upstream import to_columns
from trainer.grading.pool import Outcome

BESIDE = Path(__file__).parents[2].parent / "shared" / "data" / "fastcurl"
REAL = Path(os.environ.get("STAGECRAFT_FASTCURL_DATA", BESIDE))
needs_real_data = pytest.mark.skipif(not REAL.is_dir(), reason="FastCuRL's files are not here")
FLAG = Gates(**dict.fromkeys(GATES, "flag"))


def table_of(*rows, name="set"):
    return to_columns([{"question": q, "answer": a} for q, a in rows], name, "")


def found(table, gates=FLAG, benchmarks=None, limit=1000):
    findings = inspect(table, gates, benchmarks or {}, lambda row: len(str(row["prompt"])), limit)
    assert tuple(one.gate for one in findings) == GATES
    return {one.gate: one for one in findings}


def test_the_same_question_with_the_same_answer_is_a_duplicate():
    gates = found(table_of(("1+1?", "2"), ("1+2?", "3"), ("1+1?", "2"), ("1 + 1 ?", "2")))
    assert gates["exact_duplicates"].groups == [[0, 2]]
    assert "3 distinct pairs" in gates["exact_duplicates"].note
    assert gates["normalized_duplicates"].groups == [[0, 2, 3]]
    assert gates["normalized_duplicates"].rows == [0, 2, 3]
    assert gates["conflicting_answers"].rows == []


def test_answers_conflict_only_where_the_grader_tells_them_apart():
    rows = [("a?", "1/2"), ("a?", "0.5"), ("b?", "1"), ("b?", "2"), ("c?", "1"), ("c?", "")]
    conflict = found(table_of(*rows))["conflicting_answers"]
    assert conflict.groups == [[2, 3]]
    assert conflict.note == (
        "2 questions with answers that are written differently (2 where the question is the same "
        "to the letter), and 1 with answers that the grader finds unequal"
    )


def test_of_alike_questions_with_other_answers_none_stays():
    table = table_of(("1+1?", "2"), ("1 + 1 ?", "3"), ("1+2?", "3"))
    findings = found(table)
    assert findings["conflicting_answers"].groups == [[0, 1]]
    assert (
        "1 question with answers that are written differently (0 where"
        in findings["conflicting_answers"].note
    )
    verdict = judge(3, findings.values(), Gates(), table["id"].to_pylist())
    assert verdict.keep == [False, False, True]


def test_an_answer_that_is_not_graded_equal_to_itself_is_found():
    rows = [("a?", "7"), ("b?", ""), ("c?", r"\frac{1}{2"), ("d?", "x" * 3000), ("e?", "$$")]
    assert found(table_of(*rows))["ungradable_answers"].rows == [1, 2, 3, 4]


def test_an_answer_that_the_symbolic_parser_does_not_read_is_found():
    rows = [("a?", "7"), ("b?", r"\frac{x}{2}"), ("c?", r"\odot\odot"), ("d?", "")]
    unparsable = found(table_of(*rows))["unparsable_answers"]
    assert unparsable.rows == [2]
    assert unparsable.note == (
        "of 2 distinct answers that are not plain numbers, the symbolic parser cannot read 1"
    )


def test_a_prompt_over_the_limit_is_found():
    overlong = found(table_of(("a?", "1"), ("b" * 99, "1")), limit=100)["overlong_prompts"]
    assert overlong.rows == [1]


def test_an_evaluation_problem_in_the_training_set_is_found_with_the_pair():
    problem = "A farmer has 17 sheep and 3 dogs; each sheep eats 2 kilos a day. How much is that?"
    near = problem.replace("kilos", "pounds")
    table = table_of((problem.upper(), "34"), (near, "34"), ("1+1?", "2"))
    gates = found(table, benchmarks={"test": table_of((problem, "34"), name="test")})
    assert [(m.row, m.benchmark, m.id, m.score) for m in gates["overlap_exact"].matches] == [
        (0, "test", "test-0", 1.0)
    ]
    assert gates["overlap_ngrams"].rows == [0]  # no 13 of its words in a row are the same
    assert gates["overlap_minhash"].rows == [0]
    assert found(table, FLAG.model_copy(update={"similarity": 0.6, "ngram": 4}), {
        "test": table_of((problem, "34"), name="test")
    })["overlap_minhash"].rows == [0, 1]  # fmt: skip


def findings_of(**rows):
    return [
        Finding(gate, rows.get(gate, []), groups=[rows[gate]] if gate in rows else [])
        for gate in GATES
    ]


def test_each_action_does_what_it_says():
    ids = [f"s-{row}" for row in range(4)]
    findings = findings_of(exact_duplicates=[0, 2, 3])
    for action, kept in (("flag", [0, 1, 2, 3]), ("keep-first", [0, 1]), ("drop", [1])):
        verdict = judge(4, findings, FLAG.model_copy(update={"exact_duplicates": action}), ids)
        assert np.flatnonzero(verdict.keep).tolist() == kept
        assert len(verdict.dropped["exact_duplicates"]) == 4 - len(kept)
    with pytest.raises(
        ValueError, match=r"gate exact_duplicates found 3 of 4 rows \(first: s-0, s"
    ):
        judge(4, findings, FLAG.model_copy(update={"exact_duplicates": "fail"}), ids)


def test_of_duplicates_the_first_good_one_stays():
    table = table_of(("a?", ""), ("a?", "1"), ("a ?", "1"))
    gates = Gates()
    findings = list(found(table).values())
    verdict = judge(3, findings, gates, table["id"].to_pylist())
    assert verdict.keep == [False, True, False]
    assert verdict.dropped["ungradable_answers"] == [0]
    assert verdict.dropped["normalized_duplicates"] == [2]


def test_gates_that_leave_nothing_say_which_took_it():
    table = table_of(("a?", ""), ("b?", ""))
    findings = list(found(table).values())
    with pytest.raises(
        ValueError, match=r"leave none of 2 rows \(ungradable_answers 2\)\n\nhint: "
    ):
        judge(2, findings, Gates(), table["id"].to_pylist())


@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["1", "2", ""])), max_size=8))
@settings(max_examples=40)
def test_what_stays_has_nothing_left_that_a_dropping_gate_would_find(rows):
    table = table_of(("c", "1"), *rows)
    verdict = judge(table.num_rows, found(table).values(), Gates(), table["id"].to_pylist())
    rest = found(table.filter(verdict.keep))
    assert all(not rest[gate].rows for gate in GATES)
    counted = sum(map(len, verdict.dropped.values()))
    assert counted == table.num_rows - sum(verdict.keep)


@pytest.mark.parametrize("workers", [1, 3])
def test_the_number_of_workers_changes_no_finding(workers):
    rows = [(f"{n}?", rf"\frac{{x}}{{{n}}}" if n % 3 else r"\odot" * n) for n in range(2, 9)]
    one = found(table_of(*rows), FLAG.model_copy(update={"workers": workers}))
    assert one["unparsable_answers"].rows == [1, 4]


def test_a_matrix_counts_evaluation_problems_not_rows():
    problem = table_of(("one two three four", "1"), name="test")
    table = table_of(*[("one two three four", "1")] * 3, ("else", "1"))
    findings = list(found(table, benchmarks={"test": problem}).values())
    inside = {"all": np.ones(4, bool), "rest": np.array([False, False, False, True])}
    counts = matrix(findings, inside, ["test"])
    assert counts["all"]["test"]["overlap_exact"] == 1
    assert counts["rest"]["test"] == dict.fromkeys(counts["rest"]["test"], 0)


def test_findings_on_disk_name_rows_and_hold_no_text():
    table = table_of(("a secret question", "2"), ("a secret question", "3"))
    findings = list(found(table).values())
    verdict = judge(2, findings, FLAG, ["s-0", "s-1"])
    written = told(findings, verdict, FLAG, ["s-0", "s-1"])
    assert "secret" not in str(written)
    conflict = next(one for one in written if one["gate"] == "conflicting_answers")
    assert conflict["groups"] == [["s-0", "s-1"]]
    assert (conflict["action"], conflict["found"], conflict["dropped"]) == ("flag", 2, 0)


@needs_real_data
def test_fastcurls_set_has_the_faults_that_are_known_of_it(tmp_path, monkeypatch):
    """Counted by others from the same files; how near each pair is, by the definitions here."""
    # What the symbolic parser reads takes a minute, and is counted in benchmarks/data.py.
    monkeypatch.setattr(gating, "_compared", lambda answers, _: [Outcome.DIFFERENT] * len(answers))
    monkeypatch.setenv("STAGECRAFT_FASTCURL_DATA", str(REAL))
    experiment = load("experiment=fastcurl", "data=fastcurl_files", "evaluation=fastcurl_files")
    train = download(experiment.data.train, experiment.data, tmp_path).table()
    tests = {
        one.name: download(one, experiment.data, tmp_path).table()
        for one in experiment.evaluation.benchmarks
    }
    gates = {one.gate: one for one in inspect(train, experiment.gates, tests, lambda row: 0, 1024)}
    note = gates["exact_duplicates"].note
    assert note == "39,616 distinct pairs of question and answers, 39,387 distinct questions"
    conflicts = gates["conflicting_answers"]
    assert conflicts.note == (
        "219 questions with answers that are written differently (171 where the question is the "
        "same to the letter), and 171 with answers that the grader finds unequal"
    )
    assert (len(conflicts.groups), len(conflicts.rows)) == (171, 591)
    assert len(gates["normalized_duplicates"].groups) == 1136
    assert gates["normalized_duplicates"].note.startswith("38,800 distinct questions")
    assert len(gates["ungradable_answers"].rows) == 8

    def problems(gate, benchmark):
        return len({m.id for m in gates[gate].matches if m.benchmark == benchmark})

    assert problems("overlap_exact", "math500") == 7
    assert problems("overlap_exact", "olympiadbench") == 1
    assert problems("overlap_ngrams", "math500") == 18
    assert problems("overlap_ngrams", "olympiadbench") == 6
    assert problems("overlap_minhash", "olympiadbench") >= 1
    for benchmark in ("aime2024", "amc2023", "minerva"):
        assert problems("overlap_exact", benchmark) == problems("overlap_ngrams", benchmark) == 0
    verdict = judge(train.num_rows, gates.values(), experiment.gates, train["id"].to_pylist())
    assert all(verdict.keep), "the published recipe keeps everything"
