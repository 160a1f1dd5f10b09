"""Experiments by seeds, compared: a stage that several begin with alike is trained once.

python -m flows.study study=lab_smoke
python -m flows.study study=fastcurl_ablation plan=true
python -m flows.study study=lab_smoke seeds=[0,1,2] evaluation.samples=4
"""

import shlex
import sys
from collections.abc import Sequence
from pathlib import Path

from prefect import flow

from conf import studies
from conf.load import ConfigError
from conf.overrides import written
from conf.schema.study import Study
from conf.studies import Run, load_study
from flows import arms
from flows.terminal import run as run_flow
from tasks import preflight, preflight_machine
from tasks.plan import CACHED
from tasks.plan import plan as plan_of
from tasks.sharing import sharing
from tasks.study_words import study_plan


def prepared(
    study: str,
    overrides: Sequence[str] | None = None,
    output: str | None = None,
    plan: bool = False,
    train: bool = True,
):
    """A study and its runs, each checked without reading data.

    Where none is trained, this machine need not be able to.

    Raises:
        ConfigError: there is no such study, or an arm of it cannot work; which one is said.
    """
    settings = load_study(study, overrides or [])
    runs = studies.runs(settings, output)
    for run in runs:
        try:
            preflight.check_settings(run.settings, trains=train)
            if train and not plan:
                preflight_machine.check_machine(run.settings.hardware)
        except ValueError as error:
            raise ConfigError(f"arm {run.arm.name}: {error}") from error
    return settings, runs


@flow(name="study", log_prints=True)
def study(
    study: str = "lab_smoke",
    plan: bool = False,
    train: bool = True,
    overrides: list[str] | None = None,
    output: str | None = None,
) -> str:
    """Train and score every arm of a study with every seed, and compare them.

    What is finished is not done again, and an arm that fails stops no other.

    Args:
        study: Name of a file under conf/study.
        plan: Say which stages there are and what sharing them saves; train nothing.
        train: Without it, what is finished is compared as it is.
        overrides: `seeds=[0,1]` and other keys of the study; what is none of them is a setting of
            all its arms.
        output: Folder that everything is written under; none: the experiments' own.

    Returns:
        The report's path; the plan's text with `plan`.

    Raises:
        ConfigError: an unknown study or setting, or a value out of bounds.
        ValueError: no run has anything to compare.
    """
    settings, runs = prepared(study, overrides, output, plan, train)
    shared = sharing([(run.label, run.settings) for run in runs])
    text = study_plan(settings, shared, _cached(runs) if plan else set())
    print(text)
    if plan:
        return text
    failures = arms.train(settings, runs) if train else {}
    return arms.compare(settings, runs, failures, shared, command(study, overrides, output))


def command(study: str, overrides: Sequence[str] | None, output: str | None) -> str:
    """What does this study again."""
    folder = [f"output={written(output)}"] if output else []
    return shlex.join(
        ["python", "-m", "flows.study", f"study={study}", *folder, *(overrides or [])]
    )


def _cached(runs: Sequence[Run]) -> set[str]:
    """Run and position of the stages that are finished."""
    there = [run for run in runs if Path(run.settings.output).is_dir()]
    return {
        f"{run.label}/{stage.position}"
        for run in there
        for stage in plan_of(run.settings).stages
        if stage.state == CACHED
    }


def main(arguments: list[str]) -> int:
    """Run from a command line of `key=value` settings; errors end with a message, not a trace.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    return run_flow(study, arguments, given=("study", "lab_smoke"), check=prepared, knobs=Study)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
