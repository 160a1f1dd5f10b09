"""Score checkpoints that are there; train nothing.

python -m flows.evaluate experiment=lab/fastcurl
python -m flows.evaluate experiment=lab/fastcurl stage=3
"""

import sys

from prefect import flow

from flows import steps
from flows.terminal import run


@flow(name="evaluate", log_prints=True)
def evaluate(
    experiment: str = "lab/fastcurl",
    stage: int | str | None = None,
    overrides: list[str] | None = None,
    output: str | None = None,
) -> dict[str, dict[str, float]]:
    """Score the starting model and every finished stage, or one of them.

    Args:
        experiment: Name of a file under conf/experiment.
        stage: Number, from 1, or name of the only stage to score; 0 or "base": the starting model.
        overrides: Settings that differ from the experiment's, such as "evaluation.samples=32".
        output: Folder that everything is written under; none: the experiment's own.

    Returns:
        avg@k by benchmark, by checkpoint.

    Raises:
        ConfigError: an unknown experiment, setting or stage.
        ValueError: the stage is not finished, or one before it.
        RuntimeError: the sampling process failed.
    """
    settings = steps.settings_of(experiment, overrides, output)
    wanted = None if stage is None else steps.position_of(settings, stage)
    command = ["python", "-m", "flows.evaluate", *([] if stage is None else [f"stage={stage}"])]
    scores = {}
    with steps.session(
        settings, [*command, *steps.lines(experiment, overrides, output)], "evaluation"
    ) as work:
        given = steps.inputs(work)
        stage_at = steps.found if wanted is None else steps.required
        for at in steps.milestones(work, given, stage_at):
            if wanted in (None, at.position):
                results = steps.score(work, given, at)
                scores[at.label] = {r["benchmark"]: r["metrics"]["avg_at_k"] for r in results}
            if wanted == at.position:
                break
    return scores


if __name__ == "__main__":
    sys.exit(run(evaluate, sys.argv[1:]))
