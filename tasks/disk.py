"""How much disk an experiment's checkpoints will take, before any of them is written."""

import json
import math
import os
import struct
from pathlib import Path
from typing import Any

from conf.schema import Experiment, Stage
from trainer.backend.settings import CHECKPOINTS_KEPT
from trainer.checkpoint import weight_files

ADAM_BYTES = 12  # per parameter in float32: the weight and its two moments
BYTES = {"float32": 4, "bfloat16": 2, "float16": 2}


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


def checkpoint_bytes(stage: Stage, count: int, dtype: str) -> int:
    """Bytes that a stage leaves on disk.

        export + kept * (export + 12 * parameters),   export = parameters * bytes of dtype

    Args:
        stage: Says how many trainer states there will be; at most two are kept.
        count: Parameters of the model.
        dtype: Type of the exported weights.
    """
    export = count * BYTES[dtype]
    kept = min(CHECKPOINTS_KEPT, math.ceil(stage.steps / stage.save_every))
    return export + kept * (export + ADAM_BYTES * count)


def bytes_to_come(experiment: Experiment, count: int) -> int:
    """Bytes that the stages will still add, less what earlier runs of them left."""
    stages = Path(experiment.output) / "stages"
    planned = 0
    for stage in experiment.stages:
        there = sum(size(folder) for folder in stages.glob(f"{stage.name}-*"))
        planned += max(0, checkpoint_bytes(stage, count, experiment.hardware.dtype) - there)
    return planned


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
