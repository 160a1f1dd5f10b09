"""The steps that flows share: open an experiment, bring its data, walk over its checkpoints."""

import shlex
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from prefect import task
from prefect.artifacts import create_markdown_artifact
from prefect.cache_policies import NO_CACHE
from prefect.context import FlowRunContext
from prefect.runtime import flow_run

from conf.schema import Experiment
from tasks import again, doubts, pass_rates, preflight, prepare
from tasks import evaluate as evaluation
from tasks.artifacts import Dataset, digest_of
from tasks.datacard import Card, write_card
from tasks.download import download
from tasks.labels import flat, lineage_tags
from tasks.machine import environment
from tasks.model import Checkpoint, starting_model
from tasks.plan import plan
from tasks.report import Report, write_report
from tasks.segment import pass_rates_in, pruned, segment
from tasks.track import Tracker
from tasks.train_stage import begin, end_begun, train_stage

# What is on disk decides what is done, so Prefect caches nothing: its keys know no files.
step = partial(task, cache_policy=NO_CACHE, log_prints=True)

BASE = -1  # position of the starting model, before stage 0


@dataclass(frozen=True)
class Session:
    """An experiment that is being worked on.

    Attributes:
        settings: Its settings.
        output: Folder that everything is written under, absolute.
        command: The command that does this work.
        tracker: Where its runs are kept.
        run: Id of the run that all that follows belongs to.
    """

    settings: Experiment
    output: Path
    command: str
    tracker: Tracker
    run: str


@dataclass(frozen=True)
class Inputs:
    """What is there before the first stage: training set, prompt sets, test sets, base model.

    Attributes:
        train: The training set that the gates left.
        segments: Its prompt sets by name.
        benchmarks: The test sets by name.
        base: The starting model.
        raw: The training set as downloaded.
        card: What is known of the data.
    """

    train: Dataset
    segments: dict[str, Dataset]
    benchmarks: dict[str, Dataset]
    base: Checkpoint
    raw: Dataset
    card: Card


@dataclass(frozen=True)
class Milestone:
    """A checkpoint on the way through the curriculum.

    Attributes:
        label: "base", or the name of the stage that made it.
        position: That stage's index, -1 for the base.
        checkpoint: The model.
        stage: The stage's manifest, None for the base.
    """

    label: str
    position: int
    checkpoint: Checkpoint
    stage: dict[str, Any] | None = None


StageAt = Callable[[Session, Inputs, int, Milestone], dict[str, Any] | None]
"""Gives a stage's manifest from session, inputs, position and the milestone before; or None."""


def begun() -> float:
    """When this flow run first began, as Unix time: a retry is the same run. Now, for a new one."""
    context = FlowRunContext.get()
    start = context.flow_run.start_time if context and context.flow_run else None
    return start.timestamp() if start else time.time()


@contextmanager
def session(settings: Experiment, command: Sequence[str], what: str = "") -> Iterator[Session]:
    """A run in MLflow that all work of the block belongs to.

    Args:
        settings: The experiment.
        command: What would do this work again, as words.
        what: Which part of the experiment it is; nothing for all of it.
    """
    output = Path(settings.output).absolute()
    tracker = Tracker(output, settings.name)
    tags = lineage_tags(
        config_digest=digest_of(settings),
        git_commit=environment()["git_commit"],
        prefect_flow_run=str(flow_run.get_id() or ""),
        command=shlex.join(command),
    )
    name = f"{settings.name} seed {settings.seed}" + (f", {what}" if what else "")
    try:
        with tracker.pipeline_run(flat(settings), tags, name=name) as run:
            yield Session(settings, output, shlex.join(command), tracker, run)
    finally:
        end_begun()  # a trainer that no stage came to


def inputs(work: Session, *, trains: bool = True) -> Inputs:
    """Data and starting model, on disk and checked.

    Args:
        work: The experiment.
        trains: Whether stages may be trained.

    Raises:
        ValueError: data, model or disk do not allow the experiment.
    """
    ready, compared, base, card = prepared(work)
    names = [source.name for source in work.settings.evaluation.benchmarks]
    benchmarks = {name: compared[name] for name in names}
    step(preflight.check_data)(work.settings, ready.segments, benchmarks, base.path, trains=trains)
    return Inputs(ready.kept, ready.segments, benchmarks, base, ready.train, card)


def prepared(
    work: Session,
) -> tuple[prepare.Prepared, dict[str, Dataset], Checkpoint, Card]:
    """The training set, what the gates left of it, and its prompt sets; the sets it was compared
    with, the starting model, and the data's card, which is kept with the run.

    Raises:
        ValueError: the data cannot be had or read, no row is left, or the model is missing.
    """
    data = work.settings.data
    train = step(download)(data.train, data, work.output)
    compared = {
        source.name: step(download)(source, data, work.output)
        for source in prepare.comparison_sources(work.settings)
    }
    base = step(starting_model)(work.settings.model)
    kept = step(prepare.gated, task_run_name="gates")(
        work.settings, train, compared, base.path, work.output
    )
    rates = None
    if data.segmentation.rule == "pass_rate":
        measure = step(pass_rates.measure, task_run_name="measure pass rates")
        rates = partial(measure, work.settings, kept, work.tracker, work.run)
    known = prepare.measured(work.settings, kept, base.path, rates)
    segments = step(segment)(kept, data, work.output, known)
    ready = prepare.Prepared(train, kept, segments)
    tested = {one.name: compared[one.name] for one in work.settings.evaluation.benchmarks}
    for doubt in (*doubts.without_level(segments), *doubts.repeated(tested)):
        print(f"warning: {doubt}")
    card = step(write_card)(ready, compared, work.output)
    work.tracker.log_report(work.run, card.folder)
    create_markdown_artifact(card.markdown, key="data-card", description=str(card.html))
    return ready, compared, base, card


def prompts_of(work: Session, given: Inputs, position: int, before: Milestone) -> Dataset:
    """The prompts of a stage: its prompt set, less what the stage before solved or never could.

    Raises:
        ValueError: too few are left, or the stage before recorded no pass rates.
    """
    stage = work.settings.stages[position]
    prompts = given.segments[stage.prompts]
    if stage.drop_solved is None and stage.drop_hopeless is None:
        return prompts
    return pruned(prompts, stage, pass_rates_in(before.stage["folder"]), work.output)


def benchmarks_of(work: Session) -> dict[str, Dataset]:
    """The test sets, on disk."""
    found = {
        source.name: step(download)(source, work.settings.data, work.output)
        for source in work.settings.evaluation.benchmarks
    }
    for doubt in doubts.repeated(found):
        print(f"warning: {doubt}")
    return found


def milestones(work: Session, given: Inputs, stage_at: StageAt) -> Iterator[Milestone]:
    """The starting model, then each stage's checkpoint, made from the one before it.

    Lazy: the next stage begins when the next milestone is asked for. Ends early where `stage_at`
    gives None, and says why there is no such stage.
    """
    at = Milestone("base", BASE, given.base)
    yield at
    for position, stage in enumerate(work.settings.stages):
        result = stage_at(work, given, position, at)
        if result is None:
            print(f"{unfinished(work, position)}\nThis stage and those after it are left out.")
            return
        made = Checkpoint(Path(result["checkpoint"]["path"]), result["checkpoint"]["digest"])
        at = Milestone(stage.name, position, made, result)
        yield at


def trained(work: Session, given: Inputs, position: int, before: Milestone) -> dict[str, Any]:
    """Train a stage, or find it trained."""
    stage = work.settings.stages[position]
    return step(train_stage, task_run_name=f"train {stage.name}")(
        work.settings,
        position,
        prompts_of(work, given, position, before),
        before.checkpoint,
        work.tracker,
        work.run,
    )


def begin_next(work: Session, given: Inputs, at: Milestone) -> None:
    """Let the next stage's trainer start up while a checkpoint is evaluated, if both are to be."""
    position = at.position + 1
    if position == len(work.settings.stages) or len(scored(work, given, at)) == len(
        given.benchmarks
    ):
        return
    if found(work, given, position, at) is None:
        begin(work.settings)


def found(work: Session, given: Inputs, position: int, before: Milestone) -> dict[str, Any] | None:
    """A stage as it lies on disk, None if it is not finished."""
    prompts = prompts_of(work, given, position, before)
    return again.find(work.settings, position, prompts, before.checkpoint)


def required(work: Session, given: Inputs, position: int, before: Milestone) -> dict[str, Any]:
    """A stage as it lies on disk.

    Raises:
        ValueError: it is not finished.
    """
    manifest = found(work, given, position, before)
    if manifest is None:
        raise ValueError(
            f"{unfinished(work, position)}\n\nhint: train it first, with stage={position + 1}, or "
            "with upstream=true on a later one; or give the settings that it was trained with"
        )
    return manifest


def unfinished(work: Session, position: int) -> str:
    """That a stage is not finished, and why: in what it differs from those that are there."""
    planned = plan(work.settings).stages[position]
    return "\n".join(
        [
            f"stage {position + 1} of {work.settings.name}, {planned.name}, is not finished:",
            *(f"  {line}" for line in planned.reasons),
        ]
    )


def folder_of(work: Session, given: Inputs, position: int, before: Milestone) -> Path:
    """Where a stage lies or would lie."""
    prompts = prompts_of(work, given, position, before)
    return again.folder_of(work.settings, position, prompts, before.checkpoint)


def score(work: Session, benchmarks: Mapping[str, Dataset], at: Milestone) -> list[dict[str, Any]]:
    """The checkpoint's evaluation on each benchmark, made or found."""
    return [
        step(evaluation.evaluate, task_run_name=f"evaluate {at.label} on {name}")(
            work.settings,
            benchmark,
            at.checkpoint,
            at.label,
            at.position,
            work.tracker,
            work.run,
        )
        for name, benchmark in benchmarks.items()
    ]


def scored(work: Session, given: Inputs, at: Milestone) -> list[dict[str, Any]]:
    """The checkpoint's evaluations that are on disk."""
    kept = [
        evaluation.find(work.settings, benchmark, at.checkpoint, at.label, at.position)
        for benchmark in given.benchmarks.values()
    ]
    return [one for one in kept if one]


def there(work: Session, given: Inputs) -> tuple[list[dict[str, Any]], list[dict[str, Any]]]:
    """Manifests of the stages and of the evaluations that are finished, in order of training."""
    at = list(milestones(work, given, found))
    stages = [each.stage for each in at if each.stage]
    return stages, [one for each in at for one in scored(work, given, each)]


def report(
    work: Session, given: Inputs, manifests: Sequence[dict], evaluations: Sequence[dict]
) -> Report:
    """Write the report, and keep it with the run."""
    written = step(write_report)(
        work.settings,
        train=given.train,
        segments=given.segments,
        stages=manifests,
        evaluations=evaluations,
        output=work.output,
        command=work.command,
        benchmarks=given.benchmarks,
    )
    # A run keeps one folder: the data's card goes along.
    shutil.copytree(given.card.folder, written.folder / "data", dirs_exist_ok=True)
    work.tracker.log_report(work.run, written.folder)
    return written
