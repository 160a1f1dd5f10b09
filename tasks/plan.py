"""What running an experiment would do, and why, without running anything.

Each stage is compared with what is on disk by its identity, field by field. A stage that starts
from one still to be trained has no digest yet: all but its start is compared.
"""

from collections.abc import Callable, Collection, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from conf.schema import Experiment, Selection, Stage
from tasks import disk, preflight, preflight_machine, preflight_method
from tasks.amounts import amounts, endings
from tasks.artifacts import Dataset, digest_of, rows_digest
from tasks.differences import Change, differences, explained
from tasks.download import downloaded
from tasks.model import Checkpoint, local_folder
from tasks.prepare import comparison_sources, prepared_there
from tasks.segment import left, pass_rates_in
from tasks.stages import ended_early, holder, identity, judged, read_manifests, stage_folder
from trainer.backend import settings as verl_settings
from trainer.backend.resume import last_whole_step

CACHED, RUNNING, RESUME, TO_RUN = "cached", "running", "resume", "to run"


@dataclass
class StagePlan:
    """What would become of one stage.

    Attributes:
        name: The stage.
        position: Its index, from 0.
        state: "cached" (finished and whole), "running" (a process trains it now), "resume" (from
            its last whole checkpoint), or "to run".
        after_step: Step of the last whole checkpoint, 0 without one.
        digest: Digest of its identity; None while data or start are not known.
        folder: Where it lies or will lie; None while the digest is not known.
        held_by: Process that holds it now, or "".
        nearest: The earlier stage of the same name that differs in the fewest fields, or "".
        changes: In what it differs from that one.
        why: Reasons in sentences.
        expected: Of the whole stage, if nothing ends it early: steps, updates, prompts, rollouts,
            `tokens_at_most`, rollouts times the longest response, and `steps_at_128`.
        left: The same, of what is still to do.
        may_end: What may end it before its last step, in a sentence, or "".
        alarm: What stops it as collapsed beside values that are no numbers, or "".
        settings: Every setting that verl gets, under verl's names; the others are verl's defaults.
            Empty where ours are refused.
        disk_bytes: What its checkpoints take, in bytes: what is there of a cached one; None while
            the model is not on this machine.
        disk_to_come: What of it is not there yet, in bytes.
    """

    name: str
    position: int
    state: str = TO_RUN
    after_step: int = 0
    digest: str | None = None
    folder: str | None = None
    held_by: str = ""
    nearest: str = ""
    changes: list[Change] = field(default_factory=list)
    why: list[str] = field(default_factory=list)
    expected: dict[str, float] = field(default_factory=dict)
    left: dict[str, float] = field(default_factory=dict)
    may_end: str = ""
    alarm: str = ""
    settings: dict[str, Any] = field(default_factory=dict)
    disk_bytes: int | None = None
    disk_to_come: int | None = None

    @property
    def reasons(self) -> list[str]:
        """Why that becomes of it, in lines; in what it differs from what is there, if anything."""
        lines = list(self.why)
        if self.changes:
            lines.append(f"differs from {self.nearest} in:")
        for change in self.changes:
            remark = f" ({change.remark})" if change.remark else ""
            lines.append(f"  {change.field}: {change.before} -> {change.after}{remark}")
        return lines


@dataclass(frozen=True)
class Plan:
    """What would become of an experiment.

    Attributes:
        experiment: Its name.
        seed: Its seed.
        output: Its output folder.
        stages: One plan for each stage, in order.
        left: Sums of what is still to do.
        disk_to_come: Bytes that checkpoints will still take; None while the model is not here.
        disk_free: Bytes free where they go.
        refused: Why the pipeline would not start, or "".
        remarks: What else was noticed, such as damaged manifests.
        notes: Where the sources of a recipe disagree, and what holds here.
    """

    experiment: str
    seed: int
    output: str
    stages: list[StagePlan]
    left: dict[str, float]
    disk_to_come: int | None
    disk_free: int
    refused: str
    remarks: list[str]
    notes: dict[str, str]


def plan(experiment: Experiment) -> Plan:
    """What `flows.pipeline` would train, resume or find done.

    Nothing is downloaded or trained. A manifest that is damaged is set aside, as a run would do.
    """
    output = Path(experiment.output).absolute()
    unsound = _refusal(preflight.check_settings, experiment)
    refused = unsound or _refusal(preflight_machine.check_machine, experiment.hardware)
    data, no_data = _prompt_sets(experiment, output)
    start, no_start, parameters = _base(experiment)
    manifests, remarks = read_manifests(output)
    earlier = {folder: manifest for folder, manifest in manifests.items() if manifest}
    makers = {start.digest: f"the base model {experiment.model.path}"} if start else {}
    makers |= {
        manifest["checkpoint"]["digest"]: folder.name
        for folder, manifest in earlier.items()
        if manifest["outcome"] == "finished"
    }
    begins, plans = start.digest if start else "", []
    for position, stage in enumerate(experiment.stages):
        before = plans[-1] if plans else None
        planned = _stage_plan(stage, position, experiment.selection)
        prompts, no_prompts = _prompts(data, stage, before)
        planned.why += [reason for reason in (no_data, no_prompts, no_start) if reason]
        upstream = (before.digest or "") if before else ""
        what = identity(experiment, stage, prompts, begins, upstream)
        unknown = [name for name in ("data", "start") if not what[name]]
        begins = "" if unknown else _look(planned, stage, output, digest_of(what))
        if planned.folder is None or not Path(planned.folder).is_dir():
            _explain(planned, what, unknown, earlier, makers)
        _count_disk(planned, stage, experiment.selection, parameters)
        if not unsound:  # verl's sizes are quotients of ours, which may not come out even
            planned.settings = _engine_settings(experiment, planned, before)
        plans.append(planned)
        no_start = "" if begins else f"start: stage {position + 1}, {stage.name}, to be trained"
    to_come = [planned.disk_to_come for planned in plans]
    return Plan(
        experiment.name,
        experiment.seed,
        experiment.output,
        plans,
        {name: sum(planned.left[name] for planned in plans) for name in plans[0].left},
        None if None in to_come else sum(to_come),
        disk.room(output),
        refused,
        [*preflight_method.warnings(experiment), *remarks],
        experiment.notes,
    )


def _refusal(check: Callable[[Any], None], given: Any) -> str:
    """Why a check refuses what it is given, or ""."""
    try:
        check(given)
    except ValueError as error:
        return str(error)
    return ""


def _stage_plan(stage: Stage, position: int, selection: Selection) -> StagePlan:
    """What is known of a stage from its settings."""
    may_end, alarm = endings(stage)
    expected = amounts(stage, stage.steps, selection)
    return StagePlan(stage.name, position, expected=expected, may_end=may_end, alarm=alarm)


def data_folders(experiment: Experiment) -> set[Path]:
    """Folders of those of an experiment's data sets that are on disk."""
    output, data = Path(experiment.output).absolute(), experiment.data
    sources = (data.train, *comparison_sources(experiment))
    found = [downloaded(source, data, output) for source in sources]
    with suppress(ValueError):  # without the model nothing more can be told
        there = prepared_there(experiment, output)
        found += [there.kept, *there.segments.values()] if there else []
    return {dataset.folder for dataset in found if dataset}


def _prompt_sets(experiment: Experiment, output: Path) -> tuple[dict[str, Dataset], str]:
    """The prompt sets by name, or none and why."""
    name = experiment.data.train.name
    try:
        train = downloaded(experiment.data.train, experiment.data, output)
        if train is None:
            return {}, f"data: the prompt sets of {name} are not there yet"
        ready = prepared_there(experiment, output)
    except ValueError as error:
        return {}, f"data: {str(error).splitlines()[0]}"
    if ready is None:
        return {}, f"data: the prompt sets of {name} are not divided yet"
    return ready.segments, ""


def _prompts(
    data: Mapping[str, Dataset], stage: Stage, before: StagePlan | None
) -> tuple[str, str]:
    """Digest of the prompts of a stage; or "" and, where the data is there, why not."""
    if stage.prompts not in data:
        return "", ""
    if stage.drop_solved is None and stage.drop_hopeless is None:
        return data[stage.prompts].digest, ""
    if before is None or before.state != CACHED:
        return "", "data: the stage before decides which prompts are left"
    try:
        rates = pass_rates_in(before.folder)
        return rows_digest(left(data[stage.prompts], stage, rates)), ""
    except ValueError as error:
        return "", f"data: {str(error).splitlines()[0]}"


def _base(experiment: Experiment) -> tuple[Checkpoint | None, str, int | None]:
    """The starting model where it is on this machine, else why not; and its parameters."""
    try:
        folder = local_folder(experiment.model, offline=True)
        return Checkpoint.of(folder), "", disk.parameters(folder)
    except ValueError as error:
        if experiment.model.path == "lab" or Path(experiment.model.path).is_dir():
            return None, f"start: {str(error).splitlines()[0]}", None
        return None, f"start: {experiment.model.path} is not on this machine yet", None


def _look(planned: StagePlan, stage: Stage, output: Path, digest: str) -> str:
    """Fill in what is on disk under a stage's digest; the digest of its checkpoint, or ""."""
    folder = stage_folder(output, stage.name, digest)
    planned.digest, planned.folder = digest, str(folder)
    manifest, complaint = judged(folder)
    try:
        planned.after_step = last_whole_step(folder)
    except ValueError as error:
        planned.why.append(f"what the trainer saved or recorded there is damaged: {error}")
    if manifest:
        planned.state = CACHED
        planned.why += [f"trained already: {folder.name}", *filter(None, [ended_early(manifest)])]
        return manifest["checkpoint"]["digest"]
    if complaint:
        planned.why.append(complaint)
    planned.held_by = holder(folder)
    if planned.held_by:
        planned.state = RUNNING
        planned.why.append(f"process {planned.held_by} is training it now; a run would wait")
    elif planned.after_step:
        planned.state = RESUME
        planned.why.append(f"its last whole checkpoint is of step {planned.after_step}")
    elif folder.is_dir():
        planned.why.append("it was started, but ended before its first complete checkpoint")
    return ""


def _explain(
    planned: StagePlan,
    what: Mapping[str, Any],
    unknown: Collection[str],
    earlier: Mapping[Path, Mapping[str, Any]],
    makers: Mapping[str, str],
) -> None:
    """Compare with the nearest stage of the same name: fewest differences, then the latest."""
    candidates = [
        (len(changes), -_began(manifest), folder.name, changes)
        for folder, manifest in earlier.items()
        if manifest["name"] == planned.name
        for changes in [differences(manifest["identity"], what, unknown)]
    ]
    if not candidates:
        planned.why.append("no stage of this name was trained before")
        return
    _, _, planned.nearest, changes = min(candidates, key=lambda found: found[:3])
    planned.changes = [explained(change, makers) for change in changes]
    if not changes:
        planned.why.append(
            f"matches {planned.nearest} in all that is known yet: used again if it gets "
            f"the same {' and '.join(unknown)}"
        )


def _engine_settings(
    experiment: Experiment, planned: StagePlan, before: StagePlan | None
) -> dict[str, Any]:
    """verl's settings of a stage. Folders that are not known yet have their names in < >."""
    folder = Path(planned.folder or f"<{planned.name}>")
    start = Path(experiment.model.path)
    if before:
        start = Path(before.folder or f"<{before.name}>") / "checkpoint"
    stage = experiment.stages[planned.position]
    return verl_settings.settings(
        experiment,
        planned.position,
        start=start,
        prompts=folder / "prompts.parquet",
        folder=folder,
        optimizer_from=start.with_name("verl") if stage.optimizer == "carry" else None,
        reference=Path("<reference of the stage before>") if stage.reference == "keep" else None,
    )


def _began(manifest: Mapping[str, Any]) -> float:
    return manifest["attempts"][-1].get("started", 0.0) if manifest["attempts"] else 0.0


def _count_disk(
    planned: StagePlan, stage: Stage, selection: Selection, parameters: int | None
) -> None:
    done = {CACHED: stage.steps, TO_RUN: 0}.get(planned.state, planned.after_step)
    planned.left = amounts(stage, max(0, stage.steps - done), selection)
    folder = Path(planned.folder) if planned.folder else None
    if planned.state == CACHED:
        planned.disk_bytes, planned.disk_to_come = disk.size(folder), 0
    elif parameters is not None:
        planned.disk_bytes = disk.checkpoint_bytes(stage, parameters)
        planned.disk_to_come = disk.to_come(stage, parameters, folder)
