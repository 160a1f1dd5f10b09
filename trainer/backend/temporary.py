"""Temporary files of a save that nobody would remove.

verl locks each folder that it makes by a file of its own where Python puts temporary ones, and
leaves it: two or three with every checkpoint, for ever. Its name is a hash that each process takes
otherwise, so nobody else ever waits for it.
"""

import tempfile
from collections.abc import Iterator
from contextlib import contextmanager


@contextmanager
def removed_after() -> Iterator[None]:
    """A block whose temporary files go when it ends; a kill within it leaves one folder."""
    before = tempfile.tempdir
    with tempfile.TemporaryDirectory(prefix="stagecraft-") as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
