"""What a flow shows when it is done: numbers, where they lie, and what shows more of them."""

import os
import shlex
from collections.abc import Sequence
from pathlib import Path

from prefect.artifacts import create_markdown_artifact

from conf.schema import Experiment
from tasks import results
from tasks.report import Report, terminal_summary
from tasks.track import store_uri
from tasks.verdict import score_tables
from tasks.words import plain

MAKEFILE = Path(__file__).parents[1] / "Makefile"


def report(written: Report, settings: Experiment) -> str:
    """Show a report's numbers in the terminal and on the run's page in Prefect.

    Returns:
        The report's path.
    """
    create_markdown_artifact(written.markdown, key="report", description=str(written.html))
    print(terminal_summary(written.summary))
    places = [f"report: {written.html}", f"all runs: {all_runs(settings.output)}"]
    print("\n".join(filter(None, [*places, written.aside])))
    return str(written.html)


def scores(settings: Experiment, stages: Sequence[dict], evaluations: Sequence[dict]) -> None:
    """Show the scores of checkpoints in the terminal, in the tables of a report's summary."""
    rows = results.checkpoint_rows(evaluations, results.stage_rows(settings, stages))
    print("\n\n".join(map(plain, score_tables(rows))))


def all_runs(output: str) -> str:
    """What shows all runs of an output folder: a command that works from here, or an address."""
    store, own = store_uri(output), f"sqlite:///{Path(output).absolute() / 'mlflow.db'}"
    if store.startswith("http"):
        return store
    if store != own:  # a database's address may hold a password
        return 'mlflow ui --backend-store-uri "$MLFLOW_TRACKING_URI"'
    if not MAKEFILE.is_file():  # installed without its repository
        return f"mlflow ui --backend-store-uri {shlex.quote(store)}"
    if MAKEFILE.parent.samefile(os.curdir):
        return f"make ui OUTPUT={shlex.quote(output)}"
    here, folder = shlex.quote(str(MAKEFILE.parent)), shlex.quote(str(Path(output).absolute()))
    return f"make -C {here} ui OUTPUT={folder}"
