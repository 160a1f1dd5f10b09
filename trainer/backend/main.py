"""The trainer process of one stage: `python -m trainer.backend.main FOLDER`.

FOLDER/settings.json holds what `settings` gave.
"""

import os
import sys
import tempfile
from pathlib import Path

from trainer.warm import leave, stand_by


def warm_python() -> str | None:
    """What starts the Python of Ray's workers: a fork of this process, which has the imports.

    Returns:
        A command for Ray; None on a GPU, where nobody has tried it and imports are a small part.
    """
    if os.environ.get("VERL_PLATFORM") != "cpu":
        return None
    import trainer.heavy
    import trainer.heavy_for_stages  # noqa: F401

    listens = Path(tempfile.mkdtemp(dir=os.environ.get("RAY_TMPDIR"))) / "warm"
    return stand_by(listens, ["trainer.backend.run"])


if __name__ == "__main__":
    python = warm_python()  # before Ray is imported, which can't be shared by forks

    from trainer.backend.run import run

    if run(Path(sys.argv[1]), python):
        leave()  # the guard ends Ray: to take it down process by process lasts longer than a step
