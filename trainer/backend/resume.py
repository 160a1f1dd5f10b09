"""Where an interrupted stage goes on: the last step that is both saved and recorded."""

import os
from pathlib import Path

from trainer.backend.endings import alarm_of
from trainer.backend.settings import STATE, TRACKER, last_saved_step
from trainer.records import read_records


def resume_after(folder: Path) -> int:
    """The step that training resumes after, 0 for a start from nothing; verl is told so.

    verl saves a step's checkpoint before that step's metrics are written. A kill in between leaves
    a checkpoint whose step nobody has a record of: resumed there, the step would be missing for
    ever. So training goes back to the checkpoint before, and makes the step again. After a collapse
    it goes back to the last checkpoint of before that.

    Args:
        folder: The stage's folder.
    """
    chosen = last_whole_step(folder)
    tracker = folder / "verl" / TRACKER
    if tracker.exists() and tracker.read_text() != str(chosen):
        _tell_verl(tracker, chosen)
    return chosen


def last_whole_step(folder: Path) -> int:
    """The last step that is saved, recorded, and of before a collapse, or 0; changes nothing."""
    verl = folder / "verl"
    newest = last_saved_step(verl)
    alarm = alarm_of(folder)
    if alarm:
        newest = min(newest, alarm["good"])
    recorded = {record["step"] for record in read_records(folder / "metrics.jsonl")}
    # data.pt is the last file of a checkpoint: without it the folder was cut.
    whole = {
        int(path.parent.name.rpartition("_")[2])
        for path in verl.glob("global_step_*/data.pt")
        if (path.parent / STATE).exists() and (path.parent / "actor").is_dir()
    }
    known = [step for step in whole if step <= newest and set(range(1, step + 1)) <= recorded]
    return max(known, default=0)


def saved_optimizer(verl_folder: Path, step: int) -> Path:
    """Where verl keeps the optimizer of a stage after its last step.

    Raises:
        ValueError: it is not there any more.
    """
    folder = verl_folder / f"global_step_{step}" / "actor"
    if not list(folder.glob("optim_world_size_*")):
        raise ValueError(
            f"{folder} holds no optimizer state to carry over\n\nhint: `stagecraft gc` may have "
            "removed it: train the stage before again with force=true, or set optimizer=fresh"
        )
    return folder


def _tell_verl(tracker: Path, step: int) -> None:
    if step == 0:
        tracker.unlink(missing_ok=True)
        return
    aside = tracker.with_suffix(".part")
    aside.write_text(str(step))
    os.replace(aside, tracker)
