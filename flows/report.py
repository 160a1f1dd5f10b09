"""The report of what is there of an experiment; trains and samples nothing.

python -m flows.report experiment=lab/fastcurl
"""

import sys
from functools import partial

from prefect import flow

from flows import parameters, steps
from flows.terminal import run

settings_of = partial(parameters.settings_of, trains=False, samples=False)


@flow(name="report", log_prints=True)
def report(
    experiment: str = "lab/fastcurl",
    overrides: list[str] | None = None,
    output: str | None = None,
) -> str:
    """Write the report of an experiment again, from the stages and scores that are finished.

    Args:
        experiment: Name of a file under conf/experiment.
        overrides: Settings that differ from it, as they were when it ran.
        output: Folder that everything is written under; none: the experiment's own.

    Returns:
        The report's path.

    Raises:
        ConfigError: an unknown experiment or setting, or a value out of bounds.
        ValueError: nothing of it is finished.
    """
    settings = settings_of(experiment, overrides, output)
    command = ["python", "-m", "flows.pipeline", *parameters.lines(experiment, overrides, output)]
    with steps.session(settings, command, "report") as work:
        given = steps.inputs(work, trains=False)
        stages, evaluations = steps.there(work, given)
        if not stages and not evaluations:
            raise ValueError(
                f"{work.output} holds no finished stage and no score of {settings.name} seed "
                f"{settings.seed}\n\nhint: run it first, or give the overrides it ran with"
            )
        written = steps.report(work, given, stages, evaluations)
    return steps.show(written, settings)


if __name__ == "__main__":
    sys.exit(run(report, sys.argv[1:], check=settings_of))
