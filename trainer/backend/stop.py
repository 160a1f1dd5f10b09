"""The wish that a trainer stop: a file in the stage's folder, which any of its machines can see.

A signal reaches the guard only. The trainer's loop runs in a Ray actor, perhaps on another machine.
"""

from pathlib import Path

STOP = "stop"  # in the stage's folder


class StopRequestedError(Exception):
    """Somebody wants the trainer to stop; it is where it can."""


def check_stop(file: Path) -> None:
    """Leave the loop if a stop was asked for.

    Raises:
        StopRequestedError: it was.
    """
    if file.exists():
        raise StopRequestedError
