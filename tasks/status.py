"""What runs and stages lie in an output folder, and how far each is."""

from collections import Counter
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tasks import disk
from tasks.stages import experiment_of, holder, read_manifests
from trainer.records import read_records


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
        begun: Stages that it began. One shared with another experiment counts for the one that
            trained it.
        finished: Those of them that are finished.
        report: Its report's page, or "".
    """

    name: str
    seed: int | None
    begun: int
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
    begun = Counter((stage.experiment, stage.seed) for stage in stages)
    ended = Counter((s.experiment, s.seed) for s in stages if s.outcome == "finished")
    reports = {page.parent.name: page for page in output.glob("reports/*/report.html")}
    runs = [
        RunStatus(
            name or "unknown",
            seed,
            begun[name, seed],
            ended[name, seed],
            str(reports.pop(f"{name}-seed{seed}", "")),
        )
        for name, seed in begun
    ]
    for folder, page in reports.items():  # all of its stages were trained by others
        name, _, seed = folder.rpartition("-seed")
        runs.append(RunStatus(name, int(seed) if seed.isdigit() else None, 0, 0, str(page)))
    return Status(runs, stages, remarks)


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
