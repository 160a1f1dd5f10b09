"""Data sets of an output folder that nothing used, and the cards that describe them."""

from contextlib import suppress
from pathlib import Path

from tasks import artifacts
from tasks.artifacts import read_json

# As downloaded, gated, a prompt set, what is left of it between stages.
_GENERATIONS = 4


def unused_data(output: Path, used: set[str]) -> list[Path]:
    """Folders of data sets none of whose family is used: as downloaded, gated, its prompt sets."""
    sets = {}
    for path in sorted((output / "data").glob(f"[!.]*/{artifacts.MANIFEST}")):
        try:
            manifest = read_json(path)
        except ValueError:
            continue
        if isinstance(manifest, dict) and manifest.get("kind") == "dataset":
            sets[path.parent] = manifest
    needed = set(used)
    for _ in range(_GENERATIONS):
        needed |= {
            manifest["parent_digest"]
            for manifest in sets.values()
            if manifest["digest"] in needed and manifest.get("parent_digest")
        }
    needed |= {  # what its gates compared a set with
        digest
        for manifest in sets.values()
        if manifest["digest"] in needed
        for digest in manifest.get("against", {}).values()
    }
    return [
        folder
        for folder, manifest in sets.items()
        if not {manifest["digest"], manifest.get("parent_digest")} & needed
    ]


def cards_without_data(output: Path, unused: set[str]) -> list[Path]:
    """Folders of data cards one of whose sets is not there, or is among the unused ones."""
    found = []
    for path in sorted((output / "data").glob("[!.]*-card/data_card.json")):
        with suppress(ValueError, KeyError, TypeError):
            sets = {one["folder"] for one in read_json(path)["sets"].values()}
            if any(name in unused or not (output / "data" / name).is_dir() for name in sets):
                found.append(path.parent)
    return found
