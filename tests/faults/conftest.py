"""Options of the fault matrix, and the table that it fills."""

import shlex
import time
from pathlib import Path

import pytest
from attempts import Attempt
from table import Row, Table


def pytest_addoption(parser):
    group = parser.getgroup("faults")
    group.addoption("--faults-seed", type=int, default=0, help="seed of the random kills")
    group.addoption("--faults-kills", type=int, default=40, help="how many random kills")
    group.addoption("--faults-minutes", type=float, default=60, help="when random kills stop")
    group.addoption("--faults-draws", type=int, default=6, help="how many settings at random")
    group.addoption(
        "--faults-stall", type=int, default=120, help="seconds of silence that are a stall"
    )
    group.addoption("--faults-table", help="folder to write faults.json and faults.md to")


@pytest.fixture(scope="session")
def table(request):
    made = Table(seed=request.config.getoption("--faults-seed", 0))
    folder = request.config.getoption("--faults-table", None)
    if folder:
        arguments = map(str, request.config.invocation_params.args)
        made.to(Path(folder), f"python -m pytest {shlex.join(arguments)}")
    return made


@pytest.fixture(scope="session")
def stall(request) -> str:
    """After which silence a run counts as hung: a worker may wait for a killed one for ever."""
    return f"hardware.stall_timeout={request.config.getoption('--faults-stall', 120)}"


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
        table.write()


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


@pytest.fixture
def mlflow_of():
    """The function that counts the steps of each stage that MLflow has, all attempts together.

    It asserts that they are the steps from 1 on, each once.
    """
    mlflow = pytest.importorskip("mlflow")

    def steps(uri: str) -> dict[str, int]:
        client = mlflow.MlflowClient(uri)
        found: dict[str, list[int]] = {}
        for experiment in client.search_experiments():
            for run in client.search_runs([experiment.experiment_id]):
                if run.data.tags.get("stagecraft.kind") == "stage":
                    history = client.get_metric_history(run.info.run_id, "reward/mean")
                    name = run.data.tags["stagecraft.name"]
                    found.setdefault(name, []).extend(point.step for point in history)
        for name, made in found.items():
            assert sorted(made) == list(range(1, len(made) + 1)), (name, sorted(made))
        return {name: len(made) for name, made in found.items()}

    return steps
