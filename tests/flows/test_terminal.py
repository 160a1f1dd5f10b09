import gc

import pytest
from prefect import flow

from flows import terminal


@flow
def nothing() -> None:
    """A flow."""


@pytest.fixture
def uncollected():
    gc.disable()  # as a program is while it imports
    yield
    gc.enable()


def test_what_a_program_leaves_lying_is_collected_once_it_runs(uncollected):
    assert terminal.run(nothing, ["experiment=no/such"]) == 2
    assert gc.isenabled() and gc.get_freeze_count() > 0
