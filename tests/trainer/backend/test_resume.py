"""Where an interrupted stage goes on, whatever moment it was killed at."""

import json
from pathlib import Path

import pytest

from trainer.backend.resume import resume_after
from trainer.backend.settings import last_saved_step
from trainer.records import append_record


def stage(folder: Path, saved: list[int], recorded: int, newest: int) -> Path:
    """A stage that saved some steps and recorded the first so many."""
    for step in saved:
        (folder / "verl" / f"global_step_{step}" / "actor").mkdir(parents=True)
        for name in ("stagecraft.json", "data.pt"):
            (folder / "verl" / f"global_step_{step}" / name).touch()
    if newest:
        (folder / "verl" / "latest_checkpointed_iteration.txt").write_text(str(newest))
    for step in range(1, recorded + 1):
        append_record(folder / "metrics.jsonl", {"step": step})
    return folder


@pytest.mark.parametrize(
    ("saved", "recorded", "newest", "expected"),
    [
        ([], 0, 0, 0),  # nothing yet
        ([2, 4], 5, 4, 4),  # killed in step 6
        ([2, 4], 3, 4, 2),  # killed between saving step 4 and recording it
        ([4], 3, 4, 0),  # the same, with no checkpoint before
        ([2, 4], 4, 2, 2),  # killed while saving step 4: the tracker still names 2
        ([2], 2, 4, 2),  # the newest was deleted by hand
    ],
)
def test_a_stage_resumes_after_the_last_step_both_saved_and_recorded(
    tmp_path, saved, recorded, newest, expected
):
    folder = stage(tmp_path, saved, recorded, newest)
    assert resume_after(folder) == expected
    assert last_saved_step(folder / "verl") == expected  # verl will look there


@pytest.mark.parametrize("gone", ["data.pt", "stagecraft.json", "actor"])
def test_a_cut_checkpoint_is_not_resumed_from(tmp_path, gone):
    folder = stage(tmp_path, [2, 4], 4, 4)
    part = folder / "verl" / "global_step_4" / gone
    part.rmdir() if part.is_dir() else part.unlink()
    assert resume_after(folder) == 2


@pytest.mark.parametrize(("good", "expected"), [(5, 4), (4, 4), (3, 2), (1, 0), (0, 0)])
def test_after_a_collapse_it_resumes_from_the_last_checkpoint_of_before(tmp_path, good, expected):
    folder = stage(tmp_path, [2, 4], 6, 4)
    (folder / "alarm.json").write_text(json.dumps({"step": 6, "good": good, "evidence": []}))
    assert resume_after(folder) == expected
    assert last_saved_step(folder / "verl") == expected


def test_a_tracker_that_was_cut_when_it_was_written_loses_no_step(tmp_path):
    folder = stage(tmp_path, [2, 4], 4, 4)
    tracker = folder / "verl" / "latest_checkpointed_iteration.txt"
    tracker.write_text("")
    assert resume_after(folder) == 4
    assert tracker.read_text() == "4"
