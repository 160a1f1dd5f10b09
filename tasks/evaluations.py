"""Evaluations on disk: what `evaluation.json` says.

Imports nothing that samples or grades, so that looking at evaluations costs no time.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.artifacts import read_sound
from tasks.words import percent, things

MANIFEST = "evaluation.json"
NUMBER = int | float
# By the part of a manifest, "" for the whole: what it needs to have, of which type.
_NEEDED = {
    "": {
        "benchmark": str, "checkpoint": dict, "data_digest": str, "sampling": dict,
        "problems": int, "metrics": dict, "seconds": NUMBER, "environment": dict,
    },
    "checkpoint": {"path": str, "digest": str},
    "sampling": {"samples": int},
    "metrics": {"k": int, "avg_at_k": NUMBER, "pass_at_k": NUMBER, "truncated_share": NUMBER},
}  # fmt: skip


def read_evaluation(folder: Path) -> tuple[dict[str, Any] | None, str]:
    """What an evaluation's manifest says; one that is damaged is moved aside and counts as none.

    What was sampled is not touched: the checkpoint's responses are graded again.

    Returns:
        The manifest, or None; and a sentence if it was damaged, else "".

    Raises:
        OSError: the disk does not let it be read, which says nothing about what it holds.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return None, ""
    manifest, complaint = read_sound(path, _fault)
    return manifest, complaint and f"{complaint}, its responses are to be graded again"


def read_evaluations(output: Path) -> tuple[dict[Path, dict[str, Any]], list[str]]:
    """Every finished evaluation below an output folder with its manifest, and what was damaged."""
    found, remarks = {}, []
    for path in sorted((output / "evaluations").glob(f"[!.]*/{MANIFEST}")):
        try:
            manifest, complaint = read_evaluation(path.parent)
        except OSError as error:
            manifest, complaint = None, f"{path} cannot be read ({error.strerror})"
        if manifest:
            found[path.parent] = manifest
        remarks += [complaint] if complaint else []
    return found, remarks


def undecided(manifest: Mapping[str, Any]) -> str:
    """A sentence where the grader gave up on answers, which count as wrong; "" where on none."""
    share = manifest["metrics"].get("undecided_share") or 0.0  # earlier ones do not say
    found = round(share * manifest["problems"] * manifest["metrics"]["k"])
    if not found:
        return ""
    return (
        f"{things(found, 'answer')} ({percent(share)}) could not be compared within reward.seconds "
        f"and reward.memory, and {'counts' if found == 1 else 'count'} as wrong."
    )


def _fault(manifest: Any) -> str:
    """What makes an `evaluation.json` unusable, or ""."""
    if not isinstance(manifest, dict):
        return f"holds a {type(manifest).__name__}, needed an object"
    if manifest.get("kind") != "evaluation":
        return f"is of kind {manifest.get('kind')!r}, needed 'evaluation'"
    for part, wanted in _NEEDED.items():
        here = manifest[part] if part else manifest
        for key, kind in wanted.items():
            if not isinstance(here.get(key), kind):
                return f"has no usable {key!r}"
    return ""
