"""How much disk an experiment's checkpoints will take, and whether there is as much to write on."""

import json
import math
import os
import re
import shutil
import struct
import tempfile
from collections.abc import Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

from conf.load import ConfigError
from conf.schema import Experiment, Stage
from tasks.artifacts import Dataset, digest_of, folder_digest, read_json
from tasks.prepare import prepared_there
from tasks.stages import MANIFEST, identity, stage_folder, stage_folders
from trainer.backend.settings import checkpoints_kept
from trainer.checkpoint import weight_files

# Per parameter. verl keeps and saves float32 weights, whatever type it computes in.
EXPORT_BYTES = 4
ADAM_BYTES = 12  # the weight and its two moments
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


def check_output(output: Path) -> None:
    """Refuse an output folder that cannot be written in, or made, or named to MLflow.

    Raises:
        ConfigError: with the folder, and what is wrong with it.
    """
    if "?" in str(output):  # MLflow's database could not be named: SQLAlchemy ends a path there
        raise ConfigError(
            f"output: found {output}, needed a folder without a question mark in its path\n\n"
            "hint: set output to another folder"
        )
    if code := re.search("%[0-9a-fA-F]{2}", str(output)):  # which MLflow takes for a character
        raise ConfigError(
            f"output: found {output}, needed a folder without {code[0]} in its path: in an address "
            "it stands for a character, and MLflow's database would lie elsewhere\n\n"
            "hint: set output to another folder"
        )
    place = _existing(output)
    try:
        # Permissions say too little: root passes them all, on a read-only disk too.
        with tempfile.TemporaryFile(dir=place):
            pass
    except OSError as error:
        raise ConfigError(
            f"output: cannot write in {place} ({os.strerror(error.errno)}), needed a folder "
            "to write in\n\nhint: set output to another folder"
        ) from error


def check_room(experiment: Experiment, start: Path) -> None:
    """Refuse a disk without room for the checkpoints to come.

    Args:
        experiment: The settings.
        start: Folder of the starting model.

    Raises:
        ConfigError: with what is free and what is needed.
    """
    count, place = parameters(start), _existing(Path(experiment.output))
    free = room(place)
    needed = bytes_to_come(experiment, count)
    if needed > free:
        # What is there already is looked for only now: it takes reading the model whole.
        needed = bytes_to_come(experiment, count, start)
    if needed > free:
        raise ConfigError(
            f"output: found {readable(free)} free in {place}, needed {readable(needed)} for the "
            f"checkpoints of {len(experiment.stages)} stages\n\n"
            "hint: free some disk, or set output to a folder on a larger one"
        )


def room(place: Path) -> int:
    """Bytes free on the disk that a folder, there or still to be made, lies on."""
    return shutil.disk_usage(_existing(place)).free


def _existing(place: Path) -> Path:
    """The folder itself, or the nearest above it that is there."""
    place = place.absolute()
    while not place.exists():
        place = place.parent
    return place


def parameters(folder: Path) -> int:
    """Parameters of a checkpoint, counted in its safetensors headers, else by its size."""
    files = weight_files(folder)
    if all(path.suffix == ".safetensors" for path in files):
        return sum(_in_header(path) for path in files)
    config = read_config(folder)
    stored = BYTES.get(config.get("dtype") or config.get("torch_dtype"), 2)
    return sum(path.stat().st_size for path in files) // stored


def _in_header(path: Path) -> int:
    # A safetensors file starts with the length of its JSON header.
    with path.open("rb") as file:
        (length,) = struct.unpack("<Q", file.read(8))
        header = json.loads(file.read(length))
    header.pop("__metadata__", None)
    return sum(math.prod(tensor["shape"]) for tensor in header.values())


def read_config(folder: Path) -> dict[str, Any]:
    """A checkpoint's `config.json`; of models with several parts, that of the text model on top."""
    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    return {**config, **(config.get("text_config") or {})}


def checkpoint_bytes(stage: Stage, count: int) -> int:
    """Bytes that a stage leaves on disk; verl saves float32, whatever it computes in.

        export + kept * (export + 12 * parameters),   export = 4 * parameters

    Args:
        stage: Says how many trainer states there will be; two are kept, more for an alarm.
        count: Parameters of the model.
    """
    export = EXPORT_BYTES * count
    kept = min(checkpoints_kept(stage), math.ceil(stage.steps / stage.save_every))
    return export + kept * (export + ADAM_BYTES * count)


def to_come(stage: Stage, count: int, folder: Path | None) -> int:
    """Bytes that a stage will still add, at its fullest, to what is in its folder.

    A trainer that goes on keeps all that was saved before until it has saved once itself, and what
    a stop saved in between two may stay: one trainer state more than a stage takes that nothing
    interrupts (`trainer.backend.resume.keep_newest`).

    Args:
        stage: The stage, not finished.
        count: Parameters of the model.
        folder: Where it lies or will lie; None: not known, so it begins from nothing.
    """
    most = checkpoint_bytes(stage, count)
    if folder is None or not any((folder / "verl").glob("global_step_*")):
        return most
    one = (EXPORT_BYTES + ADAM_BYTES) * count
    return max(one, most + one - size(folder))


def bytes_to_come(experiment: Experiment, count: int, start: Path | None = None) -> int:
    """Bytes that the stages of an experiment will still add.

    Args:
        experiment: Its stages, and what determines their digests.
        count: Parameters of the model.
        start: Folder of the starting model, to take off what earlier runs of these very stages
            left; its files are read whole where there are stages. None: nothing is taken off.
    """
    there = list(_unfinished(experiment, start)) if start else []
    known = len(there)
    there += [(stage, None) for stage in experiment.stages[known:]]
    return sum(to_come(stage, count, folder) for stage, folder in there if stage is not None)


def _unfinished(experiment: Experiment, start: Path) -> Iterator[tuple[Stage | None, Path]]:
    """Each stage whose digest is known, None in place of a finished one, and its folder.

    A stage of the same name with other data, seed or settings lies in another folder, and stays
    there beside the new one.
    """
    output = Path(experiment.output).absolute()
    if not stage_folders(output):
        return
    sets = _prompt_sets(experiment, output)
    begins, digest = folder_digest(start) if sets else "", ""
    for stage in experiment.stages if sets else ():
        if stage.prompts not in sets or (stage.drop_solved, stage.drop_hopeless) != (None, None):
            return  # its prompts are known when the stage before is done
        data = sets[stage.prompts].digest
        digest = digest_of(identity(experiment, stage, data, begins, upstream=digest))
        folder = stage_folder(output, stage.name, digest)
        begins = _finished_as(folder)
        yield None if begins else stage, folder
        if not begins:
            return


def _prompt_sets(experiment: Experiment, output: Path) -> dict[str, Dataset]:
    with suppress(ValueError):  # changed or missing: its stages are not those of before
        ready = prepared_there(experiment, output)
        return ready.segments if ready else {}
    return {}


def _finished_as(folder: Path) -> str:
    """The digest of a finished stage's checkpoint, or "". A damaged manifest is left as it is."""
    with suppress(OSError, ValueError, KeyError, TypeError):
        manifest = read_json(folder / MANIFEST)
        if manifest["outcome"] == "finished" and (folder / "checkpoint").is_dir():
            return manifest["checkpoint"]["digest"]
    return ""


def size(path: Path) -> int:
    """Bytes of a file, or of all files below a folder; what goes meanwhile counts nothing."""
    if not path.is_dir() or path.is_symlink():
        return _length(path)
    return sum(_length(Path(root) / name) for root, _, names in os.walk(path) for name in names)


def _length(path: Path) -> int:
    try:
        return os.lstat(path).st_size
    except FileNotFoundError:
        return 0


def readable(count: int) -> str:
    """Bytes for people.

    >>> readable(3 * 2**30), readable(5_000_000)
    ('3.0 GiB', '4.8 MiB')
    """
    return f"{count / 2**30:.1f} GiB" if count >= 2**30 else f"{count / 2**20:.1f} MiB"
