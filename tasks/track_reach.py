"""Reach an MLflow store, or know within seconds that it is away.

MLflow itself waits for minutes: seven retries of 120 s for a server, 20 s for each statement on a
locked sqlite file, 100 s for a database that does not open.
"""

import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import closing, contextmanager, suppress
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any
from uuid import uuid4

from platformdirs import user_cache_path

from conf import telemetry

PATIENCE = 5
"""Seconds that a server or a locked database is waited for."""
FILES = "mlartifacts"
"""Folder in an output folder that the files of its runs lie in, where its own database has them."""
# Where MLflow's tables keep addresses of files.
_ADDRESSES = (
    ("experiments", "artifact_location"),
    ("runs", "artifact_uri"),
    ("logged_models", "artifact_location"),
)


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


def load() -> None:
    """Import MLflow: a second, which a flow may spend while its server starts."""
    _mlflow()


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
    path = Path(name)
    path.parent.mkdir(parents=True, exist_ok=True)
    aside = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    try:
        if not _copied(_empty_database(), aside):
            _make_database(aside)
        with suppress(FileExistsError):  # another process was quicker
            os.link(aside, path)
    finally:
        aside.unlink(missing_ok=True)


def _make_database(path: Path) -> None:
    """Make an empty one, which takes a second, and keep a copy for the next output folder."""
    from mlflow import MlflowClient

    MlflowClient(tracking_uri=f"sqlite:///{path}")
    with closing(sqlite3.connect(path)) as file:
        # The one that it begins with is of this folder. MLflow makes another when it finds none.
        file.execute("DELETE FROM experiments")
        file.commit()
    kept = _empty_database()
    aside = kept.with_name(f".{kept.name}.{uuid4().hex[:12]}")
    with suppress(OSError):  # no home, or a full one
        kept.parent.mkdir(parents=True, exist_ok=True)
        try:
            shutil.copyfile(path, aside)
            os.replace(aside, kept)
        finally:
            aside.unlink(missing_ok=True)


def _empty_database() -> Path:
    """Where this user's empty database of this MLflow lies."""
    return user_cache_path("stagecraft") / f"mlflow-{version('mlflow')}.db"


def _copied(empty: Path, to: Path) -> bool:
    """Whether there was a sound one to copy."""
    try:
        shutil.copyfile(empty, to)
        with closing(sqlite3.connect(to)) as file:
            sound = file.execute("PRAGMA integrity_check").fetchone() == ("ok",)
            versions = file.execute("SELECT count(*) FROM alembic_version").fetchone()[0]
            filled = file.execute("SELECT count(*) FROM experiments").fetchone()[0]
    except (OSError, sqlite3.Error):
        sound = False
    if not sound or versions != 1 or filled:
        to.unlink(missing_ok=True)
        return False
    return True


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


def follow(uri: str, output: Path) -> None:
    """Tell an output folder's own database where its runs' files lie, if both were copied or moved.

    MLflow keeps absolute addresses: it would look for files in the old place, and write new ones
    there.

    Raises:
        sqlite3.Error: the file is locked, read-only or no database of MLflow.
    """
    path = output / "mlflow.db"
    if uri != f"sqlite:///{path}" or not path.exists():
        return
    now = (output / FILES).as_uri()
    with closing(sqlite3.connect(path, timeout=PATIENCE)) as file:
        addresses = {row[0] for row in file.execute("SELECT artifact_location FROM experiments")}
        before = {one for one in addresses if one.startswith("file:") and one.endswith(f"/{FILES}")}
        for old in before - {now}:
            for table, column in _ADDRESSES:
                file.execute(
                    f"UPDATE {table} SET {column} = ? || substr({column}, ?) "
                    f"WHERE {column} = ? OR substr({column}, 1, ?) = ?",
                    (now, len(old) + 1, old, len(old) + 1, f"{old}/"),
                )
        file.commit()


def _in_a_line(error: BaseException) -> str:
    """What went wrong at the bottom of a chain of errors."""
    while error.__cause__ or error.__context__:
        error = error.__cause__ or error.__context__
    return f"{type(error).__name__}: {error}".splitlines()[0][:300]
