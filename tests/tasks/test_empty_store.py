"""The empty database that a user's new output folders get a copy of."""

import sqlite3
from contextlib import closing

import pytest

from tasks import track_reach
from tasks.track_reach import reached


@pytest.fixture
def cache(tmp_path, monkeypatch):
    folder = tmp_path / "cache"
    monkeypatch.setattr(track_reach, "user_cache_path", lambda name: folder / name)
    monkeypatch.chdir(tmp_path)
    return folder


@pytest.fixture
def made(monkeypatch) -> list:
    """Databases that MLflow made, table by table."""
    found, make = [], track_reach._make_database
    monkeypatch.setattr(
        track_reach, "_make_database", lambda path: (found.append(path), make(path))
    )
    return found


def use(path) -> None:
    """A store takes an experiment and gives it back."""
    with reached(f"sqlite:///{path}") as client:
        client.create_experiment("lab")
        assert client.get_experiment_by_name("lab") is not None


def test_mlflow_makes_one_and_the_next_is_a_copy(cache, made, tmp_path):
    for name in "abc":
        use(tmp_path / name / "mlflow.db")
    assert len(made) == 1
    (kept,) = (cache / "stagecraft").iterdir()
    with closing(sqlite3.connect(kept)) as file:
        assert file.execute("SELECT count(*) FROM experiments").fetchone() == (0,)
    with reached(f"sqlite:///{tmp_path / 'b' / 'mlflow.db'}") as client:
        names = {experiment.name for experiment in client.search_experiments()}
    assert names == {"Default", "lab"}


@pytest.mark.parametrize("damage", ["cut off", "no database", "no tables", "empty", "used"])
def test_a_damaged_one_is_made_anew(cache, made, tmp_path, damage):
    use(tmp_path / "a.db")
    (kept,) = (cache / "stagecraft").iterdir()
    if damage == "cut off":
        kept.write_bytes(kept.read_bytes()[:300_000])
    elif damage == "no database":
        kept.write_bytes(b"x" * 10_000)
    elif damage == "empty":
        kept.write_bytes(b"")
    elif damage == "used":
        kept.write_bytes((tmp_path / "a.db").read_bytes())
    else:
        with closing(sqlite3.connect(kept)) as file:
            file.execute("DELETE FROM alembic_version")
            file.commit()
    use(tmp_path / "b.db")
    use(tmp_path / "c.db")
    assert len(made) == 2


def test_where_nothing_can_be_kept_each_is_made(cache, made, tmp_path):
    cache.write_text("a file where a folder should be")
    for name in "ab":
        use(tmp_path / f"{name}.db")
    assert len(made) == 2 and cache.read_text().startswith("a file")
    assert [path.name for path in tmp_path.glob(".*")] == []
