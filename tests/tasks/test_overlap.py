import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tasks.overlap import (
    Hashes,
    Pair,
    exact,
    letters_and_digits,
    near_duplicates,
    question_key,
    shared_grams,
    words,
)

texts = st.lists(st.sampled_from(["a", "b", "c", "d", "e"]), min_size=0, max_size=9).map(" ".join)


def grams(text, length):
    found = words(text)
    return {tuple(found[i : i + length]) for i in range(len(found) - length + 1)}


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("Find $x$.", "find  x", True),
        (r"$\frac{1}{2}$", r"\dfrac12", True),
        (r"$\frac1{2}$", r"\tfrac{1}2", True),
        (r"\frac{a}{b}", r"\frac ab", True),
        (r"\frac{1}{23}", r"\frac{12}{3}", False),
        (r"\frac{1}{234}", "1,234", False),
        (r"\frac{2^{1}}{4^{1}-1}", r"\frac{2^1}{4^1-1}", True),
        (r"\binom{3}{21}", r"\binom{32}{1}", False),
        (r"\left(a\right)", "(a)", True),
        (r"\text{If } x", "if x", True),
        ("\uff11 + 1", "1+1", True),  # a wide digit
        ("3 + 4", "3 - 4", False),
        ("x < 1", "x > 1", False),
        (r"\lefteye", "eye", False),
        ("2^3", "23", False),
        ("Compute 1.5 + 2.", "Compute 15 + 2.", False),
        ("the point (1,23)", "the point (12,3)", False),
        ("[-6.5, 6.5]", r"\([-6.5 ; 6.5]\)", True),
        (r"${1.5}$ is $1$, $2$", "1.5 is 1,2", True),
        (r"1,000 or 2{,}500 or 10\,000", "1000 or 2500 or 10000", True),
        (r"$[0,150\pi]$", r"$[0, 150\pi]$", True),
    ],
)
def test_a_key_ignores_typesetting_and_keeps_signs(one, other, same):
    assert (question_key(one) == question_key(other)) is same


def test_the_same_letters_and_digits_are_the_same_problem():
    assert exact(["Is $1+1$ two?", "No."], ["is 1 + 1 TWO", "no", ""]) == [
        Pair(0, 0, 1.0),
        Pair(1, 1, 1.0),
    ]
    assert letters_and_digits("...") == "" and exact(["..."], ["!!!"]) == []


@given(st.lists(texts, max_size=6), st.lists(texts, max_size=5), st.integers(1, 4))
@settings(max_examples=100)
def test_shared_grams_are_those_of_the_sets(questions, problems, length):
    share = 0.5
    wanted = {}
    for row, question in enumerate(questions):
        for number, problem in enumerate(problems):
            of = grams(problem, length)
            score = len(grams(question, length) & of) / len(of) if of else 0.0
            if score >= share:
                wanted[row, number] = score
    found = shared_grams(questions, problems, length, share)
    assert {(p.row, p.against): p.score for p in found} == wanted


@given(st.lists(texts, max_size=6), st.lists(texts, max_size=5))
@settings(max_examples=100)
def test_near_duplicates_have_the_similarity_that_is_asked_for(questions, problems):
    found = {(p.row, p.against): p.score for p in near_duplicates(questions, problems, 0.8)}
    for row, question in enumerate(questions):
        for number, problem in enumerate(problems):
            one, other = grams(question, 3), grams(problem, 3)
            score = len(one & other) / len(one | other) if one and other else 0.0
            assert found.get((row, number), 0.0) == pytest.approx(score if score >= 0.8 else 0.0)


def test_thirteen_words_of_a_long_problem_are_not_half_of_it():
    problem = " ".join(f"w{n}" for n in range(40))  # 28 runs of 13 words
    copied = " ".join(f"w{n}" for n in range(26))  # 14 of them
    less = " ".join(f"w{n}" for n in range(25))
    found = shared_grams([copied, less, problem], [problem], 13, 0.5)
    assert found == [Pair(0, 0, 0.5), Pair(2, 0, 1.0)]


def test_texts_are_found_in_whatever_part_they_are_read(monkeypatch):
    questions = [f"tell me how many cats live in house number {n} today" for n in range(30)]
    problems = [questions[17], questions[3]]
    whole = [
        exact,
        lambda q, p: shared_grams(q, p, 5, 0.9),
        lambda q, p: near_duplicates(q, p, 0.9),
    ]
    before = [find(questions, problems) for find in whole]
    monkeypatch.setattr("tasks.overlap._CHUNK", 7)
    assert [find(questions, problems) for find in whole] == before
    assert all({(p.row, p.against) for p in found} == {(17, 0), (3, 1)} for found in before)


def test_word_hashes_are_the_same_on_every_machine():
    """`printf one | b2sum -l 64`, the first byte the lowest."""
    values = Hashes(["one two one"]).values
    assert values.dtype == np.uint64
    assert (
        int(values[0])
        == int(values[2])
        == int.from_bytes(bytes.fromhex("34f2ddaa8b7615c9"), "little")
    )
