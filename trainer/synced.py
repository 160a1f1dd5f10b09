"""Files on the disk, and not only in the memory of the system, before anything counts on them."""

import os
from pathlib import Path


def sync(path: Path) -> int:
    """Have a file or a folder on the disk before this returns.

    Returns:
        The size of the file.
    """
    number = os.open(path, os.O_RDONLY)
    try:
        try:
            os.fsync(number)
        except OSError:
            if not path.is_dir():  # some network's file systems refuse a folder alone
                raise
        return os.fstat(number).st_size
    finally:
        os.close(number)


def sync_tree(folder: Path) -> dict[str, int]:
    """Have all that a folder holds on the disk, and its name.

    Returns:
        Each file's size, by its path in the folder.
    """
    sizes = {}
    for path in sorted(folder.rglob("*")):
        size = sync(path)
        if path.is_file():
            sizes[path.relative_to(folder).as_posix()] = size
    sync(folder)
    sync(folder.parent)
    return sizes


def replace(path: Path, text: str) -> None:
    """Write a file so that a kill or a power cut leaves the old one or the new one."""
    aside = path.with_suffix(".part")
    with aside.open("w") as file:
        file.write(text)
        file.flush()
        os.fsync(file.fileno())
    os.replace(aside, path)
    sync(path.parent)
