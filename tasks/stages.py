"""Stages on disk: which folder is whose, what `stage.json` says, and who holds a folder.

Imports neither trainer, tracker nor flow, so that looking at stages costs no time. Every field of
`stage.json` is in docs/stage.md.
"""

import fcntl
import os
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, nullcontext, suppress
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conf.schema import Alarm, Experiment, Stage, Transition
from tasks.artifacts import digest_of, read_json, read_sound
from tasks.weights import read_digest, unread
from trainer import functions
from trainer.holding import at_work, wait_for
from trainer.transitions import Evidence

MANIFEST = "stage.json"
LOCK = "lock"
# `<name>-<digest>.old-<time>`, as tasks/again.py makes it; a stage may be called `x.old-y`.
_MOVED = re.compile(r"(-[0-9a-f]{12})\.old-\d{8}T[\d.]+$")
# Raise it when a change of ours alters what a stage learns: earlier ones are then trained anew.
TRAINER_VERSION = 6
# Settings of a stage that act through its prompts alone.
_TOLD_BY_DATA = {"drop_solved", "drop_hopeless"}
_USUAL = {"transition": Transition(), "alarm": Alarm()}


def identity(
    experiment: Experiment, stage: Stage, data: str, start: str, upstream: str = ""
) -> dict[str, Any]:
    """Everything that determines what a stage learns, and nothing else.

    Names of stages and experiments, folders, how prompts were chosen (their digest says which), how
    often is saved, and how the work is cut into micro-batches are left out. The name of the prompt
    set is in, as a knob of the stage: the same prompts under another name are trained on again.

    Args:
        experiment: For method, seed and numerics.
        stage: One of its stages.
        data: Digest of the prompt set.
        start: Digest of the checkpoint to start from.
        upstream: Digest of the stage that made it. Part of the identity only where the stage takes
            over more of that one than its checkpoint: the optimizer, or the reference policy.
    """
    hardware, reward = experiment.hardware, experiment.reward
    kept = stage.optimizer == "carry" or stage.reference == "keep"
    # Left out where they are the usual ones: stages of before there were any keep their digests.
    usual = {key for key, value in _USUAL.items() if getattr(stage, key) == value}
    return {
        "stage": stage.model_dump(
            mode="json", exclude=_TOLD_BY_DATA | usual | {"name", "save_every"}
        ),
        "method": {
            **experiment.method.model_dump(mode="json", exclude={"name"}),
            # A file of the user's counts by what it says, wherever it lies.
            "advantage": functions.source(experiment.method.advantage),
            "loss": functions.source(experiment.method.loss),
        },
        "reward": {
            **reward.model_dump(mode="json", exclude={"name", "workers"}),
            **({"function": functions.source(reward.function)} if reward.function else {}),
        },
        "selection": experiment.selection.identity(),
        "seed": experiment.seed_of(stage),
        "data": data,
        "max_prompt_length": experiment.data.max_prompt_length,
        "start": start,
        **({"upstream": upstream} if kept else {}),
        "numerics": {
            "device": hardware.device,
            "rollout": hardware.rollout,
            "dtype": hardware.dtype,
            "ranks": hardware.ranks * hardware.nodes,
        },
        "trainer": {"stagecraft": TRAINER_VERSION, "verl": version("verl")},
    }


def stage_folder(output: Path, name: str, digest: str) -> Path:
    """Where a stage lies: found by its digest, whatever it was called when it was made."""
    stages = output / "stages"
    found = [path for path in stage_folders(output) if path.name.endswith(f"-{digest[:12]}")]
    return found[0] if found else stages / f"{name}-{digest[:12]}"


def stage_folders(output: Path) -> list[Path]:
    """The folders of all stages below an output folder, those moved aside left out."""
    return [path for path in _folders(output) if not is_aside(path)]


def moved_aside(output: Path) -> list[Path]:
    """The folders of stages that were moved aside to be trained anew; no run looks there."""
    return [path for path in _folders(output) if is_aside(path)]


def is_aside(folder: Path) -> bool:
    """Whether a stage's folder was moved aside.

    >>> is_aside(Path("2-L2-0123456789ab.old-20261121T114834.871145"))
    True
    >>> is_aside(Path("a.old-recipe-0123456789ab"))
    False
    """
    return bool(_MOVED.search(folder.name))


def name_before(folder: Path) -> str:
    """What a stage's folder is called, or was before it was moved aside.

    >>> name_before(Path("a.old-b-0123456789ab.old-20261121T114834.871145"))
    'a.old-b-0123456789ab'
    """
    return _MOVED.sub(r"\1", folder.name)


def _folders(output: Path) -> list[Path]:
    found = (output / "stages").glob("*-*")
    return sorted(path for path in found if path.is_dir() and not path.name.startswith("."))


def read_manifest(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """What a stage's `stage.json` says; one that is damaged is moved aside and counts as none.

    The damaged file stays beside it, as `stage.json.corrupt-<time>`. What the trainer saved is
    not touched: the stage goes on from there.

    Returns:
        The manifest, or None; and a sentence if it was damaged, else "". Checkpoints of stages are
        given where they lie now: the output folder may have been copied or moved.

    Raises:
        OSError: the disk does not let it be read, which says nothing about what it holds.
    """
    path = folder / MANIFEST
    if not path.exists():
        return None, ""
    manifest, complaint = read_sound(path, _fault)
    if complaint:
        return None, f"{complaint}, the stage is not finished"
    return _where_it_lies(manifest, folder), ""


def _where_it_lies(manifest: dict[str, Any], folder: Path) -> dict[str, Any]:
    """A manifest with its own checkpoint in its folder, and those of other stages beside it."""
    found = {}
    if manifest["outcome"] == "finished":
        found["checkpoint"] = {**manifest["checkpoint"], "path": str(folder / "checkpoint")}
    for key in ("start", "reference"):
        with suppress(KeyError, TypeError):  # of before there was one
            path = Path(manifest[key]["path"])
            here = folder.parent / path.parent.name / path.name
            if path.parent.parent.name == folder.parent.name and here.is_dir():
                found[key] = {**manifest[key], "path": str(here)}
    return manifest | found


def read_manifests(output: Path) -> tuple[dict[Path, dict[str, Any] | None], list[str]]:
    """Every stage folder below an output folder with its manifest, and what was damaged."""
    found = {}
    for folder in stage_folders(output):
        try:
            found[folder] = read_manifest(folder)
        except OSError as error:
            found[folder] = (None, f"{folder / MANIFEST} cannot be read ({error.strerror})")
    remarks = [complaint for _, complaint in found.values() if complaint]
    return {folder: manifest for folder, (manifest, _) in found.items()}, remarks


def _fault(manifest: Any) -> str:
    """What makes a `stage.json` unusable, or ""."""
    if not isinstance(manifest, dict):
        return f"holds a {type(manifest).__name__}, needed an object"
    if manifest.get("kind") != "stage":
        return f"is of kind {manifest.get('kind')!r}, needed 'stage'"
    wanted = {"name": str, "digest": str, "identity": dict, "attempts": list, "outcome": str}
    if manifest.get("outcome") == "finished":
        wanted |= {"checkpoint": dict, "steps": int, "counters": dict}
    for key, kind in wanted.items():
        if not isinstance(manifest.get(key), kind):
            return f"has no usable {key!r}"
    if not all(isinstance(attempt, dict) for attempt in manifest["attempts"]):
        return "has no usable 'attempts'"
    if not isinstance(manifest.get("experiment", {}), dict):
        return "has no usable 'experiment'"
    if digest_of(manifest["identity"]) != manifest["digest"]:
        return "its digest is not that of its identity"
    return ""


def judged(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """The manifest of a stage that is finished and whole; else None, and why it is not.

    Reads the whole checkpoint, to compare its digest.
    """
    manifest, complaint = read_manifest(folder)
    if manifest is None:
        return None, complaint
    if manifest["outcome"] != "finished":
        return None, ""
    checkpoint = folder / "checkpoint"
    if not checkpoint.is_dir():
        return None, f"{checkpoint} is missing although its stage had finished; it is made again"
    if read_digest(checkpoint) != manifest["checkpoint"].get("digest"):
        return None, f"{checkpoint} is not what its manifest says; it is made again"
    return manifest, ""


def finished(folder: Path) -> dict[str, Any] | None:
    """The manifest of a finished stage whose checkpoint is still what it was, else None.

    A damaged manifest or checkpoint is told of on the terminal.
    """
    manifest, complaint = judged(folder)
    if complaint:
        print(complaint)
    return manifest


@contextmanager
def held(output: Path, name: str, digest: str) -> Iterator[Path]:
    """Hold a stage, and give its folder; whoever else needs the stage waits.

    Who calls it something else waits too: of two that look for a folder at one moment neither
    finds any, and each would make, and train in, one of its own.

    Args:
        output: The output folder.
        name: What the stage is called, if its folder is still to be made.
        digest: The stage's.
    """
    lock = output / "stages" / f".{digest[:12]}.{LOCK}"
    with locked(lock, f"{name}-{digest[:12]} is being made"):
        try:
            folder = stage_folder(output, name, digest)
            with alone(folder):
                yield folder
        finally:
            lock.unlink(missing_ok=True)  # who waits for it looks whether it is still there


@contextmanager
def alone(folder: Path) -> Iterator[None]:
    """Hold a folder; whoever else needs it waits. The kernel lets go of what a dead one held.

    What a dead one left at work there is waited for, too: its guard is about to end it. The folder
    is made where it is missing.
    """
    with locked(folder / LOCK, f"{folder.name} is being made"):
        for name in at_work(folder):
            print(f"{folder.name}: the {name} of a killed run is still ending: waiting for it")
            wait_for(folder, name)
        yield


@contextmanager
def locked(path: Path, what: str) -> Iterator[None]:
    """Hold a file, which says by which process; whoever else wants to waits, and says `what`."""
    while True:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("a+") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                file.seek(0)
                owner = file.read() or "?"
                print(f"{what} by process {owner}: waiting for it")
                fcntl.flock(file, fcntl.LOCK_EX)
            if not _is_at(path, file.fileno()):
                continue  # it, or its folder, was deleted or moved away while we waited
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
            yield
            return


@contextmanager
def held_for_deletion(folder: Path) -> Iterator[bool]:
    """Hold a stage without waiting: whether nobody holds it or works there, and it still is.

    Nor may anybody read its checkpoint. A run's folder is held in the same way.
    """
    try:
        file = (folder / LOCK).open("a")
    except FileNotFoundError:  # no folder
        yield False
        return
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        with unread(folder) if (folder / MANIFEST).is_file() else nullcontext(True) as free:
            yield free and _is_at(folder / LOCK, file.fileno()) and not at_work(folder)


def holder(folder: Path) -> str:
    """The process that holds a stage at this moment, "?" if it did not say; "" if none does."""
    try:
        file = (folder / LOCK).open()
    except OSError:
        return ""
    with file:
        try:
            # Shared, so that two who look do not take each other for the trainer.
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return file.read().strip() or "?"
    return ""


def ended_early(manifest: Mapping[str, Any]) -> str:
    """How a finished stage ended before its last step, in a sentence with the evidence; or ""."""
    if manifest.get("ended_by") != "transition":
        return ""
    evidence = "; ".join(str(Evidence(**one)) for one in manifest["evidence"])
    asked = manifest["settings"]["stage"]["steps"]
    return f"ended after step {manifest['steps']} of {asked}: {evidence}"


def _is_at(path: Path, descriptor: int) -> bool:
    with suppress(FileNotFoundError):
        return os.path.samestat(os.stat(path), os.fstat(descriptor))
    return False


def experiment_of(folder: Path, manifest: Mapping[str, Any]) -> tuple[str, int | None]:
    """Name and seed of the experiment that trained a stage; "" and None where nothing says so."""
    experiment = manifest.get("experiment", {})
    name, seed = experiment.get("name", ""), experiment.get("seed")
    if not name:  # stages of before the manifest said it: the trainer's settings do
        with suppress(OSError, ValueError, KeyError, TypeError):
            name = read_json(folder / "settings.json")["verl"]["trainer.project_name"]
    return name, manifest.get("settings", {}).get("seed") if seed is None else seed
