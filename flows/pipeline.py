"""The whole experiment: data, prompt sets, stages, a score after each, and the report.

python -m flows.pipeline experiment=lab/fastcurl
python -m flows.pipeline experiment=lab/fastcurl seed=1 stages.0.steps=20
python -m flows.pipeline experiment=lab/smoke hardware=cpu_vllm
"""

import shlex
import sys
from functools import partial
from pathlib import Path

from prefect import flow, task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.runtime import flow_run

from conf.load import load
from conf.schema import Experiment
from tasks import preflight
from tasks.artifacts import digest_of
from tasks.download import download
from tasks.evaluate import evaluate
from tasks.labels import flat, lineage_tags
from tasks.machine import environment
from tasks.model import Checkpoint, starting_model
from tasks.report import Report, terminal_summary, write_report
from tasks.segment import segment
from tasks.track import Tracker
from tasks.train_stage import train_stage

# What is on disk decides what is done, so Prefect caches nothing: its keys know no files.
step = partial(task, cache_policy=NO_CACHE, log_prints=True)


@flow(name="pipeline", log_prints=True)
def pipeline(experiment: str = "lab/fastcurl", overrides: list[str] | None = None) -> str:
    """Run an experiment from its data to its report; what is finished is not done again.

    Args:
        experiment: Name of a file under conf/experiment.
        overrides: Settings that differ from it, such as "seed=1" or "stages.0.steps=20".

    Returns:
        The report's path.

    Raises:
        ConfigError: an unknown experiment or setting, or a value out of bounds.
        ValueError: data, model or disk do not allow the experiment; nothing was trained.
        StageFailedError: a stage failed; run again, it resumes.
    """
    arguments = [f"experiment={experiment}", *(overrides or [])]
    settings = load(*arguments)
    preflight.check_settings(settings)
    command = shlex.join(["python", "-m", "flows.pipeline", *arguments])
    output = Path(settings.output).absolute()
    tracker = Tracker(output, settings.name)
    tags = lineage_tags(
        config_digest=digest_of(settings),
        git_commit=environment()["git_commit"],
        prefect_flow_run=str(flow_run.get_id() or ""),
        command=command,
    )
    with tracker.pipeline_run(
        flat(settings), tags, name=f"{settings.name} seed {settings.seed}"
    ) as run:
        report = _run(settings, output, tracker, run, command)
        tracker.log_report(run, report.folder)
    create_markdown_artifact(report.markdown, key="report", description=str(report.html))
    print(terminal_summary(report.summary))
    print(f"report: {report.html}\nall runs: make ui OUTPUT={shlex.quote(settings.output)}")
    return str(report.html)


def _run(settings: Experiment, output: Path, tracker: Tracker, run: str, command: str) -> Report:
    """Every step of the experiment, each from what the ones before left."""
    data = settings.data
    train = step(download)(data.train, data, output)
    benchmarks = {
        source.name: step(download)(source, data, output)
        for source in settings.evaluation.benchmarks
    }
    segments = step(segment)(train, data, output)
    checkpoint = step(starting_model)(settings.model)
    step(preflight.check_data)(settings, segments, benchmarks, checkpoint.path)

    stages, evaluations = [], []

    def score(label: str, position: int, upstream_run: str = "") -> None:
        for name, benchmark in benchmarks.items():
            evaluations.append(
                step(evaluate, task_run_name=f"evaluate {label} on {name}")(
                    settings, benchmark, checkpoint, label, position, tracker, run, upstream_run
                )
            )

    score("base", -1)
    trained_by = ""
    for position, stage in enumerate(settings.stages):
        result = step(train_stage, task_run_name=f"train {stage.name}")(
            settings, position, segments[stage.prompts], checkpoint, tracker, run, trained_by
        )
        stages.append(result)
        checkpoint = Checkpoint(Path(result["checkpoint"]["path"]), result["checkpoint"]["digest"])
        trained_by = result.get("mlflow_run_id", "")
        score(stage.name, position, trained_by)
    return step(write_report)(
        settings,
        train=train,
        segments=segments,
        stages=stages,
        evaluations=evaluations,
        output=output,
        command=command,
        benchmarks=benchmarks,
    )


def main(arguments: list[str]) -> int:
    """Run from a command line of `key=value` settings; errors end with a message, not a trace.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    experiment = "lab/fastcurl"
    overrides = []
    for argument in arguments:
        if argument.startswith("experiment="):
            experiment = argument.removeprefix("experiment=")
        else:
            overrides.append(argument)
    try:
        # Before the flow starts, so that a slip of the keyboard costs no start-up.
        preflight.check_settings(load(f"experiment={experiment}", *overrides))
        pipeline(experiment, overrides)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except ValueError as error:  # a refusal: settings, data, model or disk do not allow it
        print(f"\n{error}", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
