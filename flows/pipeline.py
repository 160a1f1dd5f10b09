"""The whole experiment: data, prompt sets, stages, a score after each, and the report.

python -m flows.pipeline experiment=lab/fastcurl
python -m flows.pipeline experiment=lab/fastcurl seed=1 stages.0.steps=20
python -m flows.pipeline experiment=lab/smoke hardware=cpu_vllm
"""

import sys

from prefect import flow

from flows import parameters, shown, steps
from flows.terminal import run


@flow(name="pipeline", log_prints=True)
def pipeline(
    experiment: str = "lab/fastcurl",
    overrides: list[str] | None = None,
    output: str | None = None,
) -> str:
    """Run an experiment from its data to its report; what is finished is not done again.

    Args:
        experiment: Name of a file under conf/experiment.
        overrides: Settings that differ from it, such as "seed=1" or "stages.0.steps=20".
        output: Folder that everything is written under; none: the experiment's own.

    Returns:
        The report's path.

    Raises:
        ConfigError: an unknown experiment or setting, or a value out of bounds.
        ValueError: data, model or disk do not allow the experiment; nothing was trained.
        StageFailedError: a stage failed; run again, it resumes.
    """
    settings = parameters.settings_of(experiment, overrides, output)
    parameters.tell_doubts(settings)
    command = ["python", "-m", "flows.pipeline", *parameters.lines(experiment, overrides, output)]
    with steps.session(settings, command) as work:
        given = steps.inputs(work)
        stages, evaluations = [], []
        for at in steps.milestones(work, given, steps.trained):
            steps.begin_next(work, given, at)
            stages += [at.stage] if at.stage else []
            evaluations += steps.score(work, given.benchmarks, at)
        written = steps.report(work, given, stages, evaluations)
    return shown.report(written, settings)


def main(arguments: list[str]) -> int:
    """Run from a command line of `key=value` settings; errors end with a message, not a trace.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    return run(pipeline, arguments, trains=True)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
