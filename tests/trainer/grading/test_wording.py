"""Units, words and choices: what no text may cost."""

import pytest

from trainer.grading.cascade import equal
from trainer.grading.wording import (
    conflict,
    same_choice,
    same_numerals,
    same_words,
    without_unit,
)

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


# In each line one unit, as it may be written; no two lines are of the same.
SAME = [
    ["\\text{ cm}", " cm", "\\,\\mathrm{cm}", " centimeters"],
    ["\\text{ cm}^2", " cm^{2}", "\\text{ cm}²", "\\text{ sq. cm}", " square centimeters"],
    ["\\text{ cm}^3", "\\mathrm{~cm}^{3}", " cubic centimetres"],
    ["\\text{ m/s}", "\\mathrm{~m} / \\mathrm{s}", " meters per second", " metres a second"],
    ["\\text{ m/s}^2", "\\text{ m/s^2}"],
    ["\\text{ s}", " seconds"],
    ["\\text{ p.m.}", "\\text{ PM}", " pm"],
    ["\\text{ a.m.}", " am"],
]


@pytest.mark.parametrize("place", range(len(SAME)))
def test_units_are_the_same_however_written_and_no_others(place):
    for unit in SAME[place]:
        assert not any(
            conflict(f"7{unit}", f"$7{other}$") for other in [*SAME[place], "", " units"]
        )
        for others in SAME[:place] + SAME[place + 1 :]:
            assert all(conflict(f"$7{unit}$", f"7{other}") for other in others), unit


def test_a_unit_of_which_a_part_is_not_known_is_in_conflict_by_what_is():
    assert not conflict("7 people per hour", "7 people") and not conflict("7 apples", "7 cm")
    assert conflict("7 people per hour", "7 people per minute")
    assert not conflict("7\\text{ m s}^{-1}", "7\\text{ m/s}")


@pytest.mark.parametrize("written", ["-37_8", "-37_{8}", "-37_{(8)}", "{-37}_8", "$-37_{(8)}$"])
def test_a_numeral_has_its_base_and_its_sign(written):
    assert same_numerals(written, "-37_8") is same_numerals("-37", written) is True
    assert same_numerals(written, "-37_9") is same_numerals("37_8", written) is False


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("The Red house!", "red  house", True),
        ("\\text{yes}", "Yes.", True),
        ("\\text{no}", "No.", True),
        ("No", "Yes", None),  # four letters at most: the parser's
        ("ab", "ba", None),
        ("yellow", "green", False),
        ("yellow", "7", False),  # words are no number
        ("yellow", "x+1", None),
        ("abc", "cab", None),  # a product of letters
        ("\\text{abc}", "\\text{cab}", False),
        ("red and blue", "blue and red", None),  # a list
        ("a", "b", None),
        ("7", "8", None),
    ],
)
def test_words_are_the_same_or_not_where_they_are_words(one, other, same):
    assert same_words(one, other) is same_words(other, one) is same
