"""What runs and stages lie in an output folder, and how far each is."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import disk
from tasks.journal import Journal, journals
from tasks.reports import PAGE, reports
from tasks.stages import experiment_of, holder, read_manifests
from trainer.records import read_records

Manifest = dict[str, Any]
NOT_TRAINED_BY = ("evaluation.", "output")
"""Settings that two runs which train the same stages may differ in."""


@dataclass(frozen=True)
class StageStatus:
    """A stage on disk.

    Attributes:
        folder: Name of its folder.
        experiment: Name of the experiment that trained it, "" if unknown.
        seed: Its seed, None if unknown.
        outcome: "finished", "running (process N)", "failed", "interrupted" (told to stop), "killed"
            (it went without a word), or "unknown" (no usable manifest).
        reason: First line of why it failed or what is wrong with it, or "".
        steps: Steps in its metrics.
        steps_asked: Steps that it is to make, None if unknown.
        reward: Mean reward of its last step, None without one.
        when: When its last attempt ended, or began if it has not ended; seconds since 1970.
        seconds: Wall time of all its attempts that have ended, None if none has.
        bytes: Size of its folder.
        checkpoint: "there", "gone" (a finished stage without), or "not yet".
    """

    folder: str
    experiment: str
    seed: int | None
    outcome: str
    reason: str
    steps: int
    steps_asked: int | None
    reward: float | None
    when: float | None
    seconds: float | None
    bytes: int
    checkpoint: str


@dataclass(frozen=True)
class RunStatus:
    """An experiment with one seed.

    Attributes:
        name: The experiment.
        seed: Its seed.
        stages: Stages of its curriculum, by the settings of its last run; None where no run is
            recorded.
        finished: Those of them that are there and finished, whoever trained them. Where no run is
            recorded: finished stages of this experiment by their place in a curriculum.
        report: Its report's page, or "".
    """

    name: str
    seed: int | None
    stages: int | None
    finished: int
    report: str


@dataclass(frozen=True)
class Status:
    """An output folder: its runs, its stages in order of time, and what is wrong with any."""

    runs: list[RunStatus]
    stages: list[StageStatus]
    remarks: list[str]


def status(output: Path | str) -> Status:
    """Read an output folder; nothing in it is changed but damaged manifests, kept aside."""
    output = Path(output).absolute()
    manifests, remarks = read_manifests(output)
    stages = [_stage(folder, manifest or {}) for folder, manifest in manifests.items()]
    stages.sort(key=lambda stage: (stage.when is None, stage.when, stage.folder))
    return Status(_runs(output, manifests, stages), stages, remarks)


def _runs(
    output: Path, manifests: Mapping[Path, Manifest | None], stages: Sequence[StageStatus]
) -> list[RunStatus]:
    """The experiments by seed: of stages, in order of time, then of runs and of reports alone."""
    whole = {folder: m for folder, m in manifests.items() if m and m["outcome"] == "finished"}
    digests = {manifest["digest"] for manifest in whole.values()}
    last, pages = _last_runs(output), {folder.name: folder / PAGE for folder in reports(output)}
    found = []
    for name, seed in dict.fromkeys([*((s.experiment, s.seed) for s in stages), *last]):
        if run := last.get((name, seed)):
            total, finished = len(run.stages), sum(run.made.get(s) in digests for s in run.stages)
        else:
            mine = [m for f, m in whole.items() if experiment_of(f, m) == (name, seed)]
            total, finished = None, len({manifest.get("position") for manifest in mine})
        page = pages.pop(f"{name}-seed{seed}", "")
        found.append(RunStatus(name or "unknown", seed, total, finished, str(page)))
    for folder, page in pages.items():
        name, _, seed = folder.rpartition("-seed")
        found.append(RunStatus(name, int(seed) if seed.isdigit() else None, None, 0, str(page)))
    return found


@dataclass
class _LastRun:
    """Settings of a run that trains, names of its stages, and by name the digests of those made."""

    settings: dict[str, Any]
    stages: list[str]
    made: dict[str, str]


def _last_runs(output: Path) -> dict[tuple[str, int], _LastRun]:
    """The last run of each experiment and seed that trained, or was to."""
    found: dict[tuple[str, int], _LastRun] = {}
    for folder in journals(output):
        try:
            journal = Journal.read(folder)
        except (ValueError, OSError):  # its stages are there to see all the same
            continue
        params, made = journal.run.params, {}
        for child in journal.children:
            if child.kind == "stage":
                made[child.name] = child.tags.get("stagecraft.config_digest", "")
        name, seed = params.get("name"), params.get("seed")
        if not made and journal.run.name != f"{name} seed {seed}":
            continue  # it scored, reported or looked at data
        stages = [params[key] for key in params if re.fullmatch(r"stages\.\d+\.name", key)]
        settings = {key: params[key] for key in params if not key.startswith(NOT_TRAINED_BY)}
        if (before := found.get((name, seed))) and before.settings == settings:
            made = before.made | made  # one stage after another, each by a run of its own
        found[name, seed] = _LastRun(settings, stages, made)
    return found


def _stage(folder: Path, manifest: dict[str, Any]) -> StageStatus:
    outcome, reason = _outcome(folder, manifest)
    experiment, seed = experiment_of(folder, manifest)
    last, steps = _progress(folder)
    attempts = manifest.get("attempts") or [{}]
    took = [a["ended"] - a["started"] for a in attempts if "ended" in a and "started" in a]
    there = (folder / "checkpoint").is_dir()
    return StageStatus(
        folder=folder.name,
        experiment=experiment,
        seed=seed,
        outcome=outcome,
        reason=reason,
        steps=steps,
        steps_asked=manifest.get("identity", {}).get("stage", {}).get("steps"),
        reward=last.get("reward/mean"),
        when=attempts[-1].get("ended", attempts[-1].get("started")),
        seconds=sum(took) if took else None,
        bytes=disk.size(folder),
        checkpoint="there" if there else "gone" if outcome == "finished" else "not yet",
    )


def _outcome(folder: Path, manifest: dict[str, Any]) -> tuple[str, str]:
    said = manifest.get("outcome", "unknown")
    owner = holder(folder)
    if owner and said != "finished":  # a finished one is held for a moment while it is looked at
        return f"running (process {owner})", ""
    if said == "running":
        return "killed", "its process went without a word; a run goes on from its last checkpoint"
    reason = manifest["attempts"][-1].get("reason", "") if manifest.get("attempts") else ""
    return said, reason.partition("\n")[0]


def _progress(folder: Path) -> tuple[dict[str, Any], int]:
    """The last record of a stage's metrics, and how many there are; none where they are damaged."""
    try:
        records = read_records(folder / "metrics.jsonl")
    except ValueError:
        return {}, 0
    return (records[-1] if records else {}), len(records)
