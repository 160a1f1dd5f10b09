"""What lies in an output folder that nothing refers to, and how to delete it.

Whatever a process holds is spared, and so is what was written to lately: work that is under way
leaves no other trace.
"""

import os
import re
import shutil
import time
from collections.abc import Iterable, Mapping
from contextlib import nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from uuid import uuid4

from conf.schema import Experiment
from tasks import disk
from tasks.artifacts import read_json
from tasks.evaluations import read_evaluations
from tasks.journal import Journal, busy, idle, journals
from tasks.plan import data_folders, plan
from tasks.stages import (
    LOCK,
    held_for_deletion,
    holder,
    is_aside,
    judged,
    moved_aside,
    read_manifest,
    read_manifests,
)
from tasks.unreferenced_data import cards_without_data, unused_data

DAY = 86_400.0
# What `tasks.artifacts` and `trainer.backend.export` call a thing while they fill it.
ASIDE = re.compile(r"\..+\.[0-9a-f]{12}|.+\.part")


@dataclass(frozen=True)
class Unreferenced:
    """A file or folder that nothing refers to.

    Attributes:
        path: Where it is.
        why: Why it is not needed.
        bytes: Its size.
        stage: Folder whose lock a process would hold: of the stage that it is, or is part of, or
            of the evaluation that it is; "" if there is none.
        idle: Output folder in which no run may be at work when it is deleted, "" if any may: what
            a run is about to use, no stage names yet.
        spared: Why it was or would not be deleted, or "".
    """

    path: str
    why: str
    bytes: int
    stage: str = ""
    idle: str = ""
    spared: str = ""


def unreferenced(
    output: Path | str, *, keep: Iterable[Experiment] = (), older_than: float = DAY
) -> list[Unreferenced]:
    """What may be deleted from an output folder.

    Leftovers of interrupted writes; stages that are not finished or were moved aside; what a
    finished stage would have resumed from; scores of checkpoints of no stage. And, unless a stage
    has no usable manifest: runs whose stages are all gone and, unless a run is at work, data sets
    that no stage and no score used, and cards of such data sets.

    Args:
        output: The output folder.
        keep: Experiments whose stages, data and scores are not listed.
        older_than: Seconds since something was last written to, or it is not listed.
    """
    output = Path(output).absolute()
    if not output.is_dir():
        raise ValueError(f"no folder {output}\n\nhint: name the folder of your runs with --output")
    kept_stages, kept_data = _kept(keep)
    before = time.time() - older_than
    manifests, _ = read_manifests(output)
    aside = {folder: read_manifest(folder)[0] for folder in moved_aside(output)}
    found = _stages(manifests, kept_stages, before, output)
    found += [
        _of(folder, "a stage moved aside to be trained anew", folder)
        for folder in aside
        if _written(folder) < before
    ]
    manifests |= aside
    whole = {Path(item.path) for item in found}
    found += [
        _of(path, "left over from an interrupted write", _stage_of(path, output))
        for path in _asides(output)
        if path.parent not in whole and _written(path) < before
    ]
    scored, _ = read_evaluations(output)
    sampled = _generations(output)
    scores = _evaluations({**scored, **sampled}, manifests, output)
    found += [item for item in scores if _written(Path(item.path)) < before]
    if None in manifests.values():  # nothing says which data that stage used, or which run made it
        return found
    found += [item for item in _runs(output, manifests) if _written(Path(item.path)) < before]
    if busy(output):  # no stage says yet which data it uses
        return found
    used = {manifest["identity"].get("data", "") for manifest in manifests.values() if manifest}
    used |= {manifest.get("data_digest", "") for manifest in (*scored.values(), *sampled.values())}
    unused = [
        folder
        for folder in unused_data(output, used)
        if folder not in kept_data and _written(folder) < before
    ]
    found += [
        _of(folder, "no stage and no score used this data set", idle=output) for folder in unused
    ]
    found += [
        _of(folder, "a card of a data set that is gone, or listed here", idle=output)
        for folder in cards_without_data(output, {folder.name for folder in unused})
        if _written(folder) < before
    ]
    return found


def delete(item: Unreferenced) -> Unreferenced:
    """Delete what `unreferenced` listed, unless a process took hold of it meanwhile.

    It is renamed before it is deleted: nobody ever sees half of it.
    """
    path = Path(item.path)
    if item.spared or not os.path.lexists(path):
        return item
    with idle(Path(item.idle)) if item.idle else nullcontext("") as owner:
        return replace(item, spared=_may_need_it(owner)) if owner else _deleted(item)


def _deleted(item: Unreferenced) -> Unreferenced:
    path = Path(item.path)
    if not item.stage:
        _remove(path)
        return item
    folder = Path(item.stage)
    with held_for_deletion(folder) as ours:
        if not ours:
            return replace(item, spared="a process holds its stage")
        if path != folder and path.name == "verl" and judged(folder)[0] is None:
            return replace(item, spared="its stage is not finished any more")
        if path == folder and not is_aside(path) and judged(folder)[0] is not None:
            return replace(item, spared="it was finished meanwhile")
        _remove(path)
    return item


def _remove(path: Path) -> None:
    aside = path.with_name(f".{path.name}.{uuid4().hex[:12]}")
    os.replace(path, aside)
    if aside.is_dir() and not aside.is_symlink():
        shutil.rmtree(aside)
    else:
        aside.unlink()


def _of(
    path: Path, why: str, stage: Path | None = None, *, idle: Path | None = None
) -> Unreferenced:
    spared = ""
    if stage and (owner := holder(stage)):
        spared = f"held by process {owner}"
    elif idle and (owner := busy(idle)):
        spared = _may_need_it(owner)
    return Unreferenced(str(path), why, disk.size(path), str(stage or ""), str(idle or ""), spared)


def _may_need_it(owner: str) -> str:
    return f"the run of process {owner} may need it"


def _written(path: Path) -> float:
    """When something below a path was last written to, in seconds since 1970."""
    newest = 0.0
    for place in (path, *path.rglob("*")) if path.is_dir() else (path,):
        try:
            newest = max(newest, place.lstat().st_mtime)
        except FileNotFoundError:
            continue
    return newest


def _asides(output: Path) -> list[Path]:
    found = {
        path
        for pattern in ("*", "*/*", "stages/*/*")
        for path in output.glob(pattern)
        if ASIDE.fullmatch(path.name)
    }
    return sorted(path for path in found if not found & set(path.parents))


def _stage_of(path: Path, output: Path) -> Path | None:
    """The folder with the lock of a leftover: one it lies in, or is."""
    if path.parent.parent == output / "stages":
        return path.parent
    return path if (path / LOCK).is_file() else None


def _stages(
    manifests: Mapping[Path, dict[str, Any] | None],
    kept: set[Path],
    before: float,
    output: Path,
) -> list[Unreferenced]:
    whole = {
        folder
        for folder, manifest in manifests.items()
        if manifest and manifest["outcome"] == "finished" and (folder / "checkpoint").is_dir()
    }
    carried = {  # by stages that load it when they go on
        manifest["identity"].get("upstream"): folder.name
        for folder, manifest in manifests.items()
        if manifest and folder not in whole and _carries(manifest)
    }
    found = []
    for folder, manifest in manifests.items():
        if folder in kept:
            continue
        if folder in whole:
            if (folder / "verl").is_dir() and _written(folder / "verl") < before:
                why = "the trainer's state of a finished stage"
                item = _of(folder / "verl", why, folder, idle=output)
                if not item.spared and manifest["digest"] in carried:
                    item = replace(item, spared=f"{carried[manifest['digest']]} carries it on")
                found.append(item)
        elif _written(folder) < before:
            outcome = manifest["outcome"] if manifest else "no usable manifest"
            item = _of(folder, f"a stage that is not finished ({outcome})", folder)
            if manifest is None and (folder / "checkpoint").is_dir():
                # It may be worth days: running its experiment writes the manifest again.
                item = replace(item, spared="its checkpoint may be whole")
            found.append(item)
    return found


def _carries(manifest: Mapping[str, Any]) -> bool:
    """Whether a stage begins with the optimizer of the one before."""
    return manifest["identity"].get("stage", {}).get("optimizer") == "carry"


def _evaluations(
    scored: Mapping[Path, dict[str, Any]],
    manifests: Mapping[Path, dict[str, Any] | None],
    output: Path,
) -> list[Unreferenced]:
    """Scores and responses of checkpoints that neither a stage made nor one started from."""
    known, made = set(), _made(output)
    for manifest in manifests.values():
        if manifest:
            known |= {manifest["identity"].get("start")}
            known |= {manifest.get("checkpoint", {}).get("digest")}
    unreadable = {folder.name for folder, manifest in manifests.items() if manifest is None}
    found = []
    for folder, manifest in scored.items():
        checkpoint = manifest.get("checkpoint", {})
        made_in = Path(checkpoint.get("path", "")).parent
        # A base model lies elsewhere, and what a damaged manifest said is not known. Where this
        # folder was moved, a path leads to its old place, but runs know which checkpoints are ours.
        ours = made_in.parent == output / "stages" or checkpoint.get("digest") in made
        if not ours or made_in.name in unreadable:
            continue
        if checkpoint.get("digest") not in known:
            what = "a score" if manifest.get("kind") == "evaluation" else "responses"
            why = f"{what} of a checkpoint that is gone ({made_in.name})"
            found.append(_of(folder, why, folder if (folder / LOCK).is_file() else None))
    return found


def _made(output: Path) -> set[str]:
    """Digests of the checkpoints that runs in this folder made or found."""
    found = set()
    for folder in journals(output):
        with suppress(ValueError, OSError):
            children = Journal.read(folder).children
            found |= {run.checkpoint["digest"] for run in children if run.checkpoint}
    return found


def _generations(output: Path) -> dict[Path, dict[str, Any]]:
    """Folders of responses with their manifests; a damaged one is left out."""
    found = {}
    for path in sorted((output / "generations").glob("*/generations.json")):
        try:
            manifest = read_json(path)
        except ValueError:
            continue
        if isinstance(manifest, dict) and manifest.get("kind") == "generations":
            found[path.parent] = manifest
    return found


def _runs(output: Path, manifests: Mapping[Path, dict[str, Any] | None]) -> list[Unreferenced]:
    """Runs that trained or found stages, none of which is there, and that MLflow has been told."""
    there = {manifest["digest"] for manifest in manifests.values() if manifest}
    found = []
    for folder in journals(output):
        with suppress(ValueError, OSError):
            journal = Journal.read(folder)
            stages = {
                child.tags.get("stagecraft.config_digest")
                for child in journal.children
                if child.kind == "stage"
            }
            if journal.delivered and stages and not stages & there:
                found.append(_of(folder, "a run whose stages are gone; MLflow has it", folder))
    return found


def _kept(experiments: Iterable[Experiment]) -> tuple[set[Path], set[Path]]:
    """Folders of the stages and the data sets of experiments."""
    stages: set[Path] = set()
    data: set[Path] = set()
    for experiment in experiments:
        for stage in plan(experiment).stages:
            if stage.folder:
                stages.add(Path(stage.folder))
            elif stage.nearest and not stage.changes:  # it may turn out to be this one
                stages.add(Path(experiment.output).absolute() / "stages" / stage.nearest)
        data |= data_folders(experiment)
    return stages, data
