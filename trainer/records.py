"""The per-step records of a stage: a JSON-lines file that survives being cut and being resumed."""

import json
import os
from pathlib import Path

from trainer.synced import replace


def append_record(path: Path, record: dict) -> None:
    """Add one JSON line, on the disk before this returns."""
    with path.open("a") as file:
        file.write(json.dumps(record) + "\n")
        file.flush()
        os.fsync(file.fileno())


def read_records(path: Path) -> list[dict]:
    """The records of a file, oldest first. A last line without its newline was cut: left out.

    Raises:
        ValueError: a line is no record of a step, for the file was damaged.
    """
    return Growing(path).more()


class Growing:
    """A file of records that another process appends to, read piece by piece."""

    def __init__(self, path: Path):
        """Name the file, which may not be there yet."""
        self._path = path
        self._inode = self._read = self._lines = 0

    def more(self) -> list[dict]:
        """The records since the last call; all of them where the file was replaced or cut.

        Raises:
            ValueError: a line is no record of a step, for the file was damaged.
        """
        try:
            file = self._path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._read:
                self._inode, self._read, self._lines = found.st_ino, 0, 0
            file.seek(self._read)
            # Of a last line that is being written, or was cut, the rest may come.
            lines = [line for line in file if line.endswith(b"\n")]
        first = self._lines + 1
        self._lines += len(lines)
        self._read += sum(map(len, lines))
        return [_record(self._path, number, line) for number, line in enumerate(lines, first)]


def _record(path: Path, number: int, line: bytes) -> dict:
    try:
        record = json.loads(line)
        fault = "" if isinstance(record, dict) and type(record.get("step")) is int else "no step"
    except ValueError as error:  # no JSON, or no text
        fault = str(error)
    if fault:
        raise ValueError(
            f"line {number} of {path} is no record of a step: {fault}\n\n"
            f"hint: move {path.parent} away; the stage is trained again"
        )
    return record


def keep_steps(path: Path, last: int) -> None:
    """Drop the records of steps after `last`: training goes on from there and makes them again."""
    kept = [record for record in read_records(path) if record["step"] <= last]
    replace(path, "".join(json.dumps(record) + "\n" for record in kept))
