import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.held_out import held_out
from tasks.upstream import to_columns


def table_of(questions):
    return to_columns([{"question": q, "answer": "1"} for q in questions], "set", "")


@given(st.lists(st.integers(0, 12), min_size=4, max_size=30), st.integers(0, 3))
@settings(max_examples=60)
def test_the_two_parts_share_no_question_and_leave_none_out(numbers, seed):
    questions = [f"q {number}" for number in numbers]
    distinct = set(questions)
    if len(distinct) < 3:
        return
    table = table_of(questions)
    back, rest = (held_out(table, 2, seed, part) for part in ("held_out", "rest"))
    mine, its = (part["question"].to_pylist() for part in (back, rest))
    assert len(mine) == 2 and len(set(mine)) == 2
    assert not set(mine) & set(its) and set(mine) | set(its) == distinct
    assert len(its) == sum(question not in mine for question in questions)


def test_neither_order_nor_typesetting_decides_what_is_held_out():
    questions = [f"What is {number}?" for number in range(30)]
    one = held_out(table_of(questions), 5, 0, "held_out")["question"].to_pylist()
    shuffled = [f"what is  ${number}$ ?" for number in reversed(range(30))]
    other = held_out(table_of(shuffled), 5, 0, "held_out")["question"].to_pylist()
    assert {"".join(q.split()).strip("?").lower() for q in one} == {
        "".join(q.split()).strip("?").replace("$", "").lower() for q in other
    }
    assert set(one) != set(held_out(table_of(questions), 5, 1, "held_out")["question"].to_pylist())


def test_a_set_that_would_be_held_out_whole_is_refused():
    with pytest.raises(ValueError, match=r"found 2 different questions, needed more than the 2"):
        held_out(table_of(["a", "b", "A"]), 2, 0, "rest")
