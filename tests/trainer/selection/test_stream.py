"""What must be true of the machinery, whatever the curriculum."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from conf.schema import Selection
from trainer.selection import (
    Bounds,
    NothingToTrainOnError,
    Prompt,
    Rollout,
    Stream,
    make_curriculum,
)
from trainer.selection.simulator import Simulator, constant

ALL = [
    "uniform",
    "dapo",
    "speed",
    "mopps",
    "speed_mopps",
    "greso",
    "e2h",
    "shuffle_r1",
    "speed_ahead",
]
LEVELS = [i % 5 for i in range(2000)]


def decisions(simulator, count):
    """What a run did: which groups trained with which rows, and what became of the others."""
    trained, sealed = [], []
    for choices, _, groups in simulator.steps(count):
        trained.append([(c.group.number, c.group.id, c.trained) for c in choices])
        sealed.append(sorted((g["number"], g["id"], g["fate"], g["correct"]) for g in groups))
    return trained, sealed


def small(name, rates, *, order_seed=0, batch_size=4, max_age=1, seed=0, **engine):
    ahead = batch_size if name == "speed_ahead" and max_age else 0
    values = Selection(name=name.removesuffix("_ahead"), speed={"screening": 2}).model_dump()
    prompts = [Prompt(f"p{i}", i % 3) for i in range(len(rates))]
    curriculum = make_curriculum(values, prompts, group_size=4, seed=seed, steps=20)
    bounds = Bounds(batch_size, 4 * batch_size, max_age, 16 * batch_size, ahead)
    stream = Stream(curriculum, bounds)
    return Simulator(stream, constant(rates), order_seed=order_seed, **engine)


@pytest.mark.parametrize("name", ALL)
def test_no_group_trains_twice_and_none_is_lost(simulate, mixed, name):
    run = simulate(name, mixed, levels=LEVELS, engine={"fault": 0.02, "lost": 0.01})
    trained, sealed, drawn = [], [], 0
    for choices, record, groups in run.steps(60):
        trained += [choice.group.number for choice in choices]
        sealed += [group["number"] for group in groups]
        drawn += record["selection/drawn"]
        assert record["selection/trained"] + record["selection/short"] == 8
    assert len(set(trained)) == len(trained)
    waiting = [group.number for group in run.stream.waiting]
    # Every group that was ever drawn met one end, or still waits.
    assert sorted([*sealed, *waiting]) == list(range(int(drawn)))
    assert run.stream.ledger.totals["prompts"] == drawn == run.stream.number


@pytest.mark.parametrize("name", ALL)
def test_the_groups_that_train_do_not_depend_on_the_order_in_which_rollouts_come_back(
    simulate, mixed, name
):
    runs = [
        decisions(simulate(name, mixed, levels=LEVELS, engine={"order_seed": order}), 15)
        for order in (None, 1, 2)
    ]
    assert runs[0] == runs[1] == runs[2]


@pytest.mark.parametrize("name", ALL)
def test_a_resumed_stage_decides_as_the_interrupted_one_would_have(simulate, mixed, name):
    whole = simulate(name, mixed, levels=LEVELS)
    expected = decisions(whole, 20)
    first = simulate(name, mixed, levels=LEVELS)
    before = decisions(first, 9)
    state = json.loads(json.dumps(first.stream.state_dict()))
    second = simulate(name, mixed, levels=LEVELS, engine={"order_seed": 7})
    second.stream.load_state_dict(state)
    after = decisions(second, 11)
    assert (before[0] + after[0], before[1] + after[1]) == expected
    assert second.stream.state_dict() == whole.stream.state_dict()


@pytest.mark.parametrize("name", ALL)
def test_memory_is_bounded_over_a_thousand_steps(simulate, mixed, name):
    rates, levels = mixed[:300], LEVELS[:300]
    sizes_of = {"batch_size": 4, "group_size": 4, "steps": 1000}
    run = simulate(name, rates, levels=levels, speed={"screening": 2}, **sizes_of)
    sizes = []
    for step, _ in enumerate(run.steps(1000)):
        run.stream.released.clear()
        if step in (499, 999):
            state = run.stream.state_dict()
            sizes.append(len(json.dumps({**state, "waiting": []})))
    # Unsettled, places and the surplus of the steps that it may wait.
    assert run.largest <= 16 + 4 + 2 * 16
    assert sizes[1] < 1.1 * sizes[0]


@given(
    name=st.sampled_from(ALL),
    rates=st.lists(st.sampled_from([0.0, 0.2, 0.5, 0.9, 1.0]), min_size=3, max_size=30),
    order=st.integers(0, 99),
    seed=st.integers(0, 99),
    batch_size=st.integers(1, 6),
    max_age=st.integers(0, 2),
    fault=st.sampled_from([0.0, 0.2]),
)
@settings(max_examples=150)
def test_any_prompt_set_is_gone_through_in_bounds_or_refused_with_a_reason(
    name, rates, order, seed, batch_size, max_age, fault
):
    run = small(
        name,
        rates,
        order_seed=order,
        batch_size=batch_size,
        max_age=max_age,
        seed=seed,
        fault=fault,
    )
    trained = []
    try:
        for choices, record, _ in run.steps(6):
            trained += [choice.group.number for choice in choices]
            assert 1 <= len(choices) <= batch_size
            assert record["age/max"] <= max_age
            assert sum(len(choice.trained) for choice in choices) == 4 * len(choices)
            prompts = [
                choice.group.id for choice in choices if choice.group.step == run.stream.step
            ]
            assert len(set(prompts)) == len(prompts)
    except NothingToTrainOnError as error:
        assert "none can be trained on" in str(error)
    assert len(set(trained)) == len(trained)


def test_a_continuation_is_ordered_while_other_screenings_are_still_out(simulate):
    stream = simulate("speed", [0.5] * 100, speed={"screening": 4}).stream
    stream.begin(1)
    screenings = stream.orders()
    assert [(order.first, order.count) for order in screenings] == [(0, 4)] * 8
    last = screenings[-1].group
    stream.graded(last.uid, rollouts([1, 0, 1, 0]))
    assert [(order.group, order.first, order.count) for order in stream.orders()] == [(last, 4, 4)]
    assert not stream.ready


def test_a_group_not_sure_of_its_place_waits_for_those_before_it(simulate):
    stream = simulate("speed", [0.5] * 100, batch_size=1, speed={"screening": 4}).stream
    stream.tried = 9.0  # one in ten qualified of late: ten are screened for one place
    stream.begin(1)
    first, second, *_ = stream.orders()
    stream.graded(second.group.uid, rollouts([1, 0, 1, 0]))
    assert stream.orders() == []
    stream.graded(first.group.uid, rollouts([0, 0, 0, 0]))
    assert second.group in [order.group for order in stream.orders()]


def rollouts(outcomes):
    from trainer.selection import Rollout

    return [Rollout(float(right), float(right), 1) for right in outcomes]


def test_surplus_trains_in_the_next_step_without_being_screened_again(simulate, mixed):
    run = simulate("speed", mixed, max_age=1, speed={"screening": 4})
    seen = 0
    for choices, record, _ in run.steps(40):
        old = [choice.group for choice in choices if choice.group.step < run.stream.step]
        seen += len(old)
        assert record["stale_share"] == len(old) / len(choices)
        assert all(choice.group.finished for choice in choices)
    assert seen > 0
    numbers = [group["number"] for _, _, groups in run.steps(10) for group in groups]
    assert len(set(numbers)) == len(numbers)


def test_without_an_age_limit_surplus_is_dropped_and_counted(simulate, mixed):
    run = simulate("speed", mixed, max_age=0, speed={"screening": 4})
    surplus = 0
    for choices, record, groups in run.steps(40):
        assert record["age/max"] == 0 and record["selection/waiting"] == 0
        assert all(choice.group.step == run.stream.step for choice in choices)
        assert record["selection/surplus"] == sum(g["fate"] == "surplus" for g in groups)
        surplus += record["selection/surplus"]
    assert surplus > 0


def test_too_few_that_qualify_make_a_short_step_and_the_stage_goes_on(simulate):
    rates = [0.0] * 990 + [0.5] * 10
    run = simulate("dapo", rates, max_draws=10, group_size=8)
    records = [record for _, record, _ in run.steps(10)]
    assert len(records) == 10
    assert sum(record["selection/short"] for record in records) > 0
    for record in records:
        assert record["selection/trained"] == 8 - record["selection/short"] >= 1


def test_a_step_with_none_goes_on_drawing_until_one_qualifies(simulate):
    rates = [0.0] * 500
    rates[-1] = 0.5
    run = simulate("dapo", rates, max_draws=2, seed=3)
    choices = run.step(1)
    assert [choice.group.id for choice in choices] == ["p499"]


@pytest.mark.parametrize(
    ("rate", "said"), [(1.0, "50 solved"), (0.0, "50 hopeless")], ids=["solved", "hopeless"]
)
@pytest.mark.parametrize("name", ["speed", "dapo", "speed_mopps", "greso"])
def test_a_set_that_teaches_nothing_ends_the_stage_and_says_why(simulate, name, rate, said):
    run = simulate(name, [rate] * 50)
    with pytest.raises(NothingToTrainOnError, match=said):
        run.step(1)


def test_an_empty_set_ends_the_stage_and_says_why(simulate):
    with pytest.raises(NothingToTrainOnError, match="no prompts"):
        simulate("speed", [])


def test_an_engine_that_fails_every_rollout_ends_the_stage_and_says_why(simulate):
    run = simulate("uniform", [0.5] * 50, engine={"fault": 1.0})
    with pytest.raises(NothingToTrainOnError, match=r"50 failed \(the last by \w") as told:
        run.step(1)
    assert "trainer.log" in str(told.value)
    assert "selection.bounds" not in str(told.value)  # no bound would help


def test_where_every_rollout_fails_the_whole_set_is_not_gone_through(simulate):
    """A grader that raises would cost the generation of forty thousand prompts."""
    run = simulate("uniform", [0.5] * 5000, max_draws=1, engine={"fault": 1.0})
    with pytest.raises(NothingToTrainOnError, match="of 128 prompt groups drawn of 5000 prompts"):
        run.step(1)


@pytest.mark.parametrize("engine", [{"fault": 0.3}, {"lost": 0.3}], ids=["failing", "silent"])
@pytest.mark.parametrize("name", ["uniform", "speed"])
def test_a_group_that_fails_is_replaced_and_counted_and_the_step_goes_on(
    simulate, mixed, name, engine
):
    run = simulate(name, mixed, engine=engine)
    failed = 0
    for choices, record, groups in run.steps(20):
        assert len(choices) == 8
        reasons = [group["fate"] for group in groups if group["fate"].startswith("failed")]
        assert record["selection/failed"] == len(reasons)
        failed += len(reasons)
    assert failed > 20


def test_rollouts_of_a_group_that_was_given_up_are_counted_and_let_go(simulate):
    stream = simulate("uniform", [0.5] * 100).stream
    stream.begin(1)
    order = stream.orders()[0]
    assert stream.failed(order.group.uid, "timeout")
    assert not stream.failed(order.group.uid, "timeout")
    assert not stream.graded(order.group.uid, rollouts([1] * 8))
    assert stream.ledger.counts["late"] == 1
    assert stream.released == [order.group.uid] * 2
    assert len(stream.orders()) == 1  # the group in its place


def test_what_nobody_needs_any_more_is_released(simulate, mixed):
    run = simulate("speed", mixed, speed={"screening": 4})
    for choices, _, groups in run.steps(20):
        left = {f"{group['number']:09d}" for group in groups if group["fate"] != "trained"}
        assert set(run.stream.released) == left
        assert left.isdisjoint(choice.group.uid for choice in choices)
        run.stream.released.clear()


def test_uniform_sampling_gives_every_prompt_once_per_epoch(simulate):
    run = simulate("uniform", [0.5] * 40)
    ids = [choice.group.id for choices, _, _ in run.steps(10) for choice in choices]
    assert sorted(ids[:40]) == sorted(ids[40:]) == sorted(f"p{i}" for i in range(40))
    assert ids[:40] != ids[40:]


def test_a_state_of_another_prompt_set_is_refused(simulate):
    state = simulate("uniform", [0.5] * 40).stream.state_dict()
    with pytest.raises(ValueError, match="move the stage's folder away"):
        simulate("uniform", [0.5] * 41).stream.load_state_dict(state)


def test_the_four_counters_are_apart(simulate, mixed):
    run = simulate("speed", mixed, speed={"screening": 4})
    records = [record for _, record, _ in run.steps(30)]
    last = records[-1]
    assert last["counters/steps"] == last["counters/updates"] == 30
    assert last["counters/prompts"] == sum(record["selection/drawn"] for record in records)
    orders = sum(r["selection/drawn"] + r["selection/continued"] for r in records)
    assert last["counters/generation_calls"] == orders
    assert last["counters/prompts"] > 30 * 8


def test_tokens_of_all_that_was_sampled_are_counted(simulate, mixed):
    lengths = np.random.default_rng(0).integers(1, 100, len(mixed))
    run = simulate("speed", mixed, max_age=0, engine={"tokens": lambda p: int(lengths[p])})
    for _, record, groups in run.steps(10):
        assert record["tokens/generated"] == sum(group["tokens"] for group in groups)
        trained = [group["tokens"] for group in groups if group["fate"] == "trained"]
        assert record["tokens/trained"] == sum(trained)
        assert record["rollouts"] == sum(group["rollouts"] for group in groups)


def contrast(order, policy):
    """What comes back of an order of which half is right."""
    return [Rollout(float(i % 2), float(i % 2), 1, policy) for i in range(order.count)]


def test_screened_ahead_a_step_asks_the_engine_once_and_trains_what_the_last_one_screened(simulate):
    """As published: the next step's screening goes with this step's continuation."""
    stream = simulate("speed_ahead", [0.5] * 200, speed={"screening": 4}, steps=4).stream
    asked, trained = [], []
    for step in range(1, 5):
        stream.begin(step)
        rounds = []
        while not stream.ready:
            orders = stream.orders()
            rounds.append([(order.group.number, order.first, order.count) for order in orders])
            for order in orders:
                stream.graded(order.group.uid, contrast(order, step - 1))
        asked.append(rounds)
        choices = stream.take()
        trained.append([choice.group.number for choice in choices])
        policies = {rollout.policy for choice in choices for rollout in choice.group.rollouts}
        assert policies == ({0} if step == 1 else {step - 2, step - 1})
    first, second, third, last = asked
    screened = [(number, 0, 4) for number in range(16)]
    continued = [(number, 4, 4) for number in range(8)]
    assert first == [screened, continued]  # nothing was screened before the first step
    for rounds, start in ((second, 8), (third, 16)):
        goes_on = [(start + i, 4, 4) for i in range(8)]
        assert rounds == [goes_on + [(start + 8 + i, 0, 4) for i in range(8)]]
    assert last == [[(24 + i, 4, 4) for i in range(8)]]  # there is no step to screen for
    assert trained == [list(range(start, start + 8)) for start in (0, 8, 16, 24)]


def test_screened_ahead_in_vain_a_step_is_filled_up_by_prompts_of_its_own(simulate, mixed):
    """Half of the prompts teach nothing: what falls short is screened in the step itself."""
    run = simulate("speed_ahead", mixed, group_size=16, steps=60)
    ages, orders = [], 0
    for choices, record, _ in run.steps(60):
        assert record["selection/short"] == 0
        ages += [run.stream.step - choice.group.step for choice in choices]
        orders += record["selection/screened"]
    assert set(ages) == {0, 1} and np.mean(ages) > 0.5  # most were screened ahead
    # Ahead or not, a trained group costs as many screenings.
    apart = simulate("speed", mixed, group_size=16, steps=60)
    usual = sum(record["selection/screened"] for _, record, _ in apart.steps(60))
    assert orders == pytest.approx(usual, rel=0.1)


def test_ahead_needs_an_age():
    found = Selection(name="speed", max_age=0, speed={"ahead": True}).fault(8, 4, 4)
    assert "hint: set selection.max_age=1" in found
    assert not Selection(name="uniform", max_age=0, speed={"ahead": True}).fault(8, 4, 4)
