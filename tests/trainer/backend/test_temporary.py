"""What verl leaves where Python puts temporary files goes with the save that it was made for."""

import tempfile
from contextlib import nullcontext

import pytest
from verl.utils import fs

from trainer.backend.temporary import removed_after


@pytest.mark.parametrize("fails", [False, True])
def test_the_lock_of_a_folder_is_gone_and_the_folder_stays(tmp_path, monkeypatch, fails):
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
