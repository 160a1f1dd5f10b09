"""Train one stage: safe to run again, and finished only when its checkpoint was loaded back."""

import os
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from conf import telemetry
from conf.schema import Experiment, Stage
from tasks.artifacts import Dataset, digest_of, read_json, write_json
from tasks.attempts import stage_params, stage_tags
from tasks.ledger import write_ledger
from tasks.machine import environment
from tasks.model import Checkpoint
from tasks.progress import StageProgress
from tasks.stages import (
    MANIFEST,
    ended_early,
    finished,
    held,
    identity,
    read_manifest,
)
from tasks.track import Tracker
from tasks.weights import read_digest
from trainer.backend import surroundings
from trainer.backend.ahead import LOG, begin_ahead, end_ahead
from trainer.backend.endings import alarm_of
from trainer.backend.launch import StageFailedError, launch
from trainer.backend.prompts import write_prompts
from trainer.backend.resume import resume_after, saved_optimizer
from trainer.backend.settings import settings
from trainer.checkpoint import has_weights
from trainer.records import read_records
from trainer.transitions import ended

_BRING_BACK = "bring the model back there, or set reference=start"


def train_stage(
    experiment: Experiment,
    position: int,
    data: Dataset,
    start: Checkpoint,
    tracker: Tracker,
    parent_run: str,
) -> dict[str, Any]:
    """Train stage `position` from `start`, or find it trained.

    A finished stage returns at once. An interrupted one resumes from its last whole checkpoint.

    Args:
        experiment: The experiment.
        position: Which of its stages, from 0.
        data: The prompt set to train on.
        start: The checkpoint to begin from.
        tracker: Where its run is kept.
        parent_run: The pipeline's run.

    Returns:
        The stage's manifest (`stage.json`), with `folder` and `position` added.

    Raises:
        ValueError: `start`, or the reference policy that is kept, is not what it was.
        StageFailedError: the trainer failed, collapsed, or made fewer steps than asked without
            reason.
        StalledError: the trainer made no progress for too long.
    """
    stage = experiment.stages[position]
    what = identity(experiment, stage, data.digest, start.digest, start.upstream)
    output = Path(experiment.output).absolute()
    with held(output, stage.name, digest_of(what)) as folder:
        manifest = finished(folder)
        if manifest is None:
            with start.held("another run made it anew, so run this one again"):
                manifest = _train(
                    experiment, position, data, start, folder, what, tracker, parent_run
                )
        else:
            print(f"{_label(experiment, position)}  already trained: {folder}")
            before = _steps_before(experiment, position, start)
            tracker.found_stage(parent_run, stage.name, folder, manifest, data, before)
    # Under another name it may have been trained for another experiment.
    return {**manifest, "name": stage.name, "folder": folder, "position": position}


def begin(experiment: Experiment) -> None:
    """Let what a stage starts with begin: its trainer waits for `train_stage`, or ends with us.

    Only where the trainer uses a CPU and has a Ray of its own.
    """
    hardware = experiment.hardware
    joins = hardware.ray_address or os.environ.get("RAY_ADDRESS")
    if hardware.device == "cpu" and not joins:
        begin_ahead(
            surroundings.ray_settings(hardware, experiment.method),
            _variables(experiment),
            hardware.stop_grace,
        )


def end_begun() -> None:
    """End what `begin` began and no stage has taken."""
    end_ahead()


def _variables(experiment: Experiment) -> dict[str, str]:
    flags = surroundings.environment(experiment.hardware, experiment.method)
    return {**flags, **telemetry.OFF}


def _train(
    experiment: Experiment,
    position: int,
    data: Dataset,
    start: Checkpoint,
    folder: Path,
    what: Mapping[str, Any],
    tracker: Tracker,
    parent_run: str,
) -> dict[str, Any]:
    """Train a stage in `folder`, which this process holds, from where it was left."""
    stage, hardware = experiment.stages[position], experiment.hardware
    reference, optimizer = kept(stage, start)
    saved = resume_after(folder)
    label = _label(experiment, position)
    if saved:
        print(f"{label}  resumes after step {saved}")
    prompts = folder / "prompts.parquet"
    write_prompts(data.table(), prompts)
    values = settings(
        experiment,
        position,
        start=start.path,
        prompts=prompts,
        folder=folder,
        optimizer_from=optimizer,
        reference=Path(reference["path"]) if stage.reference == "keep" else None,
    )
    before, _ = read_manifest(folder)
    attempts = [_ended(attempt, folder) for attempt in before["attempts"]] if before else []
    attempt = {"started": time.time(), "first_step": saved + 1, "outcome": "running"}
    manifest = _manifest(experiment, position, data, start, what) | {
        "reference": reference,
        "attempts": [*attempts, attempt],
        "engine": {
            "settings": values,
            "environment": surroundings.environment(hardware, experiment.method),
        },
    }
    with (
        Checkpoint(Path(reference["path"]), reference["digest"]).held(_BRING_BACK),
        _at_work(manifest, folder),
        tracker.child_run(
            parent_run,
            stage.name,
            "stage",
            stage_params(manifest),
            stage_tags(manifest, len(attempts)),
            [data],
            folder=folder,
            first_step=saved + 1,
            steps_before=_steps_before(experiment, position, start),
        ) as run,
    ):
        attempt["run"] = run.id
        write_json(folder / MANIFEST, manifest)
        line = StageProgress(label, stage.steps)

        def on_step(record: dict) -> None:
            run.log_step(record)
            print(line.after(record))

        launch(
            folder,
            values,
            _variables(experiment),
            first_step=saved + 1,
            on_step=on_step,
            stall_timeout=hardware.stall_timeout,
            stop_grace=hardware.stop_grace,
            warm=hardware.device == "cpu",
        )
        manifest |= _outcome(folder, stage)
        write_ledger(folder)
        run.log_checkpoint(
            folder / "checkpoint", manifest["checkpoint"]["digest"], step=manifest["steps"]
        )
        if early := ended_early(manifest):
            print(f"{label}  {early}")
        attempt["outcome"] = manifest["outcome"] = "finished"
        _write_end(manifest, folder)  # before MLflow is told, which may take long or be broken off
    return manifest


def _manifest(
    experiment: Experiment,
    position: int,
    data: Dataset,
    start: Checkpoint,
    what: Mapping[str, Any],
) -> dict[str, Any]:
    """What is known of a stage before its trainer starts."""
    stage = experiment.stages[position]
    return {
        "kind": "stage",
        "name": stage.name,
        "digest": digest_of(what),
        "identity": what,
        "position": position,
        "experiment": {"name": experiment.name, "seed": experiment.seed},
        "settings": {
            "stage": stage.model_dump(mode="json"),
            "method": experiment.method.model_dump(mode="json"),
            "selection": experiment.selection.model_dump(mode="json"),
            "reward": experiment.reward.model_dump(mode="json"),
            "hardware": experiment.hardware.model_dump(mode="json"),
            "seed": experiment.seed,
        },
        "data": {"name": data.name, "digest": data.digest, "rows": data.rows},
        "start": {"path": str(start.path), "digest": start.digest},
        "environment": environment(),
        "outcome": "running",
    }


@contextmanager
def _at_work(manifest: dict[str, Any], folder: Path) -> Iterator[None]:
    """Keep a stage's manifest on disk true: at work now, and how its last attempt ended after.

    One that says it has finished has, whatever happens to those who are told of it.
    """
    attempt = manifest["attempts"][-1]
    write_json(folder / MANIFEST, manifest)
    try:
        yield
    except BaseException as error:
        if attempt["outcome"] != "finished":
            # Ctrl-C, or a run that was cancelled, is a wish and not a failure.
            outcome = "failed" if isinstance(error, Exception) else "interrupted"
            attempt["outcome"] = manifest["outcome"] = outcome
        if attempt["outcome"] == "failed":
            attempt["reason"] = str(error)
            if alarm := alarm_of(folder):
                attempt["alarm"] = alarm
        raise
    finally:
        _write_end(manifest, folder)


def _write_end(manifest: dict[str, Any], folder: Path) -> None:
    attempt = manifest["attempts"][-1]
    # Not before it began, though the clock be set back while it trains.
    attempt.setdefault("ended", max(time.time(), attempt["started"]))
    manifest["wall_seconds"] = sum(
        a.get("ended", a["started"]) - a["started"] for a in manifest["attempts"]
    )
    write_json(folder / MANIFEST, manifest)


def _ended(attempt: dict[str, Any], folder: Path) -> dict[str, Any]:
    """An attempt as it ended. One that still says `running` was killed: we hold the lock now."""
    if attempt["outcome"] != "running":
        return attempt
    log = folder / LOG
    last = log.stat().st_mtime if log.exists() else attempt["started"]
    return {**attempt, "outcome": "killed", "ended": max(last, attempt["started"])}


def kept(stage: Stage, start: Checkpoint) -> tuple[dict[str, str], Path | None]:
    """What a stage takes over of the one before, beside its checkpoint.

    Returns:
        The reference policy, as path and digest, and verl's folder with the optimizer, if carried.

    Raises:
        ValueError: it is not there (any more).
    """
    own = {"path": str(start.path), "digest": start.digest}
    if stage.optimizer == "fresh" and stage.reference == "start":
        return own, None
    maker = start.maker
    if maker is None:
        raise ValueError(
            f"{stage.name} is to take over the optimizer or reference of the stage before, but no "
            f"stage made {start.path}\n\nhint: set optimizer=fresh and reference=start"
        )
    reference = own if stage.reference == "start" else maker["reference"]
    if not has_weights(Path(reference["path"])):
        raise ValueError(
            f"{reference['path']}, the reference policy that {stage.name} keeps, has no weights\n\n"
            f"hint: {_BRING_BACK}"
        )
    if stage.optimizer == "fresh":
        return reference, None
    return reference, saved_optimizer(start.path.parent / "verl", maker["steps"])


def _outcome(folder: Path, stage: Stage) -> dict[str, Any]:
    """What a stage that ended well says of itself.

    Fewer steps than asked are an error, unless the same records say that its transition held.
    """
    records = read_records(folder / "metrics.jsonl")
    ending = ended(records, stage.transition.model_dump(), stage.steps)
    steps = ending.step if ending else stage.steps
    if [record["step"] for record in records] != list(range(1, steps + 1)):
        raise StageFailedError(
            f"{folder / 'metrics.jsonl'} holds {len(records)} steps, needed 1 to {steps}, "
            "each once\n\nhint: move the stage's folder away and run it again"
        )
    counted = ("updates", "prompts", "rollouts", "tokens/generated", "tokens/trained")
    # Stages of before the ledger did not count orders to the engine.
    counted += ("generation_calls",) if "generation_calls" in records[0] else ()
    totals = {name.replace("/", "_"): sum(r[name] for r in records) for name in counted}
    checkpoint = folder / "checkpoint"
    return {
        "checkpoint": {"path": str(checkpoint), "digest": read_digest(checkpoint)},
        "handoff": read_json(checkpoint / "handoff.json"),
        "steps": steps,
        "ended_by": "transition" if ending else "steps",
        "evidence": ending.as_json() if ending else [],
        "counters": {"steps": steps, **{k: int(v) for k, v in totals.items()}},
        "seconds": sum(record["seconds/step"] for record in records),
    }


def _steps_before(experiment: Experiment, position: int, start: Checkpoint) -> int:
    """Steps that the stages before made: fewer than asked where a transition ended one."""
    steps, path = 0, start.path
    for earlier in reversed(experiment.stages[:position]):
        made, _ = read_manifest(path.parent)
        steps += made["steps"] if made and "steps" in made else earlier.steps
        path = Path(made["start"]["path"]) if made else path
    return steps


def _label(experiment: Experiment, position: int) -> str:
    return f"stage {position + 1}/{len(experiment.stages)} {experiment.stages[position].name}"
