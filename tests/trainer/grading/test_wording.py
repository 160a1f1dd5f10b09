"""Units, words and choices: what no text may cost."""

import pytest

from trainer.grading.cascade import equal
from trainer.grading.wording import same_choice, without_unit

FEW_SECONDS = pytest.mark.timeout(10)


@FEW_SECONDS  # 1,900 spaces took hours
@pytest.mark.parametrize("answer", ["A" + " " * 1900 + "1", "(A" + "\n" * 1900 + ") 1"])
def test_a_letter_and_many_spaces_are_no_choice_and_take_no_time(answer):
    equal(answer, "x+1")
    assert same_choice(answer, "B") is None


def test_a_choice_may_have_spaces_in_it():
    assert same_choice("( B ) .", "(B)") and same_choice("\\text{ (B  ) }", "B")


@FEW_SECONDS
@pytest.mark.parametrize("unit", ["\\text{" + "a" * 1900, " " * 1900 + "!", "ab " * 600 + "!"])
def test_what_never_comes_to_be_a_unit_takes_no_time(unit):
    assert without_unit("7" + unit) == "7" + unit


def test_a_unit_may_stand_behind_spaces_and_have_several_words():
    assert without_unit("7   miles per  hour  ") == "7"
    assert without_unit("7\\text{ 2 cm }^2") == "7"
