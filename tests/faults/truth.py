"""What must hold of an output folder, whatever happened to the runs that wrote it."""

import json
import re
from collections.abc import Callable
from pathlib import Path

import pyarrow.parquet as pq
from safetensors.torch import load_file

from tasks.artifacts import folder_digest
from trainer.records import read_records
from trainer.selection.cursor import Cursor

Sampler = Callable[[Path, int, int, int], list[list[str]]]


def stage_folders(output: Path) -> list[Path]:
    """Folders of stages, those moved aside left out."""
    found = (output / "stages").glob("*-*")
    return sorted(path for path in found if path.is_dir() and ".old-" not in path.name)


def recorded_steps(output: Path) -> dict[str, int]:
    """Steps that each stage has recorded whole, by its folder's name."""
    return {
        folder.name: len(read_records(folder / "metrics.jsonl")) for folder in stage_folders(output)
    }


def finished_stages(output: Path) -> dict[str, int]:
    """Attempts of each finished stage, by its folder's name: what is finished is not done again."""
    found = {}
    for folder in stage_folders(output):
        manifest = folder / "stage.json"
        if manifest.is_file():
            read = json.loads(manifest.read_text())
            if read["outcome"] == "finished":
                found[folder.name] = len(read["attempts"])
    return found


def prompts_in_order(folder: Path, seed: int, batch: int, steps: int) -> list[list[str]]:
    """Ids of the prompts of each step, as uniform sampling draws them from the stage's seed."""
    rows = pq.read_table(folder / "prompts.parquet")["extra_info"].to_pylist()
    cursor = Cursor(len(rows), seed)
    steps_of_ids = []
    for _ in range(steps):
        drawn: list[int] = []
        for _ in range(batch):
            drawn.append(cursor.next(drawn))
        steps_of_ids.append([rows[index]["id"] for index in drawn])
    return steps_of_ids


def faults_of(output: Path, *, sampler: Sampler = prompts_in_order) -> list[str]:
    """What is not as it must be in an output folder; empty if all is well.

    Args:
        output: The output folder.
        sampler: Gives each step's prompts from folder, seed, batch size and number of steps.
    """
    found = []
    for folder in stage_folders(output):
        found += [f"{folder.name}: {fault}" for fault in _faults_of_stage(folder, sampler)]
    for folder in (output / "evaluations").glob("[!.]*"):
        found += [f"{folder.name}: {fault}" for fault in _faults_of_evaluation(folder)]
    return found


def _faults_of_stage(folder: Path, sampler: Sampler) -> list[str]:
    if not (folder / "stage.json").is_file():  # killed before it was begun
        return ["a checkpoint without a manifest"] if (folder / "checkpoint").exists() else []
    manifest = json.loads((folder / "stage.json").read_text())
    metrics = read_records(folder / "metrics.jsonl")
    found = []
    steps = [record["step"] for record in metrics]
    if steps != list(range(1, len(steps) + 1)):
        found.append(f"steps recorded: {steps}")
    drawn = [record["prompts"] for record in read_records(folder / "order.jsonl")]
    # A step's prompts are written before its metrics: a kill between the two leaves one more.
    if not len(metrics) <= len(drawn) <= len(metrics) + 1:
        found.append(f"{len(metrics)} steps recorded, and the prompts of {len(drawn)}")
    batch, seed = manifest["identity"]["stage"]["batch_size"], manifest["identity"]["seed"]
    expected = sampler(folder, seed, batch, len(drawn))
    wrong = [i + 1 for i, (a, b) in enumerate(zip(drawn, expected, strict=True)) if a != b]
    if wrong:
        found.append(f"prompts skipped or repeated at steps {wrong}")
    firsts = [attempt["first_step"] for attempt in manifest["attempts"]]
    if firsts != sorted(firsts):
        found.append(f"attempts began at steps {firsts}: work was lost")
    if manifest["outcome"] == "finished":
        found += _faults_of_finished(folder, manifest, len(metrics), len(drawn))
    return found


def _faults_of_finished(folder: Path, manifest: dict, steps: int, drawn: int) -> list[str]:
    found = []
    asked = manifest["identity"]["stage"]
    checkpoint = folder / "checkpoint"
    if folder_digest(checkpoint) != manifest["checkpoint"]["digest"]:
        found.append("finished, but its checkpoint is not what its manifest says")
    if manifest["checkpoint"]["path"] != str(checkpoint):
        found.append(f"its checkpoint lies at {manifest['checkpoint']['path']}")
    made = manifest["steps"] if manifest["ended_by"] == "transition" else asked["steps"]
    wanted = {
        "steps": made,
        "updates": made * (asked["batch_size"] // asked["mini_batch_size"]),
        "prompts": made * asked["batch_size"],
        "rollouts": made * asked["batch_size"] * asked["group_size"],
    }
    counted = {name: manifest["counters"][name] for name in wanted}
    if counted != wanted or (steps, drawn) != (wanted["steps"], wanted["steps"]):
        found.append(f"counted {counted} in {steps} records, {drawn} of prompts, needed {wanted}")
    for weights in checkpoint.glob("*.safetensors"):
        numbers = load_file(weights)
        if not numbers or not all(tensor.isfinite().all() for tensor in numbers.values()):
            found.append(f"{weights.name} holds no numbers")
    return found


def _faults_of_evaluation(folder: Path) -> list[str]:
    manifest = folder / "evaluation.json"
    if not manifest.is_file():
        return ["no manifest in a folder that appeared whole"]
    read = json.loads(manifest.read_text())
    correct = pq.read_table(folder / "responses.parquet")["correct"].to_pylist()
    wanted = read["problems"] * read["sampling"]["samples"]
    if len(correct) != wanted:
        return [f"{len(correct)} responses, needed {wanted}"]
    if abs(sum(correct) / wanted - read["metrics"]["avg_at_k"]) > 1e-9:
        return ["its score is not that of its responses"]
    return []


def resumed(text: str) -> str:
    """What a run said of where it went on, for the table."""
    found = re.findall(r"stage (\d)/\d \S+ +(resumes after step \d+|already trained)", text)
    return ", ".join(f"stage {stage} {what}" for stage, what in dict.fromkeys(found)) or "started"
