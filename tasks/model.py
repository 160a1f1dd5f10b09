"""The model that training starts from, as a local folder."""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from conf.schema import Model
from tasks.stages import MANIFEST, read_manifest
from tasks.weights import read_digest, reading, unchanged
from trainer.checkpoint import has_weights


@dataclass(frozen=True)
class Checkpoint:
    """A model folder in Hugging Face format.

    Attributes:
        path: The folder.
        digest: SHA-256 over its files, names and contents, see `tasks.artifacts.folder_digest`.
    """

    path: Path
    digest: str

    @classmethod
    def of(cls, path: Path) -> "Checkpoint":
        """The checkpoint in a folder.

        Raises:
            ValueError: the folder holds no weights.
        """
        if not has_weights(path):
            raise ValueError(
                f"{path} holds no weights (*.safetensors or pytorch_model*.bin)\n\n"
                "hint: name a checkpoint folder in Hugging Face format"
            )
        return cls(path, read_digest(path))

    @property
    def maker(self) -> dict[str, Any] | None:
        """The manifest (`stage.json`) of the stage that made it, None for another model."""
        return read_manifest(self.path.parent)[0]

    @property
    def upstream(self) -> str:
        """Digest of the stage that made it, or ""."""
        return self.maker["digest"] if self.maker else ""

    @contextmanager
    def held(self, hint: str) -> Iterator[None]:
        """Keep it, while it is read, from being moved or deleted with the stage that made it.

        Args:
            hint: What to do where it is not what it was, for the message.

        Raises:
            ValueError: it is not there any more, or other weights are.
        """
        stage = self.path.resolve().parent
        with reading(stage) if (stage / MANIFEST).is_file() else nullcontext():
            if not unchanged(self.path, self.digest):
                found = "other files" if self.path.is_dir() else "no folder"
                raise ValueError(
                    f"{self.path}: found {found}, needed those of digest {self.digest[:12]}, which "
                    f"lay there before\n\nhint: {hint}"
                )
            yield


def folder_of(path: str) -> Path:
    """The folder that a path names; of a stage's folder, the checkpoint in it."""
    folder = Path(os.path.expanduser(path))
    inside = folder / "checkpoint"
    return inside if inside.is_dir() and not (folder / "config.json").is_file() else folder


def local_folder(model: Model, *, offline: bool = False, knob: str = "model.path") -> Path:
    """The folder of a model: the lab's own, a local one, or a snapshot of one on the Hub.

    With `offline`, or HF_HUB_OFFLINE=1, a Hub model is looked for in the local cache only.

    Args:
        model: Which one.
        offline: Look on this machine alone.
        knob: What named it, for the message.

    Raises:
        ValueError: it is neither here nor on the Hub.
    """
    if model.path == "lab":
        from trainer.lab import BASE

        return BASE
    folder = folder_of(model.path)
    if folder.is_dir():
        return folder.absolute()
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import HfHubHTTPError, HFValidationError, LocalEntryNotFoundError

    try:
        return Path(
            snapshot_download(model.path, revision=model.revision, local_files_only=offline)
        )
    except (HFValidationError, HfHubHTTPError, LocalEntryNotFoundError, OSError) as error:
        raise ValueError(
            f"{knob} is {model.path!r}: no such folder, and the Hub does not give it "
            f"({type(error).__name__})\n\nhint: name a local folder, or download it where there "
            "is a network and set HF_HOME to that cache"
        ) from error


def starting_model(model: Model, knob: str = "model.path") -> Checkpoint:
    """The checkpoint that training starts from, or that a knob of another name asks for."""
    return Checkpoint.of(local_folder(model, knob=knob))
