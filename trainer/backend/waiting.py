"""A trainer process that starts Ray, then waits for the stage that it is to train.

    python -m trainer.backend.waiting SCRATCH

SCRATCH/ray.json holds the settings of Ray. SCRATCH/stage will be a link to the stage's folder, and
from then on this is `python -m trainer.backend.main FOLDER`.
"""

import json
import os
import signal
import sys
import time
from pathlib import Path

from trainer.backend.ahead import LOG, STAGE
from trainer.backend.main import warm_python
from trainer.leftovers import OUTPUT, SETTINGS
from trainer.warm import SHOWN, leave

LOOK = 0.02  # seconds between looks whether the stage is there


def wait_for_stage(scratch: Path) -> Path:
    """Wait for the stage; output goes to its log from then on.

    Returns:
        The stage's folder.
    """
    link = scratch / STAGE
    ready = time.monotonic()
    ends = signal.signal(signal.SIGTERM, signal.SIG_DFL)  # nothing is there that Ray would save
    while not link.is_symlink():
        time.sleep(LOOK)
    signal.signal(signal.SIGTERM, ends)
    folder = link.readlink()
    with (folder / LOG).open("ab") as log:
        sys.stdout.flush()
        log.write((scratch / OUTPUT).read_bytes())
        log.flush()
        for number in (sys.stdout.fileno(), sys.stderr.fileno()):
            os.dup2(log.fileno(), number)
    SHOWN.show(sys.executable, "-m", "trainer.backend.main", str(folder))
    print(f"was ready {time.monotonic() - ready:.1f} s before its stage", flush=True)
    return folder


if __name__ == "__main__":
    python = warm_python()  # before Ray is imported, which can't be shared by forks

    from trainer.backend.run import prepare, run

    scratch = Path(sys.argv[1])
    prepare(json.loads((scratch / SETTINGS).read_text()), python)
    if run(wait_for_stage(scratch), python):
        leave()  # as `trainer.backend.main` does
