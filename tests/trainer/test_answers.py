"""Boxes in a response: which state the answer together, and that none costs much to find."""

import pytest

from trainer.answers import final_boxes


def test_boxes_are_joined_over_new_lines_and_no_further():
    gap = "\n" * 1900
    assert final_boxes(f"\\boxed{{1}}{gap}and{gap[:80]}\\boxed{{2}}") == ["1", "2"]
    assert final_boxes(f"\\boxed{{1}}{gap}so\\boxed{{2}}") == ["2"]


@pytest.mark.timeout(30)  # the square and the cube of the length take minutes
@pytest.mark.parametrize(
    "text",
    [
        "\\boxed" * 160_000,
        "\\boxed1" * 100_000,
        "\\fbox" * 200_000,
        "\\boxed{1}" + "\n" * 1990 + "\\boxed{1}",
    ],
)
def test_what_is_no_box_or_joins_none_takes_no_time(text):
    assert final_boxes(text) in ([], ["1"])
    assert final_boxes(5 * (text + "\\boxed{2}")) == ["2"]


@pytest.mark.parametrize(
    ("text", "boxes"),
    [
        ("so $\\boxed 5$", ["5"]),
        ("\\boxed5.", ["5"]),
        ("\\[\\boxed -1,200.5\\]", ["-1,200.5"]),
        ("\\boxed{4}, no: \\boxed 5", ["5"]),
        ("\\boxed 5, no: \\boxed{4}", ["4"]),
        ("\\boxed 5x", []),
        ("\\boxed{4}, as \\boxed asks", ["4"]),
        ("\\boxed{4} in the \\boxed{...", []),
    ],
)
def test_a_number_needs_no_braces_around_it(text, boxes):
    assert final_boxes(text) == boxes
