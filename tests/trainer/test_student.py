import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from trainer.metrics.student import above, quantile


@given(st.floats(0.001, 0.999), st.integers(1, 5000))
def test_quantiles_and_tails_are_those_of_scipy_stats(share, freedom):
    value = quantile(share, freedom)
    assert value == pytest.approx(stats.t.ppf(share, freedom), rel=1e-8, abs=1e-8)
    assert above(value, freedom) == pytest.approx(1 - share, rel=1e-7)
