"""The runs of a study: trained one by one or several at once, then gathered and compared."""

import os
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from queue import Queue
from threading import Event

from prefect.artifacts import create_link_artifact, create_markdown_artifact
from prefect.context import FlowRunContext

from conf.schema.study import Study
from conf.studies import Run
from flows import steps
from flows.pipeline import pipeline
from tasks import comparison
from tasks.arm_runs import ArmRun
from tasks.artifacts import digest_of
from tasks.comparison import StudyIncompleteError
from tasks.labels import flat, lineage_tags
from tasks.machine import environment
from tasks.report import Report
from tasks.seen import seen
from tasks.sharing import Sharing
from tasks.study_report import write_study_report
from tasks.study_verdict import terminal
from tasks.track import Tracker
from tasks.words import plain
from trainer.process import how_it_ended, last_lines, run_guarded

ENDS = 15.0  # seconds for a pipeline to end when told, beside what its trainer has to save


def train(study: Study, runs: Sequence[Run]) -> dict[str, str]:
    """Train and score every run; one that fails stops no other.

    Returns:
        Why a run failed, by its label.
    """
    if study.parallel == 1:
        return _one_by_one(runs)
    return _several_at_once(study, runs)


def _one_by_one(runs: Sequence[Run]) -> dict[str, str]:
    failures = {}
    for number, run in enumerate(runs, 1):
        print(f"run {number}/{len(runs)}  {run.label}")
        named = pipeline.with_options(flow_run_name=run.label)
        try:
            named(experiment=run.arm.experiment, overrides=list(run.overrides))
        except Exception as error:
            failures[run.label] = str(error) or type(error).__name__
            print(f"{run.label} failed, the others go on: {failures[run.label]}")
    return failures


def _several_at_once(study: Study, runs: Sequence[Run]) -> dict[str, str]:
    """Each run in a process of its own. Two that need one stage wait for each other there."""
    slots: Queue[dict[str, str]] = Queue()
    for slot in devices(study, runs):
        slots.put(slot)
    interrupted, failures = Event(), {}

    def wanted() -> bool:
        if interrupted.is_set():
            raise InterruptedError("the study was interrupted")
        return False

    def one(run: Run) -> None:
        slot = slots.get()
        try:
            failure = "" if interrupted.is_set() else _in_a_process(study, run, slot, wanted)
        finally:
            slots.put(slot)
        if failure:
            failures[run.label] = failure
        print(f"{run.label} {'failed, the others go on: ' + failure if failure else 'is done'}")

    with ThreadPoolExecutor(study.parallel) as pool:
        try:
            for done in [pool.submit(one, run) for run in runs]:
                done.result()
        except BaseException:
            interrupted.set()
            pool.shutdown(wait=True, cancel_futures=True)
            raise
    return failures


def _in_a_process(study: Study, run: Run, slot: dict[str, str], wanted: Callable) -> str:
    """Why the run failed, or nothing."""
    folder = folder_of(study, run.settings.output) / "logs"
    folder.mkdir(parents=True, exist_ok=True)
    log = folder / f"{run.arm.name}-seed{run.seed}.log"
    print(f"{run.label} begins; its log: {log}")
    code = run_guarded(
        "flows.pipeline",
        [f"experiment={run.arm.experiment}", *run.overrides],
        log=log,
        environment=slot,
        progress=wanted,
        stall_timeout=float("inf"),  # the pipeline watches its own processes
        grace=run.settings.hardware.stop_grace + ENDS,
    )
    return "" if code == 0 else f"{how_it_ended(code)}; its last lines:\n{last_lines(log, 5)}"


def devices(study: Study, runs: Sequence[Run]) -> list[dict[str, str]]:
    """For each run at the same time, the environment that gives it GPUs of its own.

    Any run may get any of them, so each has room for the run that needs most.

    Raises:
        ValueError: there are fewer GPUs than that takes.
    """
    ranks = [
        run.settings.hardware.ranks for run in runs if run.settings.hardware.device != "cpu"
    ]  # fmt: skip
    if not ranks:
        return [{}] * study.parallel
    given = os.environ.get("CUDA_VISIBLE_DEVICES")
    if given is None:
        import torch

        given = ",".join(map(str, range(torch.cuda.device_count())))
    visible = [name for name in given.split(",") if name]
    each = max(ranks)
    if len(visible) < study.parallel * each:
        raise ValueError(
            f"{study.parallel} runs of {each} GPUs at the same time need {study.parallel * each}, "
            f"found {len(visible)}\n\nhint: parallel={max(1, len(visible) // each)}"
        )
    return [
        {"CUDA_VISIBLE_DEVICES": ",".join(visible[each * slot : each * (slot + 1)])}
        for slot in range(study.parallel)
    ]


def folder_of(study: Study, output: str) -> Path:
    """Where a study's report and logs lie."""
    return Path(output).absolute() / "studies" / study.name


def compare(
    study: Study, runs: Sequence[Run], failures: dict[str, str], shared: Sharing, command: str
) -> str:
    """Write a study's report from what its runs left on disk, and keep it in MLflow and Prefect.

    Returns:
        The report's path.

    Raises:
        ValueError: no run was evaluated.
        StudyIncompleteError: runs failed; the report of the others is written.
    """
    output = runs[0].settings.output
    tracker = Tracker(output, f"study-{study.name}")
    tags = lineage_tags(
        config_digest=digest_of(study),
        git_commit=environment()["git_commit"],
        command=command,
    )
    with tracker.pipeline_run(flat(study), tags, name=study.name) as parent:
        there = [_gathered(run, failures, tracker, parent) for run in runs]
        found = comparison.compare(study, there)
        written = write_study_report(
            found, shared, folder=folder_of(study, output) / "report", command=command
        )
        _track(found, tracker, parent)
        tracker.log_report(parent, written.folder)
    _show(found, shared, written)
    if failures:
        names = ", ".join(failures)
        raise StudyIncompleteError(
            f"{len(failures)} of {len(runs)} runs failed: {names}; the others are compared in "
            f"{written.html}\n\nhint: the same command goes on with what is missing"
        )
    return str(written.html)


def _gathered(run: Run, failures: dict[str, str], tracker: Tracker, parent: str) -> ArmRun:
    """What a run left on disk, and why it is not all there."""
    output = Path(run.settings.output).absolute()
    work = steps.Session(run.settings, output, run.command, tracker, parent)
    failure = failures.get(run.label, "")
    stages, evaluations, known = [], [], {}
    try:
        given = steps.inputs(work, trains=False)
        known = seen(given.train)
        stages, evaluations = steps.there(work, given)
    except ValueError as error:
        failure = failure or str(error)
    return ArmRun(
        run.arm.name, run.seed, run.settings, run.command, stages, evaluations, failure,
        known,
    )  # fmt: skip


def _track(found: comparison.Comparison, tracker: Tracker, parent: str) -> None:
    """A run for each arm and seed below the study's, with the same metric names in all."""
    for run in found.runs:
        values = {"arm": run.arm, **flat(run.settings)}
        with tracker.child_run(
            parent,
            f"{run.arm} seed {run.seed}",
            "evaluation",
            values,
            {"stagecraft.arm": run.arm, "stagecraft.failure": run.failure},
        ) as child:
            for step, metrics in comparison.history(found, run):
                child.log_metrics(metrics, step)


def _show(found: comparison.Comparison, shared: Sharing, written: Report) -> None:
    """The numbers in the terminal, and on the run's page in Prefect."""
    print(plain(terminal(found, shared)))
    print(f"\nreport: {written.html}")
    if FlowRunContext.get():
        create_markdown_artifact(
            written.markdown, key=f"study-{found.study.name.lower().replace('_', '-')}",
            description=found.study.question,
        )  # fmt: skip
        create_link_artifact(
            written.html.as_uri(), link_text="report", key="study-report",
            description=f"the report of {found.study.name}",
        )  # fmt: skip
