"""Reach an MLflow store, or know within seconds that it is away.

MLflow itself waits for minutes: seven retries of 120 s for a server, 20 s for each statement on a
locked sqlite file, 100 s for a database that does not open.
"""

import logging
import os
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from pathlib import Path
from typing import Any
from uuid import uuid4

from conf import telemetry

PATIENCE = 5
"""Seconds that a server or a locked database is waited for."""


class StoreAwayError(OSError):
    """MLflow cannot be reached, or does not take what it is sent. Says why, in a line."""


@contextmanager
def reached(uri: str) -> Iterator[Any]:
    """A block that talks to a store.

    The variables MLFLOW_HTTP_REQUEST_MAX_RETRIES and MLFLOW_HTTP_REQUEST_TIMEOUT (seconds) set
    another patience with a server.

    Args:
        uri: The store, as MLflow's command line takes it.

    Yields:
        An `MlflowClient`.

    Raises:
        StoreAwayError: what the store did wrong.
    """
    client_of, its_errors = _mlflow()
    try:
        _make_sqlite(uri)
        _check_sqlite(uri)
        yield client_of(uri)
    except (*its_errors, sqlite3.Error, OSError) as error:
        raise StoreAwayError(_in_a_line(error)) from error


@cache
def _mlflow() -> tuple[Any, tuple[type[Exception], ...]]:
    """What makes a client, and MLflow's errors. Imported late, for it takes seconds."""
    telemetry.switch_off()
    # MLflow reads these at each request. One that failed is sign enough that the server is away.
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    os.environ.setdefault("MLFLOW_HTTP_REQUEST_TIMEOUT", str(PATIENCE))
    os.environ.setdefault("MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT", "true")
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException
    from mlflow.store.db import utils as databases
    from sqlalchemy.exc import SQLAlchemyError

    databases.MAX_RETRY_COUNT = 1  # of 10
    for chatter in ("mlflow", "alembic"):
        logging.getLogger(chatter).setLevel(logging.CRITICAL)  # told once, and by us
    return cache(lambda uri: MlflowClient(tracking_uri=uri)), (MlflowException, SQLAlchemyError)


def _make_sqlite(uri: str) -> None:
    """Make a new database aside, and give it its name when it is whole.

    MLflow makes one in dozens of steps, none of which may be repeated: a run killed in between
    would leave a file that no later run could open.
    """
    name = uri.removeprefix("sqlite:///")
    if name == uri or name.startswith((":", "file:")) or os.path.exists(name):
        return
    from mlflow import MlflowClient

    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        MlflowClient(tracking_uri=f"sqlite:///{aside}")
        with suppress(FileExistsError):  # another process was quicker
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _check_sqlite(uri: str) -> None:
    """Try to write, without writing: MLflow itself waits 20 s for a locked file, deaf to signals.

    Raises:
        sqlite3.Error: the file is locked, read-only or no database.
    """
    name = uri.removeprefix("sqlite:///")
    if name == uri or not (name.startswith("file:") or os.path.exists(name)):
        return
    with closing(sqlite3.connect(name, timeout=PATIENCE, uri=name.startswith("file:"))) as file:
        file.execute("BEGIN IMMEDIATE")
        file.rollback()


def _in_a_line(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of errors."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
