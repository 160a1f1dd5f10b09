"""One stage of an experiment, again or for the first time.

python -m flows.train_stage experiment=lab/fastcurl stage=3
python -m flows.train_stage experiment=lab/fastcurl stage=3 force=true
"""

import sys
from typing import Any

from prefect import flow

from conf.schema import Experiment
from flows import parameters, steps
from flows.terminal import run
from tasks import again


def settings_of(
    experiment: str,
    overrides: list[str] | None = None,
    output: str | None = None,
    stage: int | str = 1,
) -> Experiment:
    """The settings of the experiment that a stage is of, checked without reading data.

    Raises:
        ConfigError: an unknown experiment, setting or stage.
    """
    settings = parameters.settings_of(experiment, overrides, output)
    parameters.position_of(settings, stage, base=False)
    return settings


@flow(name="train-stage", log_prints=True)
def train_stage(
    experiment: str = "lab/fastcurl",
    stage: int | str = 1,
    force: bool = False,
    upstream: bool = False,
    overrides: list[str] | None = None,
    output: str | None = None,
) -> str:
    """Train one stage from the finished ones before it. A finished stage is found, not trained.

    Args:
        experiment: Name of a file under conf/experiment.
        stage: Its number, from 1, or its name.
        force: Move what is there of the stage aside, and train it anew.
        upstream: Train the stages before it where they are not finished.
        overrides: Settings that differ from the experiment's, such as "seed=1".
        output: Folder that everything is written under; none: the experiment's own.

    Returns:
        The stage's folder.

    Raises:
        ConfigError: an unknown experiment, setting or stage.
        ValueError: a stage before it is not finished, or `force` on one that is being trained or
            read.
        StageFailedError: the stage failed; run again, it resumes.
    """
    settings = settings_of(experiment, overrides, output, stage)
    parameters.tell_doubts(settings)
    wanted = parameters.position_of(settings, stage, base=False)
    name = settings.stages[wanted].name

    def stage_at(
        work: steps.Session, given: steps.Inputs, position: int, before: steps.Milestone
    ) -> dict[str, Any]:
        if position < wanted and not upstream:
            return steps.required(work, given, position, before)
        if position == wanted and force:
            folder = steps.folder_of(work, given, position, before)
            # What this run itself began is kept: retried from Prefect's UI, it resumes.
            aside = again.move_aside(folder, before=steps.begun())
            print(f"moved aside: {aside}" if aside else "nothing to move aside")
        return steps.trained(work, given, position, before)

    command = ["python", "-m", "flows.train_stage", f"stage={stage}"]
    with steps.session(
        settings, [*command, *parameters.lines(experiment, overrides, output)], f"stage {name}"
    ) as work:
        for at in steps.milestones(work, steps.inputs(work), stage_at):
            if at.position == wanted:
                print(f"checkpoint: {at.checkpoint.path}")
                return str(at.stage["folder"])


if __name__ == "__main__":
    sys.exit(run(train_stage, sys.argv[1:], check=settings_of))
