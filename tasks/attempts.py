"""The attempts at a stage as runs, from its manifest; and the metrics that each of them shows.

An attempt's run shows the stage from step 1 to where the attempt came, though it may have begun at
step k + 1: steps 1 to k are those of the attempts before it. So the run of the attempt that
finished is the stage's whole curve, each step once, and two stages are compared by these two runs.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tasks.journal import DEAD, Run
from tasks.labels import flat, lineage_tags
from tasks.stages import holder, moved_aside, name_before, read_manifest, stage_folders
from trainer.records import read_records

METRICS = "metrics.jsonl"


def attempt_id(manifest: Mapping[str, Any], index: int) -> str:
    """Id of an attempt's run; made up where nothing tracked the attempt."""
    tracked = manifest["attempts"][index].get("run")
    return tracked or f"{manifest['digest'][:12]}/{index + 1}"


def stage_tags(manifest: Mapping[str, Any], index: int) -> dict[str, str]:
    """Tags of an attempt's run."""
    return {
        **lineage_tags(
            config_digest=manifest["digest"],
            git_commit=manifest["environment"]["git_commit"],
            start_digest=manifest["identity"]["start"],
            first_step=str(manifest["attempts"][index]["first_step"]),
        ),
        "stagecraft.attempt": str(index + 1),
    }


def stage_params(manifest: Mapping[str, Any]) -> dict[str, Any]:
    """Settings of a stage, flat."""
    settings, shown = manifest["settings"], ("stage", "method", "selection", "seed")
    return flat({key: settings[key] for key in shown if key in settings})


def stage_runs(folder: Path, manifest: Mapping[str, Any], data: dict[str, Any]) -> list[Run]:
    """A run for each attempt at a stage, as its manifest tells of them.

    Args:
        folder: The stage's folder.
        manifest: Its `stage.json`.
        data: The prompt set, as `tasks.journal.described` gives it.
    """
    return [_attempt(folder, manifest, index, data) for index in range(len(manifest["attempts"]))]


def _attempt(folder: Path, manifest: Mapping[str, Any], index: int, data: dict) -> Run:
    attempts = manifest["attempts"]
    attempt = attempts[index]
    name = attempt_id(manifest, index)
    run = Run(
        name,
        "stage",
        manifest["name"],
        params=stage_params(manifest),
        tags=stage_tags(manifest, index),
        started=attempt["started"],
        ended=attempt.get("ended"),
        outcome=attempt["outcome"],
        reason=attempt.get("reason", ""),
        datasets=[data],
        attempt=name,
    )
    if run.outcome == "running" and (index + 1 < len(attempts) or not holder(folder)):
        times = [record.get("time", 0.0) for record in _kept(folder, attempts, index)]
        run.end("interrupted", DEAD, max([run.started, *times]))
    if run.outcome == "finished" and (folder / "checkpoint").is_dir():
        run.checkpoint = {
            "path": str(folder / "checkpoint"),
            "digest": manifest["checkpoint"]["digest"],
            "step": manifest["steps"],
        }
    return run


def records_of(output: Path, run: Run) -> list[dict[str, Any]]:
    """Metrics by step of a stage's run that has ended, as far as they are on disk.

    Steps that a later attempt made again are that attempt's; what MLflow got of them stays there.

    Raises:
        ValueError: the file is damaged.
    """
    ending = f"-{run.tags.get('stagecraft.config_digest', '')[:12]}"
    for folder in [*stage_folders(output), *moved_aside(output)]:
        if not run.attempt or not name_before(folder).endswith(ending):
            continue
        manifest, _ = read_manifest(folder)
        attempts = manifest["attempts"] if manifest else []
        for index in range(len(attempts)):
            if attempt_id(manifest, index) == run.attempt:
                return _kept(folder, attempts, index)
    return []


def _kept(folder: Path, attempts: list[dict], index: int) -> list[dict[str, Any]]:
    last = min((later["first_step"] - 1 for later in attempts[index + 1 :]), default=None)
    records = read_records(folder / METRICS)
    return [record for record in records if last is None or record["step"] <= last]
