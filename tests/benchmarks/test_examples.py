import doctest

import pytest

from benchmarks import overhead, record, scaling


@pytest.mark.parametrize("module", [overhead, record, scaling])
def test_the_examples_in_docstrings_hold(module):
    failed, tried = doctest.testmod(module)
    assert tried and not failed
