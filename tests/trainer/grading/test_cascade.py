"""Decisions without a parser: none fails, and none takes long, whatever a model repeats."""

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from trainer.answers import LONGEST_ANSWER
from trainer.grading.cascade import equal
from trainer.grading.extract import ANY, find_answer

TRUTHS = ["12", "x+1", "(1, 2)", r"\{1, 2\}", "x = 1, y = 2", "B", "5\\text{ cm}", "3.141593"]
PIECES = [
    *(" ", "\n", "\u2009", "1", "A", "ab ", "A.", "(A)", "1,", "1,000,", "½", "√", "\u0661"),
    *"()[]{}\\$,.-+_^=/%~!|",
    *(
        "\\(",
        "\\[",
        "\\{",
        "\\\\[",
        "\\text{",
        "\\text{a",
        "\\frac",
        "\\frac{1}",
        "\\sqrt",
        "sqrt(",
    ),
    *("{,}", "and", " and ", ", and", "\\begin{matrix}", "\\overline{1}", "^\\circ", "\\sin", "9^"),
    *(
        "i",
        "i^2",
        "e",
        "1.000000",
        "\\pi",
        "\\boxed",
        "\\boxed{",
        "\\boxed{1}",
        "$a$ ",
        "answer is ",
    ),
]


@pytest.mark.timeout(120)  # it takes a few seconds; one pattern that backtracks took hours
@pytest.mark.parametrize("end", ["", "!"])
@pytest.mark.parametrize("start", ["", "A", "7 \\text{"])
def test_what_is_repeated_up_to_the_limit_takes_no_time(start, end):
    for piece in PIECES:
        answer = start + piece * ((LONGEST_ANSWER - 10) // len(piece)) + end
        for truth in TRUTHS:
            equal(answer, truth)
        find_answer(start + piece * (100_000 // len(piece)) + end, ANY)


@settings(max_examples=300)
@given(st.lists(st.sampled_from(PIECES), max_size=30).map("".join), st.sampled_from(TRUTHS))
def test_no_text_makes_a_decision_fail(text, truth):
    equal(text, truth)
    equal(truth, text)


@pytest.mark.parametrize(
    ("answer", "truth", "same"),
    [
        ("-i^2", "1.000000", True),
        ("-i^2", "3.141593", False),
        ("(1+i)(1-i)", "2.000000", True),
        ("0ie", "3.141593", False),
    ],
)
def test_a_complex_number_that_is_real_may_be_a_rounded_one(answer, truth, same):
    assert equal(answer, truth) == (same, False)


@pytest.mark.parametrize("labels", ["B. ", "(B) B. ", "A." * 900, "(A)" * 600])
def test_the_letters_of_a_choice_are_left_out_however_many(labels):
    assert equal(labels + "12", "12")[0] is True


def test_the_empty_set_is_no_set_of_something():
    assert equal("\\{\\}", "\\{1, 2\\}") == equal("\\{1, 2\\}", "\\{\\}") == (False, False)
    assert equal("\\{,\\}", "1, 2") == (False, False)
    assert equal("\\{,\\}", "\\{\\}") == (True, False)


@pytest.mark.parametrize(
    "head", ["x >", "x<", "x!", "5!", "a=3, b", "3x + y", "a < 0 \\text{ or } a"]
)
def test_what_ends_in_a_number_behind_an_equals_sign_is_not_that_number(head):
    for number in ("5", "0", "-3", "\\frac{1}{2}", "1,000"):
        whole = f"{head}={number}"
        assert equal(whole, number)[0] is not True and equal(number, whole)[0] is not True
        assert equal(whole, whole)[0] is True


@pytest.mark.parametrize(
    "head",
    ["x", "f(2)", "S_1", "AB", "\\theta", "\\text{Area}", "a = b", "2+3", "N = 2 \\cdot 3 ", ""],
)
def test_a_number_may_stand_behind_its_name_and_what_is_worked_out(head):
    for number in ("5", "0", "-3", "\\frac{1}{2}", "1,000"):
        for whole in (
            f"{head}={number}",
            f"${head} = {number}$",
            f"{head} = {number}\\text{{ cm}}",
        ):
            assert equal(whole, number)[0] is equal(number, whole)[0] is True


# (one, other, whether they are the same whichever is the truth; None: left to the parser)
SEVERAL = [
    ("\\{1, 2\\}", "2, 1", True),
    ("\\{1, 1, 2\\}", "\\{2, 1\\}", True),
    ("\\{1 + 1\\}", "2", True),
    ("1, 2", "2, 1", True),
    ("1, 1, 2", "1, 2, 2", False),
    ("\\frac{1}{2}, 3", "3, 0.5", True),
    ("(1, 2)", "(2, 1)", False),
    ("(1, 2)", "1, 2", True),
    ("(2, 1)", "1, 2", False),
    ("[2, 1, 3]", "1, 2, 3", False),
    ("[1, 2, 3]", "1, 2, 3", True),
    ("x = 1, y = 2", "y = 2, x = 1", True),
    ("x = 1, y = 2", "1, 2", True),
    ("x = 1, y = 2", "2, 1", False),
    ("x = 1, y = 2", "\\{2, 1\\}", True),
    ("x = 1, x = 2", "2, 1", True),
    ("x = 1, y = 2, x = 3", "3, 1, 2", True),
    ("x = 1, 2", "1, 2", None),
    ("(1, 2), (3, 4)", "(3, 4), (1, 2)", True),
    ("(1, 2), (3, 4)", "(2, 1), (3, 4)", False),
    ("1,\\, 2", "2, 1", True),
    ("(1, 2]", "1, 2", False),  # an interval is no list of its ends
    ("(1, 2]", "(1, 2, 3)", False),
    ("[1, 2]", "1, 2", None),
    ("[1, 2]", "(1, 2)", None),
    ("\\langle 1, 2 \\rangle", "(1, 2)", None),
    ("5", "5, 6", False),
    ("5", "(5, 5)", None),
    ("1 2", "1, 2", False),
    ("x", "(1, 2)", False),
    ("", "5", False),
]


@pytest.mark.parametrize(("one", "other", "same"), SEVERAL)
def test_lists_sets_tuples_and_names_keep_their_order_or_need_not(one, other, same):
    assert equal(one, other) == equal(other, one) == (same, False)


# (one, other, whether they are the same whichever is the truth; None: left to the parser)
SINGLE = [
    ("\\frac{1}{3}", "0.333333", True),  # six places of a rounded one, and no fewer
    ("\\frac{1}{3}", "0.33333", False),
    ("\\frac{1}{3}", "0.3333333334", True),
    ("\\frac{1}{3}", "0.3333343334", False),
    ("\\sqrt{2}", "1.414214", True),
    ("\\sqrt{2}", "1.41421", False),
    ("50\\%", "0.5", True),
    ("0.75", "75", False),
    ("y = 2x", "2x", True),
    ("y = 2x", "z = 2x", None),
    ("2x", "x + x", None),  # equal, but perhaps not for every x
    ("2x", "3x", False),
    ("+x", "x", True),
    ("-x", "x", False),
    ("5m", "5", None),  # a unit, or a letter
    ("5n", "6", False),
    ("x", "7", False),
    ("\\infty", "7", False),
    ("2 + 3 = 5", "5", True),
    ("2 + 3 = 6", "5", False),
    ("0.1\\overline{6}", "\\frac{1}{6}", True),
    ("\\sin 30^\\circ", "\\frac{1}{2}", True),
    ("1\\frac{1}{2}", "\\frac{3}{2}", True),
    ("2 \\cdot -3", "-6", True),
    ("x_1", "x", None),
]


@pytest.mark.parametrize(("one", "other", "same"), SINGLE)
def test_single_expressions_are_the_same_by_value_as_far_as_that_is_sure(one, other, same):
    assert equal(one, other)[0] is equal(other, one)[0] is same
