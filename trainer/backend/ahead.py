"""A trainer begun before its stage is known: Ray starts while the stage before is evaluated.

Only on a CPU: there the start of Ray is a third of the time to the first step, while a GPU belongs
to whoever evaluates.
"""

import atexit
import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from threading import Lock, Thread

from trainer.backend.stop import STOP
from trainer.leftovers import OUTPUT, SETTINGS
from trainer.process import Guarded, new_scratch, start, whole
from trainer.standby import FOR_STAGES, SET_BY_IMPORTS

RAY = "ray_kwargs."  # what the settings of Ray, of all of verl's, are named
STAGE = "stage"  # in its scratch folder, beside its settings and its output
OF_OTHERS = ("MLFLOW_", "PREFECT_")  # variables that no trainer reads, and a flow sets as it goes
WAITING = "trainer.backend.waiting"  # what is begun
LOG = "trainer.log"  # in the stage's folder


def ray_settings(values: Mapping[str, object]) -> dict[str, object]:
    """Those of verl's settings that Ray is started with."""
    return {key: value for key, value in values.items() if RAY in key}


class Ahead:
    """A trainer that starts Ray and then waits for its stage."""

    def __init__(self, ray: Mapping[str, object], environment: Mapping[str, str], grace: float):
        """Begin it, in a thread: the process that it is a fork of may still have to import.

        Args:
            ray: Settings that Ray is started with, named as verl names them.
            environment: Added to this process's.
            grace: Seconds that it has to save something before it is told to end.
        """
        self._ray = dict(ray)
        self._environment = whole(environment)
        self._grace = grace
        self._scratch = new_scratch()
        self._program: Guarded | None = None
        self._unwanted = False
        self._lock = Lock()
        (self._scratch / SETTINGS).write_text(json.dumps(self._ray))
        self._beginning = Thread(target=self._begin, daemon=True)
        self._beginning.start()

    def _begin(self) -> None:
        # Where there is no room for it, the stage will say so.
        with contextlib.suppress(OSError), (self._scratch / OUTPUT).open("ab") as output:
            program = start(
                WAITING,
                [str(self._scratch)],
                self._scratch,
                output,
                self._environment,
                stop_file=self._scratch / STAGE / STOP,
                grace=self._grace,
                warm=True,
                only_warm=True,
                imports=[FOR_STAGES],
            )
            with self._lock:
                self._program, unwanted = program, self._unwanted
            if unwanted and program:
                program.end()

    def fits(self, ray: Mapping[str, object], environment: Mapping[str, str]) -> bool:
        """Whether it began with these."""
        return self._ray == dict(ray) and _comparable(self._environment) == _comparable(
            whole(environment)
        )

    def take(
        self, folder: Path, ray: Mapping[str, object], environment: Mapping[str, str]
    ) -> Guarded | None:
        """Let it train the stage in `folder`, whose settings.json is there.

        Args:
            folder: The stage's.
            ray: See `Ahead`.
            environment: See `Ahead`.

        Returns:
            The trainer; None where it has ended, or began with other settings, and is ended.
        """
        self._beginning.join()
        runs = self._program is not None and self._program.runs
        if runs and self.fits(ray, environment):
            (folder / LOG).touch()
            with contextlib.suppress(FileNotFoundError):  # its guard has just removed it
                os.symlink(folder.absolute(), self._scratch / STAGE)
                return self._program
        self.end()
        return None

    def end(self) -> None:
        """End it, and wait for that; one that has not begun yet ends as soon as it has."""
        with self._lock:
            self._unwanted, program = True, self._program
        if program:
            program.end()
        shutil.rmtree(self._scratch, ignore_errors=True)


def _comparable(environment: Mapping[str, str]) -> dict[str, str]:
    return {
        name: value
        for name, value in environment.items()
        if name not in SET_BY_IMPORTS and not name.startswith(OF_OTHERS)
    }


_begun: list[Ahead] = []


def begin_ahead(ray: Mapping[str, object], environment: Mapping[str, str], grace: float) -> None:
    """Begin the trainer of the next stage, if it has not begun; arguments are those of `Ahead`."""
    if _begun and _begun[-1].fits(ray, environment):
        return
    end_ahead()
    with contextlib.suppress(OSError):
        _begun.append(Ahead(ray, environment, grace))


def take_ahead(
    folder: Path, ray: Mapping[str, object], environment: Mapping[str, str]
) -> Guarded | None:
    """The trainer that was begun for the stage in `folder`, see `Ahead.take`; None if none was."""
    if not _begun:
        return None
    program = _begun[-1].take(folder, ray, environment)  # interrupted, it is still ours to end
    _begun.pop()
    return program


@atexit.register
def end_ahead() -> None:
    """End a trainer that was begun and that no stage has taken."""
    while _begun:
        _begun.pop().end()
