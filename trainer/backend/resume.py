"""Where an interrupted stage goes on: the last step that is both saved and recorded."""

import json
import shutil
from pathlib import Path

from trainer.backend.endings import alarm_of
from trainer.records import read_records
from trainer.synced import replace, sync, sync_tree

STATE = "stagecraft.json"  # our part of a checkpoint, beside verl's
TRACKER = "latest_checkpointed_iteration.txt"  # verl resumes at the step that it names
LAST = "data.pt"  # the last file of verl's checkpoint: without it the folder was cut
# Written when the others are on the disk. A checkpoint without it is an older version's, or was cut
# before its step was recorded.
SIZES = "sizes.json"


def last_saved_step(verl_folder: Path) -> int:
    """The last step whose checkpoint is whole, or 0; verl writes its tracker after all others.

    It empties the file first. Killed or looked at between, the newest checkpoint is whole. So it is
    where a power cut left no number in it.
    """
    tracker = verl_folder / TRACKER
    if not tracker.exists():
        return 0
    text = _text(tracker)
    if text.isdecimal():
        return int(text)
    whole = verl_folder.glob("global_step_*/data.pt")
    return max((int(path.parent.name.rpartition("_")[2]) for path in whole), default=0)


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
    if tracker.exists() and _text(tracker) != str(chosen):
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
    known = [
        step for step in _whole(verl) if step <= newest and set(range(1, step + 1)) <= recorded
    ]
    return max(known, default=0)


def keep_newest(verl: Path, step: int, count: int, every: int) -> None:
    """Delete checkpoints that nothing resumes from any more.

    verl deletes those only that its present process has saved: after each restart the ones of
    before would stay for ever. Those above `step` are of steps that are being made again.

    Args:
        verl: verl's folder.
        step: The newest, which is saved; while verl's tracker does not name it, nothing is deleted.
        count: How many stay. One more where a stop saved some in between: that which is as old as
            the oldest would be otherwise, since an alarm may go back there.
        every: Steps from one to the next, without a stop.
    """
    if last_saved_step(verl) != step:
        return
    there = sorted((one for one in _whole(verl) if one <= step), reverse=True)
    old = [one for one in there if one <= step - (count - 1) * every]
    kept = {step, *there[:count], *old[:1]}
    for folder in verl.glob("global_step_*"):
        if _step_of(folder) not in kept:
            (folder / LAST).unlink(missing_ok=True)  # first: what is left of it is not whole
            shutil.rmtree(folder, ignore_errors=True)


def keep_on_disk(checkpoint: Path) -> None:
    """Have a checkpoint that was just saved on the disk, and note what it holds.

    Without it a power cut leaves files that are empty or short, in a checkpoint whose step is
    recorded.
    """
    sizes = sync_tree(checkpoint)
    tracker = checkpoint.with_name(TRACKER)
    if tracker.exists():
        sync(tracker)
    replace(checkpoint / SIZES, json.dumps(sizes))


def _whole(verl: Path) -> set[int]:
    """Steps with a whole checkpoint."""
    return {_step_of(path.parent) for path in verl.glob(f"global_step_*/{LAST}") if _holds(path)}


def _holds(last: Path) -> bool:
    """Whether what lies beside a checkpoint's last file is all of it."""
    folder = last.parent
    try:
        sizes = json.loads((folder / SIZES).read_bytes())
    except FileNotFoundError:
        sizes = {}
    except ValueError:
        return False
    try:
        return (
            (folder / "actor").is_dir()
            and min(last.stat().st_size, (folder / STATE).stat().st_size) > 0
            and all((folder / name).stat().st_size == size for name, size in sizes.items())
        )
    except OSError:  # one that was there is gone
        return False


def _text(tracker: Path) -> str:
    return tracker.read_bytes().decode(errors="replace")


def _step_of(folder: Path) -> int:
    return int(folder.name.rpartition("_")[2])


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
    replace(tracker, str(step))
