"""Options of the fault matrix, and the table that it fills."""

import shlex
import sys
import time
from pathlib import Path

import pytest
from attempts import Attempt
from table import Row, Table

COMMAND = "make test-faults"


def pytest_addoption(parser):
    group = parser.getgroup("faults")
    group.addoption("--faults-seed", type=int, default=0, help="seed of the random kills")
    group.addoption("--faults-kills", type=int, default=40, help="how many random kills")
    group.addoption("--faults-minutes", type=float, default=60, help="when random kills stop")
    group.addoption("--faults-table", help="folder to write faults.json and faults.md to")


@pytest.fixture(scope="session")
def table(request):
    made = Table(seed=request.config.getoption("--faults-seed"))
    yield made
    folder = request.config.getoption("--faults-table")
    if folder:
        arguments = request.config.invocation_params.args
        command = f"python -m pytest {shlex.join(map(str, arguments))}"
        made.write(Path(folder), command)
        print(f"\nwritten: {folder}/faults.md", file=sys.stderr)


@pytest.hookimpl(wrapper=True)
def pytest_runtest_makereport(item, call):
    report = yield
    if call.when == "call":
        item.stash[HELD] = report.passed
    return report


HELD = pytest.StashKey[bool]()


@pytest.fixture
def row(request, table):
    """The table's row of this fault: the test says what it saw, and its end whether all held."""
    made = Row()
    began = time.monotonic()
    yield made
    made.held = request.node.stash.get(HELD, False)
    made.seconds = round(time.monotonic() - began, 1)
    if made.fault:
        table.rows.append(made)


@pytest.fixture(scope="module")
def attempts():
    """Start runs; whatever a failed test leaves of them is ended."""
    made: list[Attempt] = []

    def attempt(*arguments, **keywords) -> Attempt:
        made.append(Attempt(*arguments, **keywords))
        return made[-1]

    yield attempt
    for one in made:
        one.destroy()
