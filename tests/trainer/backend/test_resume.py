"""Where an interrupted stage goes on, whatever moment it was killed at."""

import json
import os
from pathlib import Path

import pytest

from trainer.backend import resume
from trainer.backend.resume import (
    keep_newest,
    keep_on_disk,
    last_saved_step,
    last_whole_step,
    resume_after,
)
from trainer.records import append_record


def stage(folder: Path, saved: list[int], recorded: int, newest: int) -> Path:
    """A stage that saved some steps and recorded the first so many."""
    for step in saved:
        (folder / "verl" / f"global_step_{step}" / "actor").mkdir(parents=True)
        for name in ("stagecraft.json", "data.pt"):
            (folder / "verl" / f"global_step_{step}" / name).write_text("{}")
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


WEIGHTS = "actor/model_world_size_1_rank_0.pt"


def saved_and_kept(folder: Path) -> Path:
    """A stage whose newest checkpoint, of step 4, was on the disk before its step was recorded."""
    checkpoint = stage(folder, [2, 4], 4, 4) / "verl" / "global_step_4"
    (checkpoint / WEIGHTS).write_bytes(b"weights")
    keep_on_disk(checkpoint)
    return checkpoint


@pytest.mark.parametrize(
    ("name", "left"),
    [
        ("data.pt", b""),
        ("stagecraft.json", b""),
        (WEIGHTS, b""),
        (WEIGHTS, b"weig"),
        (WEIGHTS, None),
        ("sizes.json", b""),
        ("sizes.json", b"\0\0"),
    ],
)
def test_what_a_power_cut_took_from_a_checkpoint_sends_a_stage_to_the_one_before(
    tmp_path, name, left
):
    checkpoint = saved_and_kept(tmp_path)
    assert last_whole_step(tmp_path) == 4
    (checkpoint / name).unlink() if left is None else (checkpoint / name).write_bytes(left)
    assert resume_after(tmp_path) == 2
    assert last_saved_step(tmp_path / "verl") == 2


@pytest.mark.parametrize(("name", "expected"), [("data.pt", 2), (WEIGHTS, 4)])
def test_of_a_checkpoint_whose_sizes_nobody_noted_the_last_file_decides(tmp_path, name, expected):
    """As an older version saved it."""
    checkpoint = saved_and_kept(tmp_path)
    (checkpoint / "sizes.json").unlink()
    (checkpoint / name).write_bytes(b"")
    assert resume_after(tmp_path) == expected


def test_sizes_are_noted_when_all_else_is_on_the_disk(tmp_path, monkeypatch):
    synced = []

    def fsync(number: int) -> None:
        synced.append(os.readlink(f"/proc/self/fd/{number}"))

    monkeypatch.setattr(os, "fsync", fsync)
    checkpoint = saved_and_kept(tmp_path)
    names = [Path(path).relative_to(tmp_path / "verl").as_posix() for path in synced[4:]]
    inside = [f"global_step_4/{name}" for name in ("data.pt", "stagecraft.json", "actor", WEIGHTS)]
    before = {*inside, "global_step_4", ".", "latest_checkpointed_iteration.txt"}
    assert set(names[:-2]) == before
    assert names[-2:] == ["global_step_4/sizes.part", "global_step_4"]
    sizes = json.loads((checkpoint / "sizes.json").read_text())
    assert sizes == {WEIGHTS: 7, "data.pt": 2, "stagecraft.json": 2}


@pytest.mark.parametrize(("good", "expected"), [(5, 4), (4, 4), (3, 2), (1, 0), (0, 0)])
def test_after_a_collapse_it_resumes_from_the_last_checkpoint_of_before(tmp_path, good, expected):
    folder = stage(tmp_path, [2, 4], 6, 4)
    (folder / "alarm.json").write_text(json.dumps({"step": 6, "good": good, "evidence": []}))
    assert resume_after(folder) == expected
    assert last_saved_step(folder / "verl") == expected


@pytest.mark.parametrize("text", [b"", b"\0", b"\0\0\0", b"\xff4"])
def test_a_tracker_that_was_cut_when_it_was_written_loses_no_step(tmp_path, text):
    folder = stage(tmp_path, [2, 4], 4, 4)
    tracker = folder / "verl" / "latest_checkpointed_iteration.txt"
    tracker.write_bytes(text)
    assert resume_after(folder) == 4
    assert tracker.read_text() == "4"


def left(folder: Path) -> list[int]:
    return sorted(int(path.name[12:]) for path in (folder / "verl").glob("global_step_*"))


@pytest.mark.parametrize(
    ("saved", "step", "count", "expected"),
    [
        ([2], 2, 2, [2]),
        ([2, 4, 6, 8], 8, 2, [6, 8]),  # 2 and 4 were saved before a restart
        ([2, 4, 6], 4, 2, [2, 4]),  # 6 is of a timeline that was given up
        ([2, 4, 6], 6, 3, [2, 4, 6]),  # an alarm looks back so far
        ([2, 4, 5, 6], 6, 3, [2, 4, 5, 6]),  # a stop saved 5: the alarm may still go back to 2
        ([2, 4, 5, 6, 8], 8, 3, [4, 5, 6, 8]),
        ([2, 4, 5, 6, 7], 7, 2, [5, 6, 7]),
    ],
)
def test_what_no_restart_will_take_is_deleted_after_a_save(tmp_path, saved, step, count, expected):
    folder = stage(tmp_path, saved, step - 1, step)
    would = resume_after(folder)
    (folder / "verl" / "latest_checkpointed_iteration.txt").write_text(str(step))
    keep_newest(folder / "verl", step, count, every=2)
    assert left(folder) == sorted(expected)
    assert resume_after(folder) == would  # killed now, before the step is recorded


def test_hollow_and_cut_checkpoints_do_not_count_and_go(tmp_path):
    folder = stage(tmp_path, [2, 4, 5, 6, 8], 8, 8)
    (folder / "verl" / "global_step_6" / "actor").rmdir()  # verl deletes no more than this
    (folder / "verl" / "global_step_5" / "data.pt").unlink()
    keep_newest(folder / "verl", 8, 2, every=2)
    assert left(folder) == [4, 8]


def test_nothing_is_deleted_while_the_tracker_names_another_step(tmp_path):
    folder = stage(tmp_path, [2, 4, 6], 6, 4)
    keep_newest(folder / "verl", 6, 1, every=2)
    assert left(folder) == [2, 4, 6]


def test_a_checkpoint_that_is_deleted_in_part_is_not_whole(tmp_path, monkeypatch):
    folder = stage(tmp_path, [2, 4, 6], 6, 6)
    monkeypatch.setattr(resume.shutil, "rmtree", lambda *_, **__: None)  # killed here
    keep_newest(folder / "verl", 6, 2, every=2)
    assert not (folder / "verl" / "global_step_2" / "data.pt").exists()
    assert left(folder) == [2, 4, 6]
