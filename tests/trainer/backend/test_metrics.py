"""What a batch of rollouts was like, and verl's names under ours."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.backend.metrics import (
    ProbabilityMismatchError,
    RolloutsLostError,
    check_engine,
    check_finite,
    check_probabilities,
    check_rollouts,
    in_order_of_draws,
    rollout_metrics,
    translated,
)


def test_four_rollouts_by_hand():
    found = rollout_metrics(
        rewards=[1, 1, 0, 1],
        correct=[1, 1, 0, 1],
        prompt_lengths=[3, 5, 3, 5],
        lengths=[10, 20, 30, 40],
        truncated=[False, False, True, False],
    )
    assert found["reward/mean"] == 0.75
    assert found["truncated_share"] == 0.25
    assert (found["prompt_length/mean"], found["prompt_length/max"]) == (4, 5)
    assert found["response_length/wrong"] == 30
    assert found["response_length/correct"] == pytest.approx(70 / 3)


def test_a_shaped_reward_does_not_pass_for_correctness():
    found = rollout_metrics([-5, 5], [0, 1], [2, 2], [1, 1], [False, False])
    assert (found["reward/mean"], found["correct/mean"]) == (0, 0.5)


@given(st.permutations(range(6)))
def test_the_order_of_rollouts_does_not_matter(order):
    columns = (
        [1, 0, 1, 1, 0, 0],
        [1, 0, 1, 1, 0, 0],
        range(6),
        [5, 6, 7, 8, 9, 10],
    )
    cut = [False, True, False, False, True, False]
    shuffled = [[column[i] for i in order] for column in (*columns, cut)]
    straight = rollout_metrics(*columns, cut)
    assert rollout_metrics(*shuffled) == pytest.approx(straight)


def test_verls_names_become_ours_and_unknown_ones_are_left_out():
    found = translated({"actor/entropy": 0.5, "timing_s/step": 2, "perf/mfu/actor": 0.1})
    assert found == {"entropy": 0.5, "seconds/step": 2.0}


def test_probabilities_that_agree_are_let_pass():
    check_probabilities(9e-4, 1e-3, "float32", step=1)


@pytest.mark.parametrize("difference", [2e-3, float("nan"), float("inf")])
def test_probabilities_that_differ_stop_the_stage_and_name_likely_causes(difference):
    with pytest.raises(ProbabilityMismatchError, match=r"(?s)step 4.*vocabulary.*hardware\."):
        check_probabilities(difference, 1e-3, "float32", step=4)


def test_in_bfloat16_the_difference_is_recorded_and_not_judged():
    check_probabilities(0.1, 1e-3, "bfloat16", step=1)


def test_an_engine_that_rounds_otherwise_is_let_pass():
    for kl in (-1e-4, 0.0, 0.05):
        check_engine(kl, 1.0, step=1)


@pytest.mark.parametrize("kl", [1.01, 6.0, -1.01, float("nan"), float("inf")])
def test_an_engine_with_other_weights_stops_the_stage(kl):
    with pytest.raises(
        ProbabilityMismatchError, match=r"(?s)step 2: .*hint: .*hardware.kl_tolerance"
    ):
        check_engine(kl, 1.0, step=2)


def test_a_step_with_failed_rollouts_is_refused_and_counted():
    check_rollouts(32, 32, step=1)
    with pytest.raises(RolloutsLostError, match="step 3: 2 of 32 rollouts are lost"):
        check_rollouts(30, 32, step=3)


@pytest.mark.parametrize("name", ["loss", "grad_norm", "entropy"])
def test_a_step_that_is_no_number_is_refused_by_name(name):
    fine = {"loss": 0.1, "grad_norm": 2.0, "entropy": 0.3}
    check_finite(fine, step=1)
    with pytest.raises(FloatingPointError, match=f"step 5: {name} is nan"):
        check_finite({**fine, name: float("nan")}, step=5)


def test_a_steps_prompts_stand_in_the_order_of_their_draws_with_their_pass_rates():
    found = in_order_of_draws(["2_b", "1_a", "2_b", "1_a"], ["q", "p", "q", "p"], [1, 0, 0, 0])
    assert found == {"prompts": ["p", "q"], "pass_rates": [0, 0.5]}
