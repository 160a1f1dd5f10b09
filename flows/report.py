"""The report of what is there of an experiment; trains and samples nothing.

python -m flows.report experiment=lab/fastcurl
"""

import shlex
import sys
from collections.abc import Sequence
from functools import partial
from pathlib import Path

from prefect import flow

from conf.schema import Experiment
from flows import parameters, shown, steps
from flows.terminal import run
from tasks import reports

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
        ValueError: nothing of it is finished, or no score of it, where its report has some.
    """
    settings = settings_of(experiment, overrides, output)
    settings_lines = parameters.lines(experiment, overrides, output)
    command = ["python", "-m", "flows.pipeline", *settings_lines]
    there = Path(settings.output).absolute()
    if not ((there / "stages").is_dir() or (there / "evaluations").is_dir()):
        raise _nothing(there, settings)  # before data are brought into a folder that was not meant
    with steps.session(settings, command, "report") as work:
        given = steps.inputs(work, trains=False)
        stages, evaluations = steps.there(work, given)
        if not stages and not evaluations:
            raise _nothing(work.output, settings)
        scoring = shlex.join(["python", "-m", "flows.evaluate", *settings_lines])
        if not evaluations:
            _check_nothing_scored_before(work, list(given.benchmarks), scoring)
        written = steps.report(work, given, stages, evaluations)
    page = shown.report(written, settings)
    if unscored := written.summary["unscored"]:
        names = ", ".join(unscored)
        print(f"the last checkpoint has no score on {names} with these settings")
        print(f"to score it: {scoring}")
    return page


def _nothing(output: Path, settings: Experiment) -> ValueError:
    return ValueError(
        f"{output} holds no finished stage and no score of {settings.name} seed {settings.seed}"
        "\n\nhint: run it first, or give the overrides it ran with, output= among them"
    )


def _check_nothing_scored_before(
    work: steps.Session, benchmarks: Sequence[str], scoring: str
) -> None:
    """Raise ValueError where the report that is there has scores, and the next one would not."""
    settings = work.settings
    folder = reports.folder_of(work.output, settings.name, settings.seed)
    before = reports.read_summary(folder)
    if not before.get("benchmarks"):
        return
    changed = reports.changes(before, {"settings": settings.model_dump(mode="json")})
    told = f"no scores of {', '.join(benchmarks)} with these settings, but {folder} has some"
    told = "\n".join([f"{told} with others:", *changed]) if changed else told
    raise ValueError(
        f"{told}\n\nhint: {scoring} makes them; or give the settings that the report has"
    )


if __name__ == "__main__":
    sys.exit(run(report, sys.argv[1:], check=settings_of))
