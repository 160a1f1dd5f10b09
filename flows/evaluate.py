"""Score checkpoints that are there; train nothing.

python -m flows.evaluate experiment=lab/fastcurl
python -m flows.evaluate experiment=lab/fastcurl stage=3
python -m flows.evaluate checkpoint=Nickyang/FastCuRL-1.5B-Preview evaluation=sober hardware=gpu8
"""

import os
import shlex
import sys
from pathlib import Path

from prefect import flow

from conf.load import ConfigError, load
from conf.schema import Experiment, Model
from flows import parameters, shown, steps
from flows.terminal import run
from tasks import preflight, preflight_machine, preflight_model
from tasks.model import starting_model


def settings_of(
    experiment: str,
    overrides: list[str] | None = None,
    output: str | None = None,
    checkpoint: str | None = None,
    stage: int | str | None = None,
) -> Experiment:
    """The settings of what is to be scored, checked without reading data.

    Raises:
        ConfigError: an unknown experiment, setting or stage, or one that cannot work.
    """
    if checkpoint is None:
        settings = parameters.settings_of(experiment, overrides, output, trains=False)
        if stage is not None:
            parameters.position_of(settings, stage)
        return settings
    if stage is not None:
        raise ConfigError("stage and checkpoint: found both, needed one\n\nhint: drop one of them")
    settings = load(*parameters.lines(experiment, overrides, output))
    preflight_model.local_model(checkpoint, "checkpoint")
    preflight.check_scoring(settings)
    preflight_machine.check_machine(settings.hardware, trains=False)
    return settings


@flow(name="evaluate", log_prints=True)
def evaluate(
    experiment: str = "lab/fastcurl",
    stage: int | str | None = None,
    checkpoint: str | None = None,
    overrides: list[str] | None = None,
    output: str | None = None,
) -> dict[str, dict[str, float]]:
    """Score the starting model and every finished stage, or one of them, or any other model.

    Args:
        experiment: Name of a file under conf/experiment.
        stage: Number, from 1, or name of the only stage to score; 0 or "base": the starting model.
        checkpoint: A model instead of the experiment's: a folder in Hugging Face format, a stage's
            folder, or a name on the Hub. Of the experiment only benchmarks, sampling and hardware
            count then.
        overrides: Settings that differ from the experiment's, such as "evaluation.samples=32" or
            "evaluation=sober".
        output: Folder that everything is written under; none: the experiment's own.

    Returns:
        avg@k by benchmark, by checkpoint.

    Raises:
        ConfigError: an unknown experiment, setting or stage.
        ValueError: the stage is not finished, or one before it; there is no such model.
        RuntimeError: the sampling process failed.
    """
    settings = settings_of(experiment, overrides, output, checkpoint, stage)
    if checkpoint is not None:
        return _one(settings, experiment, checkpoint, overrides, output)
    wanted = None if stage is None else parameters.position_of(settings, stage)
    command = ["python", "-m", "flows.evaluate", *([] if stage is None else [f"stage={stage}"])]
    settings_lines = parameters.lines(experiment, overrides, output)
    scores, stages, evaluations = {}, [], []
    with steps.session(settings, [*command, *settings_lines], "evaluation") as work:
        given = steps.inputs(work, trains=False)
        stage_at = steps.found if wanted is None else steps.required
        for at in steps.milestones(work, given, stage_at):
            if wanted in (None, at.position):
                results = steps.score(work, given.benchmarks, at)
                scores[at.label] = {r["benchmark"]: r["metrics"]["avg_at_k"] for r in results}
                stages += [at.stage] if at.stage else []
                evaluations += results
            if wanted == at.position:
                break
    shown.scores(settings, stages, evaluations)
    print(f"for a report: {shlex.join(['python', '-m', 'flows.report', *settings_lines])}")
    return scores


def _one(
    settings: Experiment,
    experiment: str,
    checkpoint: str,
    overrides: list[str] | None,
    output: str | None,
) -> dict[str, dict[str, float]]:
    folder = Path(os.path.expanduser(checkpoint))
    label = folder.absolute().name if folder.is_dir() else checkpoint
    command = ["python", "-m", "flows.evaluate", f"checkpoint={checkpoint}"]
    with steps.session(
        settings,
        [*command, *parameters.lines(experiment, overrides, output)],
        f"evaluation of {label}",
    ) as work:
        model = steps.step(starting_model)(Model(path=checkpoint), "checkpoint")
        benchmarks = steps.benchmarks_of(work)
        steps.step(preflight_model.check_scored_model)(settings, benchmarks.values(), model.path)
        at = steps.Milestone(label, steps.BASE, model)
        results = steps.score(work, benchmarks, at)
    shown.scores(settings, [], results)
    for result in results:
        print(f"responses: {result['folder'] / 'responses.parquet'}")
    return {label: {r["benchmark"]: r["metrics"]["avg_at_k"] for r in results}}


if __name__ == "__main__":
    sys.exit(run(evaluate, sys.argv[1:], check=settings_of))
