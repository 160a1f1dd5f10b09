"""A stage that is there already: find it without training it, or move it aside to train it anew."""

import os
from datetime import datetime
from pathlib import Path
from typing import Any

from conf.schema import Experiment
from tasks.artifacts import Dataset, digest_of
from tasks.model import Checkpoint
from tasks.stages import (
    LOCK,
    finished,
    held_for_deletion,
    holder,
    identity,
    read_manifest,
    stage_folder,
)
from tasks.weights import unread


def folder_of(experiment: Experiment, position: int, data: Dataset, start: Checkpoint) -> Path:
    """Where a stage lies or would lie: by its settings, its prompts, and where it starts from.

    Args:
        experiment: The experiment.
        position: Which of its stages, from 0.
        data: The prompt set it trains on.
        start: The checkpoint it begins from.
    """
    stage = experiment.stages[position]
    what = identity(experiment, stage, data.digest, start.digest, start.upstream)
    return stage_folder(Path(experiment.output).absolute(), stage.name, digest_of(what))


def find(
    experiment: Experiment, position: int, data: Dataset, start: Checkpoint
) -> dict[str, Any] | None:
    """A finished stage's manifest, with `folder` and `position` added; None if it is not finished.

    Its `name` is the one it has here, whatever it was called when it was trained. The arguments are
    those of `folder_of`.
    """
    folder = folder_of(experiment, position, data, start)
    manifest = finished(folder)
    here = {"name": experiment.stages[position].name, "folder": folder, "position": position}
    return manifest and {**manifest, **here}


def move_aside(folder: Path, before: float) -> Path | None:
    """Rename a stage's folder to `<folder>.old-<time>`, where no run looks for it. Deletes nothing.

    Args:
        folder: The stage's folder.
        before: Unix time. A stage whose first attempt began later is left where it is.

    Returns:
        Its new path, None if nothing was moved.

    Raises:
        ValueError: a process is training the stage, or reading its checkpoint.
    """
    if not folder.is_dir():
        return None
    manifest, _ = read_manifest(folder)
    if manifest and manifest["attempts"] and manifest["attempts"][0]["started"] >= before:
        return None
    (folder / LOCK).touch()
    with held_for_deletion(folder) as held:
        if not held and _is_read(folder):
            raise ValueError(
                f"{folder}: found a run that trains from its checkpoint or evaluates it, needed "
                "none\n\nhint: cancel that run, or wait for it; without force the stage is found"
            )
        if not held:
            raise ValueError(
                f"{folder} is being trained by process {holder(folder) or '?'}, so it stays where "
                "it is\n\nhint: cancel that run, or wait for it; without force it is found"
            )
        aside = folder.with_name(f"{folder.name}.old-{datetime.now():%Y%m%dT%H%M%S.%f}")
        os.replace(folder, aside)
    return aside


def _is_read(folder: Path) -> bool:
    with unread(folder) as free:
        return not free
