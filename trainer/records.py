"""The per-step records of a stage: a JSON-lines file that survives being cut and being resumed."""

import json
import os
from pathlib import Path


def append_record(path: Path, record: dict) -> None:
    """Add one JSON line, on the disk before this returns."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path) -> list[dict]:
    """The records of a file, oldest first. A last line without its newline was cut: left out."""
    if not path.exists():
        return []
    lines = path.read_text().splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n")]


def keep_steps(path: Path, last: int) -> None:
    """Drop the records of steps after `last`: training goes on from there and makes them again."""
    kept = [record for record in read_records(path) if record["step"] <= last]
    aside = path.with_suffix(".part")
    aside.write_text("".join(json.dumps(record) + "\n" for record in kept))
    os.replace(aside, path)
