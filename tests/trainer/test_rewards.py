import os
import resource
import subprocess
import sys
import threading
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.rewards import (
    Reason,
    Verifier,
    answer_is_parsable,
    grade,
    grade_many,
    last_boxed,
    normalized,
    number,
)

# (what stands in the box, accepted answers, expected reason), decided without a parser.
CHEAP = [
    ("7", ["7"], Reason.SAME_TEXT),
    ("025", ["25"], Reason.SAME_NUMBER),  # AIME pads with zeros
    ("25", ["025"], Reason.SAME_NUMBER),
    ("142", ["142.0"], Reason.SAME_NUMBER),
    ("1,000", ["1000"], Reason.SAME_NUMBER),
    ("1{,}234{,}567", ["1234567"], Reason.SAME_NUMBER),
    ("1,2", ["12"], Reason.WRONG),  # a pair, no thousands
    ("-3", ["3"], Reason.WRONG),
    ("\\frac{14}{2}", ["7"], Reason.SAME_NUMBER),
    ("2/4", ["\\frac12"], Reason.SAME_NUMBER),
    ("0.5", ["\\dfrac{1}{2}"], Reason.SAME_NUMBER),
    ("-\\frac{2}{3}", ["-\\frac{2}{3}"], Reason.SAME_TEXT),
    ("\\frac{-2}{3}", ["-\\frac{2}{3}"], Reason.SAME_NUMBER),
    ("\\frac{1}{0}", ["1"], None),  # no number: left to the parser
    ("0.333333", ["1/3"], Reason.SAME_NUMBER),  # six places, rounded
    ("0.33", ["1/3"], Reason.WRONG),
    ("7e37", ["7 \\times 10^{37}"], Reason.SAME_NUMBER),
    ("50\\%", ["0.5"], Reason.SAME_NUMBER),
    ("0.5", ["50\\%"], Reason.SAME_NUMBER),
    ("80", ["80\\%"], Reason.SAME_TEXT),  # as the training reward of FastCuRL has it
    ("8", ["80\\%"], Reason.WRONG),
    ("$7$", ["7"], Reason.SAME_TEXT),
    ("\\$7", ["7"], Reason.SAME_TEXT),
    ("90^\\circ", ["90"], Reason.SAME_TEXT),
    ("x = 7", ["7"], Reason.SAME_NUMBER),
    ("x=0", ["0"], Reason.SAME_NUMBER),
    ("7\\text{ cm}^2", ["7"], Reason.SAME_NUMBER),
    ("7 square units", ["7"], Reason.SAME_NUMBER),
    ("7n", ["7"], Reason.WRONG),  # a variable is no unit
    ("7 n", ["7"], Reason.WRONG),
    ("7 pi", ["7"], Reason.WRONG),
    ("3+4", ["7"], Reason.WRONG),  # an integer is to be given worked out
    ("a7;b", ["7"], Reason.WRONG),
    ("\\text{Evelyn}", ["Evelyn"], Reason.SAME_TEXT),
    ("\\left( 3, \\frac{\\pi}{2} \\right)", ["(3,\\frac{\\pi}{2})"], Reason.SAME_TEXT),
    ("0.02", ["0.01", "0.02"], Reason.SAME_TEXT),  # any accepted answer will do
    ("0.03", ["0.01", "0.02"], Reason.WRONG),
]

# The same, where only the parser can tell.
PARSED = [
    ("2^3", ["8"], Reason.SAME_EXPRESSION),
    ("\\frac{\\sqrt2}{2}", ["\\frac{1}{\\sqrt{2}}"], Reason.SAME_EXPRESSION),
    ("(x+1)^2", ["x^2+2x+1"], Reason.SAME_EXPRESSION),
    ("(x+1)^2", ["x^2+1", "x^2+2x+1"], Reason.SAME_EXPRESSION),
    ("\\{1,2\\}", ["\\{2,1\\}"], Reason.SAME_EXPRESSION),
    ("(2,1)", ["(1,2)"], Reason.WRONG),  # order counts in a pair
    ("x^2", ["x^3"], Reason.WRONG),
    ("$1+x$", ["$x+1$"], Reason.SAME_EXPRESSION),
    ("\\frac{1}{", ["x"], Reason.NO_ANSWER),  # the box is never closed
    ("__import__('os').system('touch marker')", ["x"], Reason.WRONG),  # words, not orders
]


@pytest.fixture(scope="module")
def verifier():
    verifier = Verifier()
    yield verifier
    verifier.close()


@pytest.fixture(autouse=True)
def one_verifier(monkeypatch, verifier):
    monkeypatch.setattr("trainer.rewards._verifier", lambda: verifier)


@pytest.mark.parametrize(("answer", "accepted", "reason"), CHEAP)
def test_text_and_numbers_decide_without_a_process(answer, accepted, reason, monkeypatch):
    asked = []
    monkeypatch.setattr(Verifier, "compare", lambda self, *asks: asked.append(asks) or Reason.WRONG)
    got = grade(f"so</think>\\boxed{{{answer}}}", accepted)
    assert bool(asked) == (reason is None)
    assert got.answer == answer
    if reason:
        assert (got.correct, got.reason) == (reason.startswith("same"), reason)


@pytest.mark.parametrize(("answer", "accepted", "reason"), PARSED)
def test_the_parser_decides_the_rest(answer, accepted, reason, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    got = grade(f"so</think>\\boxed{{{answer}}}", accepted)
    assert (got.correct, got.reason) == (reason is Reason.SAME_EXPRESSION, reason)
    assert not list(tmp_path.iterdir())


# Whole responses: (response, correct, reason, answer).
RESPONSES = [
    ("\\boxed{7}", False, Reason.NO_THINK_TAG, None),  # cut off while thinking, as it were
    ("", False, Reason.NO_THINK_TAG, None),
    ("<think>2</think>\\boxed{7}", True, Reason.SAME_TEXT, "7"),
    ("\\boxed{7}</think>no box", False, Reason.NO_ANSWER, None),
    ("</think>\\boxed{}", False, Reason.NO_ANSWER, ""),
    ("</think>\\boxed{$ $}", False, Reason.NO_ANSWER, "$ $"),
    ("</think>\\boxed{7", False, Reason.NO_ANSWER, None),
    ("</think>\\boxed{8} no, \\boxed{7}", True, Reason.SAME_TEXT, "7"),
    ("</think>\\boxed{7} no, \\boxed{8}", False, Reason.WRONG, "8"),
    ("</think>\\boxed{8}</think>\\boxed{7}", True, Reason.SAME_TEXT, "7"),
    ("</think>\\boxed{\\boxed{7}}", True, Reason.SAME_TEXT, "7"),
    ("</think>\\fbox{7}", True, Reason.SAME_TEXT, "7"),
    ("</think>\\boxed{" + "x" * 3000 + "}", False, Reason.TOO_LONG, "x" * 3000),
]


@pytest.mark.parametrize(("response", "correct", "reason", "answer"), RESPONSES)
def test_the_last_box_after_the_last_think_tag_is_the_answer(response, correct, reason, answer):
    got = grade(response, ["7"], symbolic=False)
    assert (got.correct, got.reason, got.answer) == (correct, reason, answer)


@given(st.text(alphabet="\\{}$%^_,.-+=/0123456789abdefhikmnortx<> "))
def test_any_text_gets_a_grade(text):
    assert not grade(text, ["neither"], symbolic=False).correct
    assert grade(f"</think>\\boxed{{{text}}}", ["neither"], symbolic=False).correct is False


@given(st.integers(-(10**12), 10**12), st.integers(1, 10**6))
@settings(max_examples=50)
def test_every_way_to_write_a_fraction_is_the_same_number(up, down):
    from fractions import Fraction

    exact = Fraction(up, down)
    assert number(f"\\frac{{{up}}}{{{down}}}") == exact
    assert number(f"{up}/{down}") == exact
    assert number(f"{up:,}") == up


@given(st.text(alphabet="\\!,;:% $~ab12^_{}"))
def test_spaces_and_dollars_never_count(text):
    assert not set(normalized(text)) & set(" $%~")
    if "\\" not in text:
        assert normalized(f" ${text}$ ") == normalized(text)


def test_braces_of_a_set_do_not_close_the_box():
    assert last_boxed(r"\boxed{\{1,2\}}") == r"\{1,2\}"
    assert last_boxed(r"\boxed{\}}") == r"\}"
    assert last_boxed(r"\boxed{\begin{pmatrix}1\\{2}\end{pmatrix}}").startswith(r"\begin")


def test_an_integer_answer_never_starts_a_process(monkeypatch):
    def fail(self):
        raise AssertionError("started")

    monkeypatch.setattr(Verifier, "_start", fail)
    fresh = Verifier()
    monkeypatch.setattr("trainer.rewards._verifier", lambda: fresh)
    for answer in ("7", "8", "a7;b7+2=9", "b", "?", "7;", "{", "<think>", "+-*/;:"):
        grade(f"</think>\\boxed{{{answer}}}", ["7"])
    with pytest.raises(AssertionError, match="started"):
        grade("</think>\\boxed{2^3}", ["7"])


def test_a_hostile_answer_costs_its_time_limit_and_no_more():
    verifier = Verifier(seconds=1.0)
    try:
        assert verifier.compare("x+1", ["1+x"]) is Reason.SAME_EXPRESSION
        started = time.monotonic()
        assert verifier.compare("9^{9^{9^9}}", ["3"]) is Reason.TIMEOUT
        assert time.monotonic() - started < 3
        assert verifier.pid is None
        # The next answer gets a new process.
        assert verifier.compare("x+1", ["1+x"]) is Reason.SAME_EXPRESSION
    finally:
        verifier.close()


def test_memory_is_limited():
    verifier = Verifier(memory=600)
    try:
        verifier.compare("x+1", ["1+x"])
        limit = resource.prlimit(verifier.pid, resource.RLIMIT_AS)
        assert limit == (600 * 2**20, 600 * 2**20)
    finally:
        verifier.close()


def test_a_killed_process_is_replaced(verifier):
    assert verifier.compare("x+1", ["1+x"]) is Reason.SAME_EXPRESSION
    os.kill(verifier.pid, 9)
    while verifier._process.poll() is None:
        time.sleep(0.01)
    assert verifier.compare("x+1", ["1+x"]) is Reason.SAME_EXPRESSION


def test_a_process_that_cannot_start_is_an_error_not_a_wrong_answer():
    with pytest.raises(RuntimeError, match=r"did not start within .* and 1 MiB"):
        Verifier(memory=1).compare("x", ["y"])


def test_threads_share_one_process(verifier):
    results = {}

    def work(i):
        results[i] = grade(f"</think>\\boxed{{x+{i}}}", [f"{i}+x"]).correct

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert results == dict.fromkeys(range(8), True)


def test_many_are_graded_in_their_order():
    grades = grade_many(["</think>\\boxed{1}", "</think>\\boxed{1}"], [["1"], ["2"]])
    assert [grade.correct for grade in grades] == [True, False]
    with pytest.raises(ValueError, match="2 responses and 1 lists of answers"):
        grade_many(["a", "b"], [["1"]])


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


def test_importing_the_grader_imports_nothing_heavy():
    code = "import sys, trainer.rewards; print([m for m in ('sympy', 'torch') if m in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
