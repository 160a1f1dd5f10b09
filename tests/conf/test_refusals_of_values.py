"""Values that are each allowed, and together would do nothing or harm."""

import re

import pytest

from conf.load import ConfigError, load


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError, match="\n\nhint: ") as refusal:
        load("experiment=lab/smoke", *overrides)
    return str(refusal.value)


@pytest.mark.parametrize(("solved", "hopeless"), [(0.5, 0.6), (0.5, 0.5), (0.1, 0.9)])
def test_limits_between_which_no_pass_rate_lies_are_refused(solved, hopeless):
    said = refused(f"stages.1.drop_solved={solved}", f"stages.1.drop_hopeless={hopeless}")
    assert re.match(rf"stages\.1: drop_hopeless is {hopeless}, drop_solved {solved}: no pass", said)
    assert said.endswith("hint: lower drop_hopeless or raise drop_solved")


@pytest.mark.parametrize(("solved", "hopeless"), [(1, 0), (0.6, 0.5), (0.5, "null"), ("null", 0.5)])
def test_limits_that_leave_prompts_are_taken(solved, hopeless):
    limits = [f"stages.1.drop_solved={solved}", f"stages.1.drop_hopeless={hopeless}"]
    assert load("experiment=lab/smoke", *limits).stages[1].drop_solved in (solved, None)
