"""An experiment's stages with stand-ins for learning, in processes as real as the pipeline's.

python -m stand_in experiment=lab/smoke output=... [wait=0.5]

Data, stages, guard and tracking are the project's own; only verl is not there, nor Prefect, nor an
evaluation: a run takes seconds. `wait` is how long a step takes.
"""

import atexit
import gc
import os
import sys
from functools import partial
from pathlib import Path

from conf.load import load
from tasks import train_stage as training
from tasks.download import download
from tasks.model import Checkpoint, starting_model
from tasks.segment import segment
from tasks.track import Tracker
from trainer.backend import launch
from trainer.process import run_guarded


def guarded(module: str, arguments, **settings) -> int:
    """Run the stand-in of a trainer as the trainer is run."""
    assert module == "trainer.backend.main"
    return run_guarded("stand_in_trainer", arguments, **settings)


def main(arguments: list[str]) -> None:
    """Train every stage of an experiment."""
    waits = [word for word in arguments if word.startswith("wait=")]
    os.environ["STAND_IN_WAIT"] = waits[-1].removeprefix("wait=") if waits else "0.05"
    experiment = load(*(word for word in arguments if word not in waits))
    launch.run_guarded = guarded
    output = Path(experiment.output).absolute()
    tracker = Tracker(output, experiment.name)
    say = partial(print, flush=True)
    training.print = say  # a file is buffered; a person at a terminal sees each line
    with tracker.pipeline_run({}, {}) as parent:
        train = download(experiment.data.train, experiment.data, output)
        segments = segment(train, experiment.data, output)
        at = starting_model(experiment.model)
        for position, stage in enumerate(experiment.stages):
            made = training.train_stage(
                experiment, position, segments[stage.prompts], at, tracker, parent
            )
            checkpoint = made["checkpoint"]
            at = Checkpoint(Path(checkpoint["path"]), checkpoint["digest"])
    say("done")


if __name__ == "__main__":
    atexit.register(gc.freeze)  # as a flow does, see `flows`
    try:
        main(sys.argv[1:])
    except (ValueError, RuntimeError) as error:
        sys.exit(f"\n{error}")
