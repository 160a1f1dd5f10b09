"""Temporary files of a save that nobody would remove.

verl locks each folder that it makes by a file of its own where Python puts temporary ones, and
leaves it: two or three with every checkpoint, for ever. Its name is a hash that each process takes
otherwise, so nobody else ever waits for it.
"""

import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager

from trainer.warm import MARK


@contextmanager
def removed_after() -> Iterator[None]:
    """A block whose temporary files go when it ends.

    They lie in the guard's scratch folder, which goes with the stage if a kill ends the block; on
    another machine of a cluster there is none, and a kill leaves a folder.
    """
    before, scratch = tempfile.tempdir, os.environ.get(MARK, "")
    with tempfile.TemporaryDirectory(dir=scratch if os.path.isdir(scratch) else None) as folder:
        tempfile.tempdir = folder
        try:
            yield
        finally:
            tempfile.tempdir = before
