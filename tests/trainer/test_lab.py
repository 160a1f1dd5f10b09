import json
import random
from functools import cache
from itertools import pairwise

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, AutoTokenizer, Qwen2ForCausalLM

from trainer.lab import BASE, make_base, task
from trainer.lab.measure import measure, prompt_ids
from trainer.lab.tokenizer import END, PAD, new_tokenizer

PROBLEMS = st.builds(
    task.Problem,
    st.integers(0, 9),
    st.lists(st.sampled_from(task.OPERANDS), min_size=1, max_size=26).map(tuple),
)


@cache
def shipped_tokenizer():
    return AutoTokenizer.from_pretrained(BASE)


@cache
def shipped_model():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()


@cache
def facts():
    return json.loads((BASE / "base.json").read_text())


def questions(rows):
    return {row["prompt"][0]["content"] for row in rows}


# The task


def test_a_problem_is_worked_out_by_hand():
    problem = task.Problem(7, (2, -3, 1))  # 7 + 2 = 9; 9 - 3 = 6; 6 + 1 = 7
    assert problem.question == "7 a+2 b-3 c+1 =?"
    assert task.chain(problem) == "=7; a+2=9; b-3=6; c+1=7;</think>\\boxed{7}"


def test_values_wrap_around_at_both_ends_of_the_digits():
    assert task.Problem(9, (3, -3, -3, -3, -3)).values == (2, 9, 6, 3, 0)


@given(PROBLEMS)
def test_a_question_says_all_of_its_problem(problem):
    assert task.parse(problem.question) == problem


@pytest.mark.parametrize(
    "text", ["", "7 =?", "7 b+2 =?", "7 a+2 a+3 =?", "7 a+2", "what is 7 a+2 =?"]
)
def test_other_text_is_no_problem(text):
    with pytest.raises(ValueError, match="no problem of the lab"):
        task.parse(text)


@given(PROBLEMS)
def test_only_the_right_digit_is_correct(problem):
    response = task.chain(problem)
    assert task.is_correct(problem.question, response)
    thought, _, _ = response.partition("\\boxed")
    right = [task.is_correct(problem.question, f"{thought}\\boxed{{{d}}}") for d in range(10)]
    assert right == [digit == problem.answer for digit in range(10)]


@pytest.mark.parametrize(
    ("response", "correct"),
    [
        ("</think>\\boxed{9}", True),  # how it was reached is not graded
        ("=7; a+2=9;</think>\n\\boxed{9}\n", True),  # white space around the answer
        ("\\boxed{9}", False),  # still thinking
        ("\\boxed{9}</think>", False),  # answered while thinking only
        ("</think>\\boxed{9", False),  # cut off
        ("</think>\\boxed{19}", False),  # no digit
        ("</think>\\boxed{8}\\boxed{9}", False),  # two answers
        ("</think>\\boxed{8}</think>\\boxed{9}", True),  # thinking ends at the last closing tag
        ("", False),
    ],
)
def test_verifier(response, correct):
    assert task.is_correct("7 a+2 =?", response) is correct


def test_rows_have_the_columns_of_the_real_sets():
    (row,) = task.problems(1, 0, "train")
    assert set(row) == {"data_source", "prompt", "ability", "reward_model", "extra_info"}
    assert row["extra_info"]["index"] == 0 and row["extra_info"]["split"] == "train"
    (message,) = row["prompt"]
    problem = task.parse(message["content"].removesuffix(f" {task.INSTRUCTION}"))
    assert row["reward_model"] == {"ground_truth": str(problem.answer), "style": "rule"}
    assert row["extra_info"]["level"] == problem.level


def test_the_seed_decides_the_problems():
    assert task.problems(50, 1, "train") == task.problems(50, 1, "train")
    assert task.problems(50, 1, "train") != task.problems(50, 2, "train")
    assert task.problems(99, 1, "train")[:50] == task.problems(50, 1, "train")


def test_no_row_is_there_twice():
    assert len(questions(task.problems(3000, 0, "train"))) == 3000


@given(st.integers(0, 99), st.integers(0, 99))
def test_no_problem_is_in_both_splits(train_seed, test_seed):
    train = questions(task.problems(100, train_seed, "train"))
    assert not train & questions(task.problems(100, test_seed, "test"))


@given(PROBLEMS)
def test_the_question_alone_decides_the_split(problem):
    assert problem.split == task.parse(problem.question).split


def test_an_unknown_split_is_refused():
    with pytest.raises(ValueError, match="no split 'dev'"):
        task.problems(1, 0, "dev")


def test_no_rows_are_refused():
    with pytest.raises(ValueError, match="0 problems asked for"):
        task.problems(0, 0, "train")


def test_longer_questions_need_longer_responses():
    tokenizer = new_tokenizer()
    drawn = task.different(300, 0, "train")
    sizes = {
        (len(p.question), len(tokenizer(task.chain(p) + END)["input_ids"]), p.level) for p in drawn
    }
    assert len(sizes) == len(task.LEVELS)  # one size per level
    for shorter, longer in pairwise(sorted(sizes)):
        assert all(a < b for a, b in zip(shorter, longer, strict=True))


# The tokenizer


def test_the_shipped_tokenizer_is_the_one_that_the_code_makes():
    assert shipped_tokenizer().get_vocab() == new_tokenizer().get_vocab()
    assert shipped_tokenizer().chat_template == new_tokenizer().chat_template


def test_the_vocabulary_has_neither_holes_nor_padding():
    tokenizer = shipped_tokenizer()
    assert sorted(tokenizer.get_vocab().values()) == list(range(len(tokenizer)))
    assert shipped_model().config.vocab_size == len(tokenizer)
    assert shipped_model().get_input_embeddings().num_embeddings == len(tokenizer)


@pytest.mark.parametrize(
    "piece",
    [
        *("\n", " a", " z", "+3", "-1", "=0;", " again", "<think>", "</think>", "\\boxed{", "}"),
        *(END, PAD, "user", "assistant", " =?", f" {task.INSTRUCTION}"),
    ],
)
def test_what_chains_and_prompts_are_made_of_is_one_token(piece):
    assert len(shipped_tokenizer()(piece)["input_ids"]) == 1


@given(st.text(max_size=40))
def test_any_text_survives_the_tokenizer(text):
    tokenizer = shipped_tokenizer()
    text = tokenizer.backend_tokenizer.normalizer.normalize_str(text)
    assert tokenizer.decode(tokenizer(text)["input_ids"]) == text


@given(PROBLEMS)
def test_decoding_without_special_tokens_keeps_what_the_grader_reads(problem):
    tokenizer = shipped_tokenizer()
    ids = tokenizer(task.chain(problem) + END)["input_ids"]
    assert len(ids) == 3 * problem.level + 6
    assert tokenizer.decode(ids, skip_special_tokens=True) == task.chain(problem)


def test_the_generation_prompt_opens_the_thinking():
    chat = task.problems(1, 0, "train")[0]["prompt"]
    tokenizer = shipped_tokenizer()
    text = tokenizer.apply_chat_template(chat, add_generation_prompt=True, tokenize=False)
    assert text == (
        f"<|im_start|>user\n{chat[0]['content']}<|im_end|>\n<|im_start|>assistant\n<think>\n"
    )
    assert tokenizer.decode(prompt_ids(tokenizer, "7 a+2 =?")).endswith("<think>\n")


# The base


def test_the_base_was_made_by_the_script_beside_it():
    assert facts()["script_sha256"] == make_base.script_digest(), (
        "trainer/lab/make_base.py has changed since: run `python -m trainer.lab.make_base`"
    )


def test_the_base_learned_from_the_task_as_it_is_now():
    recipe = make_base.Recipe(**facts()["recipe"])
    assert facts()["corpus_sha256"] == make_base.corpus_digest(recipe, new_tokenizer())


def test_the_base_is_below_two_megabytes():
    assert sum(path.stat().st_size for path in BASE.iterdir()) < 2_000_000


def test_the_base_is_a_plain_qwen2_in_32_bits_unless_told_otherwise():
    model = AutoModelForCausalLM.from_pretrained(BASE)
    assert type(model) is Qwen2ForCausalLM
    assert model.dtype == torch.float32
    assert model.generation_config.eos_token_id == shipped_tokenizer().eos_token_id


def test_storing_the_base_in_16_bits_loses_nothing():
    state = shipped_model().state_dict()
    assert all(torch.equal(weight, weight.half().float()) for weight in state.values())


def test_the_base_as_measured_when_made_is_improvable():
    measured = facts()["measured"]
    assert 0.20 <= measured["avg_at_k"] <= 0.55
    assert measured["pass_at_k"] >= measured["avg_at_k"] + 0.25
    assert 0.10 <= measured["truncated_first"] <= 0.40


def test_the_base_still_measures_so():
    settings = facts()["measured"]["settings"] | {"rows": 40, "samples": 4}
    measured = measure(shipped_model(), shipped_tokenizer(), **settings)
    # 160 responses to 40 problems: within 0.17 but for one run in a thousand; here it is seeded.
    assert measured["avg_at_k"] == pytest.approx(facts()["measured"]["avg_at_k"], abs=0.17)
    assert measured["pass_at_k"] > measured["avg_at_k"] + 0.15


def test_harder_problems_are_answered_less_often():
    levels = facts()["measured"]["levels"]
    shorter = [levels[str(level)]["avg_at_k"] for level in task.LEVELS[:5]]
    longer = [levels[str(level)]["avg_at_k"] for level in task.LEVELS[-5:]]
    assert min(shorter) > max(longer)


# The script


def test_without_habits_a_chain_is_the_reference():
    problem = task.Problem(7, (2, -3, 1))
    assert make_base.habitual_chain(problem, random.Random(0)) == task.chain(problem)


@given(PROBLEMS, st.integers(0, 99))
def test_a_slip_on_every_step_gets_every_step_wrong(problem, seed):
    text = make_base.habitual_chain(problem, random.Random(seed), slip=1)
    digits = [int(piece[0]) for piece in text.split("</think>")[0].split("=")[1:]]
    assert digits[0] == problem.start
    for before, after, operand in zip(digits, digits[1:], problem.operands, strict=False):
        assert after != (before + operand) % 10


@given(PROBLEMS, st.integers(0, 99))
def test_going_through_it_again_changes_nothing_but_the_length(problem, seed):
    text = make_base.habitual_chain(problem, random.Random(seed), again=0.5, linger=0.5)
    steps = text.split("</think>")[0].split(";")
    assert [step for step in steps if " again" not in step] == task.chain(problem).split(
        "</think>"
    )[0].split(";")
    assert task.is_correct(problem.question, text)
