"""What a run came to, as numbers: read from the folders it left, not yet laid out.

Rows are plain dictionaries, so that the page, the tables, the terminal and summary.json show
the same ones. Shares are fractions, lengths tokens, times seconds; None is "not recorded".
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq

from conf.schema import Experiment
from tasks.artifacts import Dataset
from tasks.evaluations import undecided
from tasks.stages import ended_early
from tasks.words import things
from trainer import metrics
from trainer.records import read_records

COSTS = ("updates", "prompts", "rollouts", "tokens_generated", "tokens_trained")
PARTS = ("generate", "old_log_prob", "update", "weights")
"""What a step's seconds go to; the rest is `other`."""


@dataclass(frozen=True)
class Responses:
    """Graded responses of one evaluation.

    Attributes:
        ids: [N] problem ids, sorted.
        correct: [N, K] bool.
        truncated: [N, K] bool.
        tokens: [N, K] lengths.
    """

    ids: list[str]
    correct: np.ndarray
    truncated: np.ndarray
    tokens: np.ndarray


def read_steps(folder: Path | str) -> list[dict[str, float]]:
    """The metrics of a stage's steps, in order of steps.

    A step that was made again after an interruption counts once, as made last. A last line that
    was cut off by a kill is left out.

    Raises:
        ValueError: the file was damaged.
    """
    path = Path(folder) / "metrics.jsonl"
    steps = {record["step"]: record for record in read_records(path)}
    for step, record in steps.items():
        wrong = [name for name, value in record.items() if not isinstance(value, int | float)]
        if wrong:
            raise ValueError(
                f"step {step} of {path} has {wrong[0]} {str(record[wrong[0]])[:40]}, needed a "
                f"number\n\nhint: move {path.parent} away; the stage is trained again"
            )
    return [steps[step] for step in sorted(steps)]


def read_responses(folder: Path | str) -> Responses:
    """The graded responses of an evaluation, as matrices of problems by samples.

    Raises:
        ValueError: when problems have different numbers of samples, or there are none.
    """
    path = Path(folder) / "responses.parquet"
    table = pq.read_table(path, columns=["id", "sample", "tokens", "truncated", "correct"])
    ids, rows, counts = np.unique(
        np.asarray(table["id"].to_pylist(), dtype=object), return_inverse=True, return_counts=True
    )
    if len(set(counts.tolist())) != 1:
        found = f"{counts.min()} to {counts.max()}" if len(counts) else "no"
        raise ValueError(
            f"{path} has {found} responses per problem, needed as many for each\n\n"
            "hint: delete the evaluation's folder and evaluate again"
        )
    order = np.lexsort((table["sample"].to_numpy(), rows))
    correct, truncated, tokens = (
        table[column].to_numpy()[order].reshape(len(ids), counts[0])
        for column in ("correct", "truncated", "tokens")
    )
    return Responses([str(id) for id in ids], correct, truncated, tokens)


def stage_rows(experiment: Experiment, stages: Sequence[dict]) -> list[dict[str, Any]]:
    """One row per stage: what it was, what it did, what it cost, in the order of training.

    A stage is the one at its position: it may have been trained by an experiment that calls it
    something else.
    """
    settings = dict(enumerate(experiment.stages))
    rows = []
    first_step = 0
    for stage in sorted(stages, key=lambda stage: stage["position"]):
        steps = read_steps(stage["folder"]) if "folder" in stage else []
        given = settings.get(stage["position"])
        counters = stage.get("counters") or {}
        made = counters.get("steps", stage.get("steps")) or 0
        seconds = {part: _total(steps, f"seconds/{part}") for part in PARTS}
        known = sum(value for value in seconds.values() if value is not None)
        total = stage.get("seconds")
        rows.append(
            {
                "name": given.name if given else stage["name"],
                "position": stage["position"],
                "prompt_set": given.prompts if given else None,
                "context_length": given.context_length if given else None,
                "first_step": first_step,
                "steps": made,
                **{key: counters.get(key) for key in COSTS},
                "seconds": total,
                "seconds_by_part": seconds
                | {"other": None if total is None else max(0.0, total - known)},
                "outcome": stage.get("outcome"),
                "ended_early": ended_early(stage),
                "attempts": len(stage.get("attempts") or []),
                "handoff": stage.get("handoff") or {},
                "metrics": steps,
            }
        )
        first_step += max([made, *(step["step"] for step in steps[-1:])])
    return rows


def total_row(rows: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """The costs of all stages together; None where one stage did not record it."""
    return {
        key: None if any(row[key] is None for row in rows) else sum(row[key] for row in rows)
        for key in ("steps", *COSTS, "seconds")
    }


def checkpoint_rows(
    evaluations: Sequence[dict], stages: Sequence[dict[str, Any]]
) -> dict[str, list[dict[str, Any]]]:
    """For each benchmark, one row per checkpoint, the base first.

    Args:
        evaluations: evaluation.json of each, with its "folder".
        stages: `stage_rows`.

    Returns:
        Rows by benchmark, in the order benchmarks came. A row's `note` says what could not be
        computed, or what does not fit together; such numbers are None.
    """
    by_benchmark: dict[str, list[dict]] = {}
    for evaluation in evaluations:
        by_benchmark.setdefault(evaluation["benchmark"], []).append(evaluation)
    return {
        benchmark: _rows(sorted(group, key=lambda evaluation: evaluation["position"]), stages)
        for benchmark, group in by_benchmark.items()
    }


def _rows(evaluations: list[dict], stages: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    stage_of = {stage["position"]: stage for stage in stages}
    base = next((each for each in evaluations if each["position"] == -1), None)
    base_responses = attempt(read_responses, base["folder"])[0] if base else None
    rows = []
    for evaluation in evaluations:
        score = evaluation["metrics"]
        stage = stage_of.get(evaluation["position"], {})
        responses, note = attempt(read_responses, evaluation["folder"])
        notes = [note, undecided(evaluation)]
        average = passed = difference = None
        if responses:
            average, note = attempt(metrics.interval, responses.correct)
            notes.append(note)
            passed, note = attempt(_pass_interval, responses.correct, score["k"])
            notes += [note, _disagreement(score["avg_at_k"], responses)]
        if base is not None and evaluation is not base:
            difference, note = attempt(_against, base, base_responses, evaluation, responses)
            notes.append(note)
        rows.append(
            {
                "label": evaluation["label"],
                "position": evaluation["position"],
                "prompt_set": stage.get("prompt_set"),
                "context_length": stage.get("context_length"),
                "steps": stage.get("steps", 0),
                "trained_tokens": stage.get("tokens_generated"),
                "trained_seconds": stage.get("seconds"),
                "k": score["k"],
                "samples": evaluation["sampling"]["samples"],
                "problems": evaluation["problems"],
                **{key: score.get(key) for key in _SCORES},
                "avg_interval": _of_shares(average),
                "pass_interval": _of_shares(passed),
                "difference": difference and difference._asdict(),
                "tokens": evaluation.get("tokens"),
                "seconds": evaluation.get("seconds"),
                "note": " ".join(dict.fromkeys(filter(None, notes))),
            }
        )
    return rows


_SCORES = (
    "avg_at_k",
    "pass_at_k",
    "truncated_share",
    "no_answer_share",
    "response_length_mean",
    "response_length_correct",
    "response_length_wrong",
)


def _against(
    base: dict, before: Responses | None, evaluation: dict, after: Responses | None
) -> metrics.Difference | None:
    if before is None or after is None:
        return None
    if before.ids != after.ids:
        apart = len(set(before.ids) ^ set(after.ids))
        raise ValueError(
            f"Not compared to the base: {things(apart, 'problem')} in only one of the two."
        )
    for key in ("temperature", "top_p", "context_length", "engine"):
        one, other = (each["sampling"].get(key) for each in (base, evaluation))
        if one != other:
            raise ValueError(f"Not compared to the base: {key} is {other}, for the base {one}.")
    return metrics.paired_difference(before.correct, after.correct)


def _of_shares(interval: metrics.Interval | None) -> list[float] | None:
    """No score is below 0 or above 1, though a widened bootstrap interval may reach beyond."""
    return interval and [min(1.0, max(0.0, end)) for end in interval]


def _pass_interval(correct: np.ndarray, k: int) -> metrics.Interval:
    return metrics.interval(metrics.pass_at_k_by_problem(correct, k))


def _disagreement(written: float, responses: Responses) -> str:
    counted = metrics.avg_at_k(responses.correct)
    if abs(written - counted) < 1e-6:
        return ""
    return f"evaluation.json says {written:.4f}, its responses {counted:.4f}."


def attempt(function: Any, *arguments: Any) -> tuple[Any, str]:
    """The result and no note, or no result and what is wrong: a report shows that and goes on."""
    try:
        return function(*arguments), ""
    except (ValueError, OSError) as error:
        return None, str(error).partition("\n")[0]


def _total(steps: Iterable[dict[str, float]], name: str) -> float | None:
    values = [step[name] for step in steps if name in step]
    return float(np.nansum(values)) if values else None


def length_needed(
    responses_folder: Path | str, benchmark: Dataset
) -> list[tuple[int, float, float, int]]:
    """How long correct responses are, by difficulty.

    Args:
        responses_folder: Folder of an evaluation on `benchmark`.
        benchmark: Its problems, with their levels.

    Returns:
        For each level with a correct response: level, mean length of the question in characters,
        mean tokens of correct responses, and how many these are. Empty where levels are unknown.
    """
    problems = pq.read_table(benchmark.path, columns=["id", "question", "level"]).to_pylist()
    known = {row["id"]: row for row in problems if row["level"] is not None}
    responses = read_responses(responses_folder)
    found: dict[int, tuple[list[int], list[int]]] = {}
    for id, correct, tokens in zip(responses.ids, responses.correct, responses.tokens, strict=True):
        if id in known and correct.any():
            questions, lengths = found.setdefault(known[id]["level"], ([], []))
            questions.append(len(known[id]["question"]))
            lengths += tokens[correct.astype(bool)].tolist()
    return [
        (level, float(np.mean(questions)), float(np.mean(lengths)), len(lengths))
        for level, (questions, lengths) in sorted(found.items())
    ]


def prompt_lengths(dataset: Dataset, length_of: str) -> np.ndarray:
    """Length of each prompt in characters, as segmentation measures it."""
    if length_of == "raw_question":
        questions = pq.read_table(dataset.path, columns=["question"])["question"].to_pylist()
        return np.array([len(question) for question in questions])
    chats = pq.read_table(dataset.path, columns=["prompt"])["prompt"].to_pylist()
    return np.array([len(str(chat)) for chat in chats])
