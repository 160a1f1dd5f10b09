"""The grader: what is right, and that nothing a model writes can hang, exhaust or fool it."""

import subprocess
import sys
import threading
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.grader_cases import cases
from benchmarks.grader_data import folder, real_answers
from trainer.rewards import (
    ANY,
    DEEPSCALER,
    Form,
    Limits,
    Reason,
    answer_is_parsable,
    configure,
    grade,
    grade_many,
)

CASES = cases()


@pytest.fixture(scope="module", autouse=True)
def short_limit():
    configure(Limits(seconds=2.0))
    yield
    configure(Limits())


@pytest.fixture(scope="module")
def graded():
    return grade_many([case.response for case in CASES], [[case.answer] for case in CASES])


@pytest.mark.parametrize("place", range(len(CASES)), ids=lambda i: f"{CASES[i].group}-{i}")
def test_cases_by_hand_are_graded_as_they_should_be(graded, place):
    assert graded[place].correct == CASES[place].expected, (CASES[place], graded[place])


def test_cases_by_hand_are_many_and_of_both_kinds():
    assert len(CASES) >= 300
    assert min(sum(case.expected is kind for case in CASES) for kind in (True, False)) > 100


# Whole responses, with both tags and a box asked for: (response, correct, reason, answer).
RESPONSES = [
    ("\\boxed{7}", False, Reason.NO_THINK_TAG, None),
    ("", False, Reason.NO_THINK_TAG, None),
    ("2</think>\\boxed{7}", False, Reason.NO_THINK_TAG, None),  # closed, and never opened
    ("<think>2\\boxed{7}", False, Reason.NO_THINK_TAG, None),
    ("<think>2</think>\\boxed{7}", True, Reason.SAME_TEXT, "7"),
    ("<think>\\boxed{7}</think>no box, 7", False, Reason.NO_ANSWER, None),
    ("<think></think>\\boxed{}", False, Reason.NO_ANSWER, None),
    ("<think></think>\\boxed{$ $}", False, Reason.NO_ANSWER, None),
    ("<think></think>\\boxed{7", False, Reason.NO_ANSWER, None),
    ("<think></think>\\boxed{8} no, \\boxed{7}", True, Reason.SAME_TEXT, "7"),
    ("<think></think>\\boxed{7} no, \\boxed{8}", False, Reason.WRONG, "8"),
    ("<think></think>\\boxed{7}</think>\\boxed{8}", True, Reason.SAME_TEXT, "7"),  # FastCuRL's rule
    ("<think></think>\\boxed{\\boxed{7}}", True, Reason.SAME_TEXT, "7"),
    ("<think></think>\\fbox{7}", True, Reason.SAME_TEXT, "7"),
    ("<think></think>\\boxed{14/2}", True, Reason.SAME_VALUE, "14/2"),
    ("<think></think>\\boxed{" + "x" * 3000 + "}", False, Reason.UNPARSABLE, "x" * 3000),
]


@pytest.mark.parametrize(("response", "correct", "reason", "answer"), RESPONSES)
def test_the_form_of_deepscaler_asks_for_both_tags_and_a_box(response, correct, reason, answer):
    found = grade(response, ["7"], form=DEEPSCALER)
    assert (found.correct, found.reason, found.answer) == (correct, reason, answer)


def test_a_tag_that_the_prompt_opened_counts_as_the_responses_own():
    assert grade("2</think>\\boxed{7}", ["7"], form=DEEPSCALER, opened=True).correct
    assert grade("\\boxed{7}", ["7"], opened=True).reason is Reason.NO_THINK_TAG


def test_a_response_that_was_cut_off_says_so_and_a_number_in_it_is_no_answer():
    assert grade("so 3+4=7", ["7"]).correct
    assert grade("so 3+4=7", ["7"], truncated=True).reason is Reason.TRUNCATED
    assert grade("<think>so 7", ["7"], truncated=True).reason is Reason.TRUNCATED
    assert grade("<think></think>\\boxed{7} as", ["7"], truncated=True).correct


def test_any_accepted_answer_will_do():
    assert grade("\\boxed{0.02}", ["0.01", "0.02"]).correct
    assert grade("\\boxed{x+1}", ["x", "1+x"]).correct
    assert not grade("\\boxed{0.03}", ["0.01", "0.02"]).correct
    assert not grade("\\boxed{0.03}", []).correct


def test_an_answer_that_takes_too_long_says_so():
    found = grade("\\boxed{9^{9^{9^9}}+q}", ["q+3"])
    assert (found.correct, found.reason) == (False, Reason.TIMEOUT)
    assert found.seconds < 2.0 + 0.5


def test_many_are_graded_in_their_order_as_one_by_one():
    responses = ["\\boxed{1}", "\\boxed{x+1}", "\\boxed{1}", "none", "\\boxed{x+1}"]
    answers = [["1"], ["1+x"], ["2"], ["3"], "x+2"]
    together = grade_many(responses, answers)
    alone = [grade(*pair) for pair in zip(responses, answers, strict=True)]
    assert [(g.correct, g.reason, g.answer) for g in together] == [
        (g.correct, g.reason, g.answer) for g in alone
    ]
    assert [g.correct for g in together] == [True, True, False, False, False]
    assert grade_many([], []) == []
    with pytest.raises(ValueError, match="2 responses and 1 lists of answers"):
        grade_many(["a", "b"], [["1"]])


def test_threads_may_grade_at_once():
    results = {}

    def work(i):
        results[i] = grade(f"\\boxed{{x+{i}}}", [f"{i}+x"]).correct

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)


PIECES = r"""\frac \sqrt \left( \right) \pm
\begin{pmatrix} \end{pmatrix} \text \boxed { } { } ( ) [ ]
^ _ & \\ , ; = < > ! % $ 0 1 9 12 . x y e i \pi \infty \int
\sum_{n=1} \log + - * / | import eval '"""
LATEX = st.lists(st.sampled_from([*PIECES.split(), " "]), max_size=25).map("".join)


@given(LATEX)
@settings(max_examples=60)
def test_no_latex_like_text_hangs_raises_or_is_right_by_chance(text):
    found = grade(f"<think></think>\\boxed{{{text}}}", ["\\int_0^q f(z) dz"])
    assert not found.correct
    assert found.seconds < 2.0 + 0.5


@given(st.text(max_size=200))
@settings(max_examples=200)
def test_any_text_gets_a_grade(text):
    for form in (ANY, DEEPSCALER, Form("required"), Form(boxed=True)):
        assert not grade(text, ["neither"], form=form).correct or "neither" in text.lower()


@pytest.mark.parametrize(
    ("answer", "parsable"),
    [
        ("7", True),
        ("\\text{Evelyn}", True),
        ("\\left[ 0, \\infty \\right)", True),
        ("\\{1, 2\\}", True),
        ("", False),
        (" \n", False),
        ("$$", False),
        ("\\frac{1}{2", False),
        ("1}", False),
        ("x" * 2001, False),
    ],
)
def test_an_answer_that_no_box_can_hold_is_not_parsable(answer, parsable):
    assert answer_is_parsable(answer) is parsable


@pytest.mark.skipif(not folder().is_dir(), reason=f"no real data in {folder()}")
def test_every_real_answer_equals_itself_but_those_that_no_box_can_hold():
    truths = real_answers()
    answers = {answer for accepted in truths for answer in accepted}
    grades = dict(
        zip(
            answers,
            grade_many([f"\\boxed{{{one}}}" for one in answers], [[one] for one in answers]),
            strict=True,
        )
    )
    wrong = {answer for answer in answers if not grades[answer].correct}
    assert len(truths) == 41_875
    assert wrong == {answer for answer in answers if not answer_is_parsable(answer)}
    assert sum(not grades[accepted[0]].correct for accepted in truths) < 0.005 * len(truths)


def test_cheap_answers_start_no_process_and_import_nothing_heavy():
    code = """
import sys, trainer.rewards
from trainer.grading import pool
for answer in ("7", "8", "a;b", "-14/2", "x = 7", "7 cm", "no way", "(1,2)", "{"):
    trainer.rewards.grade(f"<think></think>\\\\boxed{{{answer}}}", ["7"])
assert pool.shared().pid is None
print([m for m in ("sympy", "torch", "math_verify") if m in sys.modules])
"""
    root = Path(__file__).parents[2]
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, cwd=root
    )
    assert done.stdout.strip() == "[]"
