"""Stages as they lie on disk: find one without training it, or move one aside."""

import fcntl
import os
from datetime import datetime
from pathlib import Path
from typing import Any

from conf.schema import Experiment
from tasks.artifacts import Dataset, digest_of
from tasks.model import Checkpoint
from tasks.train_stage import finished, identity, stage_folder


def folder_of(experiment: Experiment, position: int, data: Dataset, start: Checkpoint) -> Path:
    """Where a stage lies or would lie: by its settings, its prompts, and where it starts from.

    Args:
        experiment: The experiment.
        position: Which of its stages, from 0.
        data: The prompt set it trains on.
        start: The checkpoint it begins from.
    """
    stage = experiment.stages[position]
    digest = digest_of(identity(experiment, stage, data, start))
    return stage_folder(Path(experiment.output).absolute(), stage.name, digest)


def find(
    experiment: Experiment, position: int, data: Dataset, start: Checkpoint
) -> dict[str, Any] | None:
    """A finished stage's manifest, with `folder` and `position` added; None if it is not finished.

    The arguments are those of `folder_of`.
    """
    folder = folder_of(experiment, position, data, start)
    manifest = finished(folder)
    return manifest and {**manifest, "folder": folder, "position": position}


def move_aside(folder: Path) -> Path | None:
    """Rename a stage's folder to `<folder>.old-<time>`, where nothing looks for it: a fresh start.

    Nothing is deleted. While the stage is being trained it stays where it is.

    Returns:
        Its new path, None if there was no such folder.

    Raises:
        ValueError: a process holds the stage's lock.
    """
    if not folder.is_dir():
        return None
    with (folder / "lock").open("a+") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            lock.seek(0)
            raise ValueError(
                f"{folder} is being trained by process {lock.read() or '?'}, so it stays where it "
                "is\n\nhint: cancel that run first, or wait for it and leave out force"
            ) from None
        aside = folder.with_name(f"{folder.name}.old-{datetime.now():%Y%m%dT%H%M%S.%f}")
        os.replace(folder, aside)
    return aside
