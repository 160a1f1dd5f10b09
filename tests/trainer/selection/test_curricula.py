"""Each curriculum against its formula."""

from collections import Counter
from itertools import product
from math import comb

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import betabinom, binom, binomtest

from conf.load import choices as files
from conf.load import load
from trainer.selection import CURRICULA
from trainer.selection.cursor import Cursor
from trainer.selection.e2h import levels_of
from trainer.selection.posterior import contrast
from trainer.selection.shuffle_r1 import contrast_pairs
from trainer.selection.speed import qualifies


def sealed(run, steps):
    return [group for _, _, groups in run.steps(steps) for group in groups]


def agrees(hits, tries, probability):
    """Whether a count is what a probability would give in all but one of 10,000 cases."""
    return binomtest(hits, tries, probability).pvalue > 1e-4


# --- SPEED -------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.02, 0.1, 0.25, 0.5, 0.9])
@pytest.mark.parametrize("screening", [2, 4, 8])
def test_speed_continues_the_published_share_of_prompts(simulate, rate, screening):
    run = simulate("speed", [rate] * 5000, group_size=16, speed={"screening": screening})
    groups = sealed(run, 60)
    went_on = sum(group["fate"] in ("trained", "surplus") for group in groups)
    assert len(groups) >= 480
    assert agrees(went_on, len(groups), qualifies(rate, screening))


@pytest.mark.parametrize(("rate", "published"), [(0.1, 0.34), (0.25, 0.68), (0.5, 0.875)], ids=str)
def test_the_formula_gives_the_published_probabilities(rate, published):
    assert qualifies(rate, 4) == pytest.approx(published, abs=0.005)


def test_the_screening_of_an_accepted_hard_prompt_looks_easier_than_it_is(simulate):
    """p = .1, N_init = 4: given acceptance the screening's mean is .29, the continuation's .1."""
    run = simulate("speed", [0.1] * 5000, group_size=24, speed={"screening": 4})
    first, rest = [], []
    for chosen, _, _ in run.steps(250):
        for choice in chosen:
            right = [rollout.correct for rollout in choice.group.rollouts]
            first += right[:4]
            rest += right[4:]
    expected = sum(k / 4 * comb(4, k) * 0.1**k * 0.9 ** (4 - k) for k in (1, 2, 3))
    assert np.mean(first) == pytest.approx(expected / qualifies(0.1, 4), abs=0.01)
    assert expected / qualifies(0.1, 4) == pytest.approx(0.29, abs=0.005)
    assert np.mean(rest) == pytest.approx(0.1, abs=0.01)


def test_speed_pays_for_a_trained_group_what_the_formula_says(simulate, mixed):
    run = simulate("speed", mixed, group_size=24, steps=400, speed={"screening": 4})
    records = [record for _, record, _ in run.steps(400)]
    paid = sum(record["rollouts"] for record in records) / (400 * 8)
    share = np.mean([qualifies(rate, 4) for rate in mixed])
    assert paid == pytest.approx(4 / share + 20, rel=0.02)


def test_speed_trains_on_the_continuation_alone_if_told_so(simulate, mixed):
    run = simulate("speed", mixed, group_size=24, speed={"screening": 4, "rows": "continuation"})
    assert run.stream.curriculum.rows_per_group == 20
    for choice in run.step(1):
        assert choice.baseline == choice.trained == tuple(range(4, 24))


def test_bounds_on_the_screening_are_strict(simulate):
    run = simulate(
        "speed", [0.5] * 2000, speed={"screening": 4}, bounds={"low": 0.25, "high": 0.75}
    )
    for choices, _, groups in run.steps(20):
        assert all(sum(r.correct for r in c.group.rollouts[:4]) == 2 for c in choices)
        narrow = [g for g in groups if g["fate"] == "out of bounds"]
        assert all(group["correct"] in (1, 3) for group in narrow)


# --- DAPO --------------------------------------------------------------------------------------


@pytest.mark.parametrize("rate", [0.05, 0.3])
def test_dapo_keeps_the_share_that_has_contrast(simulate, rate):
    groups = sealed(simulate("dapo", [rate] * 5000), 60)
    kept = sum(group["fate"] in ("trained", "surplus") for group in groups)
    assert agrees(kept, len(groups), qualifies(rate, 8))


def test_dapo_never_trains_on_a_flat_group_and_uniform_sampling_does(simulate, mixed):
    for _, record, _ in simulate("dapo", mixed).steps(30):
        assert record["zero_variance_share"] == 0
    shares = [
        record["zero_variance_share"] for _, record, _ in simulate("uniform", mixed).steps(50)
    ]
    expected = np.mean([1 - qualifies(rate, 8) for rate in mixed])
    assert np.mean(shares) == pytest.approx(expected, abs=0.06)


# --- MoPPS and the posterior -------------------------------------------------------------------


def test_the_posterior_is_the_prior_plus_what_was_seen(simulate, mixed):
    run = simulate("mopps", mixed)
    seen = {}
    for group in sealed(run, 30):
        right, wrong = seen.get(group["id"], (0, 0))
        seen[group["id"]] = (right + group["correct"], wrong + 8 - group["correct"])
    posterior = run.stream.curriculum.posterior
    for prompt, (right, wrong) in seen.items():
        assert posterior.of(prompt) == (1 + right, 1 + wrong)
    assert set(posterior.counts) == set(seen)


def test_mopps_spends_no_rollout_on_choosing(simulate, mixed):
    for _, record, _ in simulate("mopps", mixed).steps(20):
        assert record["rollouts"] == record["rollouts/trained"] == 64


def test_mopps_comes_to_prefer_prompts_near_its_target(simulate, mixed):
    rates = mixed[:200]
    run = simulate("mopps", rates, mopps={"pool": 4.0})
    chosen = [[rates[c.group.draw.prompt] for c in choices] for choices, _, _ in run.steps(200)]
    off = np.abs(np.array(chosen) - 0.5).mean(axis=1)
    early, late = off[:5].mean(), off[150:].mean()
    # Half of the prompts are off by .5, the others by .25 on average; the quarter that is nearest,
    # which a pool of four times the batch keeps once all is known, by .125.
    assert early == pytest.approx(0.375, abs=0.08)
    assert late == pytest.approx(0.125, abs=0.06)


@given(alpha=st.floats(0.1, 50), beta=st.floats(0.1, 50), rollouts=st.integers(1, 32))
def test_contrast_is_the_beta_binomial_probability_of_neither_none_nor_all(alpha, beta, rollouts):
    ends = betabinom.pmf([0, rollouts], rollouts, alpha, beta)
    expected = 1 - ends.sum() if rollouts > 1 else 0.0
    assert contrast(alpha, beta, rollouts) == pytest.approx(expected, abs=1e-9)


def test_bounds_leave_out_of_both_probabilities_what_they_leave_out_of_training():
    within = [2, 3, 4]  # of 8: .25 < k / 8 < .625 leaves 3 and 4
    assert contrast(2, 3, 8, 0.25, 0.625) == pytest.approx(
        betabinom.pmf(within[1:], 8, 2, 3).sum(), abs=1e-9
    )
    assert qualifies(0.3, 8, 0.2, 0.625) == pytest.approx(binom.pmf(within, 8, 0.3).sum())


# --- SPEED with a posterior --------------------------------------------------------------------


def test_a_sure_prompt_is_not_screened_and_a_hopeless_one_not_sampled(simulate):
    run = simulate("speed_mopps", [0.5] * 50 + [0.0] * 50, group_size=16)
    groups = sealed(run, 60)
    late = [group for group in groups if group["drawn"] > 30]
    good = [group for group in late if int(group["id"][1:]) < 50]
    assert np.mean([group["screening"] == 0 for group in good]) > 0.8
    # SPEED alone screens as many of one kind as of the other. Now and then a hopeless one is tried.
    assert 0 < len(late) - len(good) < len(good) / 2


def test_a_group_without_a_screening_is_held_to_the_bounds(simulate):
    """The policy learns every prompt between two steps: what was sure is so no more."""
    learnt = lambda prompt, step: 0.5 if step <= 20 else 0.99  # noqa: E731
    run = simulate("speed_mopps", learnt, levels=[None] * 100)
    records = [record for _, record, _ in run.steps(30)]
    assert sum(record["selection/drawn"] - record["selection/screened"] for record in records) > 100
    assert {record["zero_variance_share"] for record in records} == {0.0}


def test_the_bounds_decide_what_is_sure_and_what_is_hopeless(simulate):
    run = simulate("speed_mopps", [0.95] * 50 + [0.5] * 50, bounds={"high": 0.7}, group_size=16)
    late = [group for group in sealed(run, 60) if group["drawn"] > 30]
    good = [group for group in late if int(group["id"][1:]) >= 50]
    assert len(good) > 0.75 * len(late)
    assert np.mean([group["screening"] == 0 for group in good]) > 0.5


def test_what_was_believed_fades_until_a_skipped_prompt_is_screened_again(simulate):
    curriculum = simulate("speed_mopps", [0.5] * 10).stream.curriculum
    prompt = "p0"
    curriculum.posterior.counts[prompt] = [0.3, 0.3 + 4]
    curriculum.seen[prompt] = 10
    unknown = contrast(0.3, 0.3, 4)
    assert curriculum.chance(prompt, 10) < 0.7 * unknown
    chances = [curriculum.chance(prompt, step) for step in range(10, 60)]
    assert chances == sorted(chances) and chances[-1] > 0.7 * unknown
    assert curriculum.chance(prompt, 10_000) == pytest.approx(unknown)


def test_the_combination_pays_less_per_trained_group_than_either_of_its_parts(simulate, mixed):
    """Prompts come again and again: what was learned of them is worth something."""
    rates = mixed[:200]

    def paid(name):
        run = simulate(name, rates, group_size=24, steps=150)
        records = [record for _, record, _ in run.steps(150)]
        taught = sum(
            record["selection/trained"] * (1 - record["zero_variance_share"]) for record in records
        )
        return sum(record["rollouts"] for record in records) / taught

    together = paid("speed_mopps")
    assert together < paid("speed") < paid("dapo") < paid("uniform")


# --- GRESO -------------------------------------------------------------------------------------


def test_a_streak_makes_a_prompt_rarer_by_the_exploration_probability(simulate):
    curriculum = simulate("greso", [0.5] * 10).stream.curriculum
    assert curriculum.chance("p0") == 1
    curriculum.streaks["p0"] = [3, "hard"]
    assert curriculum.chance("p0") == 0.5**3


def test_contrast_ends_a_streak_and_a_streak_is_of_one_kind(simulate, group_of):
    curriculum = simulate("greso", [0.5] * 10).stream.curriculum
    curriculum.remember([group_of("p0", [0, 0])], 1)
    curriculum.remember([group_of("p0", [0, 0])], 2)
    assert curriculum.streaks["p0"] == [2, "hard"]
    curriculum.remember([group_of("p0", [1, 1])], 3)
    assert curriculum.streaks["p0"] == [1, "easy"]
    curriculum.remember([group_of("p0", [0, 1])], 4)
    assert "p0" not in curriculum.streaks


def test_exploration_falls_where_too_much_is_flat_and_rises_where_little_is(simulate, group_of):
    flat = simulate("greso", [0.0] * 30 + [0.5] * 300).stream.curriculum
    hard = [group_of(f"p{i}", [0, 0]) for i in range(10)]
    flat.remember(hard, 1)  # all hard: above its goal; none easy: below
    assert flat.explore == {"hard": pytest.approx(0.49), "easy": pytest.approx(0.51)}


def test_greso_wastes_less_than_dynamic_sampling_alone(simulate, mixed):
    rates = mixed[:200]

    def paid(name):
        return sum(record["rollouts"] for _, record, _ in simulate(name, rates).steps(150))

    assert paid("greso") < 0.8 * paid("dapo")


# --- E2H ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("schedule", ["balanced", "classic", "cosine", "gaussian"])
@pytest.mark.parametrize("step", [1, 30, 60])
def test_levels_are_drawn_as_the_schedule_says(simulate, schedule, step):
    levels = [i % 4 for i in range(4000)]
    run = simulate(
        "e2h", [0.5] * 4000, levels=levels, steps=60, batch_size=800, e2h={"schedule": schedule}
    )
    drawn = run.stream.curriculum.draw(800, step, ())
    counts = Counter(levels[draw.prompt] for draw in drawn)
    for level, probability in enumerate(run.stream.curriculum.probabilities(step)):
        assert agrees(counts[level], 800, probability)


def test_e2h_gives_each_prompt_of_a_level_before_one_again(simulate):
    run = simulate("e2h", [0.5] * 40, levels=[0] * 40)
    ids = [choice.group.id for choices, _, _ in run.steps(5) for choice in choices]
    assert sorted(ids) == sorted(f"p{i}" for i in range(40))


def test_prompts_without_a_level_are_refused(simulate):
    with pytest.raises(ValueError, match="3 of 5 prompts have no level"):
        simulate("e2h", [0.5] * 5, levels=[1, None, None, 2, None])


@given(st.lists(st.floats(-5, 5), min_size=1, max_size=60), st.integers(1, 6))
def test_levels_keep_the_order_of_what_they_are_made_of(values, most):
    levels = levels_of(values, most)
    assert set(levels) == set(range(max(levels) + 1)) and max(levels) < most
    pairs = sorted(zip(values, levels, strict=True))
    assert [level for _, level in pairs] == sorted(levels)


# --- Shuffle-R1 --------------------------------------------------------------------------------


@given(st.lists(st.floats(-3, 3), min_size=2, max_size=16).filter(lambda v: len(v) % 2 == 0))
def test_pairs_are_disjoint_and_the_first_is_the_widest(advantages):
    pairs = contrast_pairs(advantages, len(advantages) // 2)
    assert sorted(i for pair in pairs for i in pair) == list(range(len(advantages)))
    widths = [advantages[better] - advantages[worse] for better, worse in pairs]
    assert widths == sorted(widths, reverse=True) and widths[-1] >= 0


def test_a_pair_trains_in_proportion_to_its_contrast(simulate, group_of):
    """One group in four has contrast: with one pair drawn at a time, only such pairs train."""
    curriculum = simulate(
        "shuffle_r1", [0.5] * 10, group_size=4, shuffle_r1={"replay": 1000}
    ).stream.curriculum
    groups = [
        group_of("p0", [1, 0] * 4),
        group_of("p1", [1] * 8),
        group_of("p2", [1, 1, 1, 1, 1, 1, 1, 0]),
    ]
    rows = Counter()
    for _ in range(3000):
        for choice in curriculum.choose(groups, 1):
            rows[choice.group.id] += len(choice.trained) // 2
            assert choice.baseline == tuple(range(8))
    # |A| of pairs: p0 twice ½ + ½, p2 once 1/8 + 7/8 and once 1/8 + 1/8: 2 and 1.25 of 3.25.
    total = sum(rows.values())
    assert total == 3000 * 6
    assert rows["p1"] <= 2
    assert rows["p0"] / total == pytest.approx(2 / 3.25, abs=0.015)


def test_shuffle_samples_more_than_it_trains_on(simulate, mixed):
    for _, record, _ in simulate("shuffle_r1", mixed).steps(10):
        assert record["rollouts"] == 2 * record["rollouts/trained"] == 128


# --- Fairness ----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["dapo", "speed", "mopps", "speed_mopps", "greso", "shuffle_r1"])
def test_every_curriculum_trains_on_as_many_rollouts_per_step_as_uniform_sampling(
    simulate, mixed, name
):
    for _, record, _ in simulate(name, mixed, steps=20).steps(20):
        assert record["rollouts/trained"] == 8 * 8


# --- Settings ----------------------------------------------------------------------------------


@pytest.mark.parametrize("file", files("selection"))
def test_every_shipped_selection_composes_and_is_built(file, simulate):
    selection = load("experiment=lab/fastcurl", f"selection={file}").selection
    run = simulate(
        **selection.model_dump(exclude={"in_flight", "max_age", "max_draws", "timeout"}),
        rates=[0.5] * 20,
        levels=[1] * 20,
    )
    assert type(run.stream.curriculum) is CURRICULA[selection.name]


def test_idle_knobs_do_not_change_what_a_stage_is():
    uniform = load("experiment=lab/fastcurl").selection
    speed = load("experiment=lab/fastcurl", "selection=speed").selection
    other = load("experiment=lab/fastcurl", "selection=speed", "selection.speed.screening=2")
    assert other.selection.identity() != speed.identity()
    idle = uniform.model_copy(update={"speed": other.selection.speed})  # as files may leave it
    assert idle != uniform and idle.identity() == uniform.identity()


@pytest.mark.parametrize(
    ("overrides", "said"),
    [
        (["selection=speed", "selection.speed.screening=8"], "leaves nothing of a group_size of 8"),
        (["selection=speed_as_published", "selection.speed.screening=3"], "no multiple"),
        (["selection=shuffle_r1", "stages.0.group_size=7"], "is odd"),
        (["selection=dapo", "selection.bounds.low=0.6", "selection.bounds.high=0.5"], "no group"),
    ],
)
def test_sizes_that_do_not_fit_are_refused(overrides, said):
    with pytest.raises(ValueError, match=said):
        load("experiment=lab/fastcurl", *overrides)


# --- The cursor --------------------------------------------------------------------------------


@given(st.integers(1, 30), st.integers(0, 99), st.data())
def test_an_epoch_gives_every_prompt_once_though_some_were_busy_in_between(size, seed, data):
    cursor, taken, recent = Cursor(size, seed), Counter(), []
    for _ in range(4 * size):
        busy = set(recent[len(recent) - data.draw(st.integers(0, min(len(recent), size // 2))) :])
        prompt = cursor.next(busy)
        assert prompt not in busy
        if prompt is not None:
            taken[prompt] += 1
            recent.append(prompt)
        turns = cursor.epoch * np.ones(size, int)
        turns[cursor.order[: cursor.position]] += 1
        assert [taken[i] + (i in cursor.deferred) for i in range(size)] == turns.tolist()


@pytest.mark.parametrize("size", range(1, 7))
def test_the_one_free_prompt_is_found_wherever_the_cursor_stands(size):
    """It may have had its turn in this epoch, and come last in the next."""
    everyone = set(range(size))
    for seed, given_before, free in product(range(5), range(2 * size), everyone):
        cursor = Cursor(size, seed)
        for _ in range(given_before):
            cursor.next()
        assert cursor.next(everyone - {free}) == free
    assert Cursor(size, 0).next(everyone) is None
