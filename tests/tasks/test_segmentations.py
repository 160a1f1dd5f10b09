import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from conf.load import ConfigError, load
from conf.schema import Segmentation
from tasks.segmentations import by_level, by_pass_rate, by_quantiles, remaining, whole


def test_the_median_divides_lengths_in_two_and_keeps_ties_together():
    labels = by_quantiles([5, 1, 3, 3, 9], [0.5], ["short", "long"])
    assert labels.of == ["long", "short", "short", "short", "long"]
    assert labels.facts["cuts"] == [3]
    assert labels.mask("all") == [True] * 5


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=60),
    st.lists(st.integers(1, 99), min_size=1, max_size=4, unique=True),
)
def test_quantile_sets_are_ordered_by_length_and_are_the_whole_set(lengths, percents):
    quantiles = [percent / 100 for percent in sorted(percents)]
    names = [f"Q{n}" for n in range(len(quantiles) + 1)]
    labels = by_quantiles(lengths, quantiles, names)
    rank = [names.index(label) for label in labels.of]
    for one, its in zip(lengths, rank, strict=True):
        assert all(one <= other for other, of in zip(lengths, rank, strict=True) if its < of)
    for number, share in enumerate(quantiles):  # as large as asked, but for ties
        assert sum(r <= number for r in rank) >= share * len(lengths) - 1e-9
    masks = np.array([labels.mask(name) for name in names])
    assert (masks.sum(0) == 1).all()


def test_levels_are_sets_and_what_has_none_is_in_the_whole_only():
    labels = by_level([3, None, 1, 3])
    assert list(labels.sets) == ["level1", "level3", "all"]
    assert labels.mask("level3") == [True, False, False, True]
    assert labels.facts["without_level"] == 1
    with pytest.raises(ValueError, match=r"found no row with a level.*\n\nhint: "):
        by_level([None, None])


def test_bands_of_pass_rates_hold_their_lower_edge():
    rates = [0.0, 0.125, 0.2, 0.5, 0.8, 1.0, None]
    labels = by_pass_rate(rates, [0, 0.2, 0.8, 1], ["P1", "P2", "P3"])
    assert labels.of == ["P1", "P1", "P2", "P2", "P3", "P3", None]
    assert (labels.facts["never"], labels.facts["always"]) == (1, 1)
    assert labels.facts["not_measured"] == 1
    assert labels.mask("all") == [True] * 7
    with pytest.raises(ValueError, match="found no pass rate"):
        by_pass_rate([None], [0, 1], ["P1"])


@pytest.mark.parametrize(
    ("solved", "hopeless", "kept"),
    [
        (None, None, "abcd?"),
        (1.0, None, "abc?"),
        (0.9, None, "ab?"),  # POLARIS
        (None, 0.0, "bcd?"),
        (1.0, 0.0, "bc?"),  # Skywork-OR1
    ],
)
def test_solved_and_hopeless_prompts_are_left_out_and_unseen_ones_kept(solved, hopeless, kept):
    ids, rates = list("abcd?"), {"a": 0.0, "b": 0.5, "c": 0.9, "d": 1.0}
    keep = remaining(ids, rates, solved, hopeless)
    assert "".join(name for name, stays in zip(ids, keep, strict=True) if stays) == kept


@pytest.mark.parametrize("rule", [by_level, whole, lambda rows: by_quantiles(rows, [0.5], "ab")])
def test_an_empty_set_is_refused(rule):
    with pytest.raises(ValueError, match="found no rows to divide"):
        rule(0 if rule is whole else [])


def test_a_rule_names_its_prompt_sets():
    assert Segmentation().labels == ["L1", "L2", "L3"]
    assert Segmentation(rule="tokens", quantiles=[0.3, 0.6]).labels == ["Q1", "Q2", "Q3", "all"]
    assert Segmentation(rule="pass_rate").labels == ["P1", "P2", "P3", "all"]
    assert Segmentation(rule="level").labels is None
    named = Segmentation(rule="tokens", names=["short", "long"])
    assert named.labels == ["short", "long", "all"]


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.segmentation.bands=[0,0.5,0.5,1]"], "needed numbers that rise"),
        (["data.segmentation.bands=[0.1,1]"], "needed 0 to 1"),
        (["data.segmentation.quantiles=[0.6,0.3]"], "needed numbers that rise"),
        (
            ["data.segmentation.rule=tokens", "data.segmentation.names=[a]"],
            "needed 2 different ones",
        ),
        (
            ["data.segmentation.rule=tokens", "data.segmentation.names=[a,all]"],
            "none of them 'all'",
        ),
        (["data.train.part=held_out"], "holds nothing out"),
    ],
)
def test_a_division_that_cannot_be_is_refused(overrides, message):
    with pytest.raises(ConfigError, match=message):
        load("experiment=lab/smoke", *overrides)
