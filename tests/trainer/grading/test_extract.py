"""Where the answer stands in a response without a box."""

import pytest

from trainer.grading.extract import ANY, find_answer

REMARKS = [
    "The solution is complete.",
    "This result is consistent with the given conditions.",
    "I hope this solution is helpful.",
    "The answer is correct.",
    "This answer is consistent with what was asked.",
    "Solution: as above.",
]


@pytest.mark.parametrize("remark", REMARKS)
@pytest.mark.parametrize(
    "said", ["The answer is 12.", "Answer: 12", "#### 12", "It is the answer: $12$."]
)
def test_a_remark_behind_the_answer_does_not_hide_it(said, remark):
    assert find_answer(f"{said}\n{remark}", ANY) == "12"
    assert find_answer(f"First we add.\n\n{said} {remark}", ANY).startswith("12")


@pytest.mark.parametrize("said", ["result", "solution", "final result"])
def test_a_result_is_the_answer_where_none_is_called_so(said):
    assert find_answer(f"Step 1: the {said} is 3. Step 2: the {said} is 12.", ANY) == "12"


def test_what_is_said_of_an_answer_may_go_on_to_say_it():
    assert find_answer("The answer is correct, and it is 12.", ANY) == "12"
    assert find_answer("The answer is 3. No, the answer is 12.", ANY) == "12"


@pytest.mark.parametrize(
    ("text", "answer"),
    [
        ("First $x = 3$ holds, and so in the end $y = 2x = 7$ holds, too.", "7"),
        ("We add 3 and 4 and then get 7 in all, as was to be shown.", "7"),
        ("The answer is that one must take 12 of them and not 13.", "12"),
        ("The answer is $3$ or $-3$, of which $3$ is the larger. So $9$ is no answer.", "3, -3"),
        ("The answer is 5. It holds where $x = 9$.", "5"),
        ("The answer is so \\boxed{7, with 12 more", None),
        ("", None),
        ("seven red apples.", "seven red apples"),
        ("these are seven red apples", None),
        ("seven\nred apples", None),
    ],
)
def test_without_a_box_it_is_what_is_stated_else_the_last_formula_or_number(text, answer):
    assert find_answer(text, ANY) == answer
