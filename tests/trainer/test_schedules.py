import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from trainer.schedules import level_probabilities

schedules = st.sampled_from(["balanced", "classic", "cosine", "gaussian"])


@given(schedules, st.floats(0, 1), st.integers(1, 12), st.booleans(), st.floats(0.01, 3))
def test_probabilities_are_probabilities(schedule, progress, levels, floor, width):
    chances = level_probabilities(schedule, progress, levels, floor=floor, width=width)
    assert chances.shape == (levels,) and (chances >= 0).all()
    assert chances.sum() == pytest.approx(1)


def test_balanced_never_changes():
    for progress in (0, 0.3, 1):
        assert level_probabilities("balanced", progress, 4).tolist() == [0.25] * 4


def test_classic_takes_each_level_in_turn_for_equally_long():
    taken = [int(level_probabilities("classic", t / 100, 5).argmax()) for t in range(100)]
    assert [taken.count(level) for level in range(5)] == [20] * 5
    assert taken == sorted(taken)
    assert level_probabilities("classic", 1.0, 5).tolist() == [0, 0, 0, 0, 1]


def test_cosine_turns_an_easy_profile_into_its_mirror():
    """Levels weigh K ... 1 at the start, 1 ... K at the end, and the same half-way."""
    start = level_probabilities("cosine", 0.0, 4)
    np.testing.assert_allclose(start, np.array([4, 3, 2, 1]) / 10)
    np.testing.assert_allclose(level_probabilities("cosine", 1.0, 4), start[::-1], atol=1e-12)
    np.testing.assert_allclose(level_probabilities("cosine", 0.5, 4), [0.25] * 4)


def test_gaussian_is_centred_where_the_exponent_says():
    # t = 0.25 with exponent 0.5 is half of the way: level 2 of 0 to 4.
    chances = level_probabilities("gaussian", 0.25, 5)
    assert chances.argmax() == 2
    np.testing.assert_allclose(chances, chances[::-1])
    assert chances[1] / chances[2] == pytest.approx(np.exp(-2))  # one level at width 0.5
    assert level_probabilities("gaussian", 0.0, 5).argmax() == 0
    assert level_probabilities("gaussian", 1.0, 5).argmax() == 4


def test_a_floor_keeps_every_level_in_play():
    assert level_probabilities("gaussian", 0.0, 5).min() < 1e-10
    floored = level_probabilities("gaussian", 0.0, 5, floor=True)
    # Levels 2 to 4 are lifted to 2 / (5 * 6); level 1 had 0.119, level 0 the rest of 1.
    assert floored[2:] == pytest.approx([2 / 30 / (1 + 3 * 2 / 30)] * 3, rel=0.01)


@pytest.mark.parametrize(
    "arguments",
    [("cosine", -0.1, 3), ("cosine", 1.1, 3), ("cosine", 0.5, 0), ("cosin", 0.5, 3)],
)
def test_what_no_schedule_can_be_is_refused(arguments):
    with pytest.raises(ValueError, match=r"needed .*\n\nhint: "):
        level_probabilities(*arguments)


def test_a_narrow_gaussian_does_not_underflow():
    chances = level_probabilities("gaussian", 0.13, 3, width=1e-3)
    assert chances.max() == 1.0
