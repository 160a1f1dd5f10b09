"""What verl leaves where Python puts temporary files goes with the save that it was made for."""

import tempfile
from contextlib import nullcontext
from pathlib import Path

import pytest
from verl.utils import fs

from trainer.backend.temporary import removed_after


def test_a_kill_leaves_them_where_the_guard_cleans_up(tmp_path, monkeypatch):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path))
    with removed_after():
        assert Path(tempfile.gettempdir()).parent == tmp_path


@pytest.mark.parametrize("fails", [False, True])
def test_the_lock_of_a_folder_is_gone_and_the_folder_stays(tmp_path, monkeypatch, fails):
    monkeypatch.setenv("RAY_TMPDIR", str(tmp_path / "of another machine"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "temporary").mkdir()
    fs.local_mkdir_safe(str(tmp_path / "usual"))
    (lock,) = (tmp_path / "temporary").iterdir()
    lock.unlink()

    with pytest.raises(OSError, match="full") if fails else nullcontext(), removed_after():
        fs.local_mkdir_safe(str(tmp_path / "made"))
        assert list((tmp_path / "temporary").glob("*/ckpt_*.lock"))
        if fails:
            raise OSError("disk full")
    assert (tmp_path / "made").is_dir()
    assert not list((tmp_path / "temporary").iterdir())
    assert tempfile.gettempdir() == str(tmp_path / "temporary")
