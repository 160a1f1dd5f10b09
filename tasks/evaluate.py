"""Score a checkpoint on a benchmark: sample, grade, and keep every response."""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from conf.schema import Experiment, Reward
from tasks import generations
from tasks.artifacts import Dataset, digest_of, new_folder, read_json, write_json
from tasks.evaluations import MANIFEST, read_evaluation, undecided
from tasks.generations import EvaluationFailedError
from tasks.labels import flat, lineage_tags
from tasks.machine import environment
from tasks.model import Checkpoint
from tasks.stages import alone
from tasks.track import Tracker
from trainer import metrics
from trainer.checkpoint import opens_thought
from trainer.generate import COLUMNS, Request
from trainer.rewards import ANY, Form, Limits, Reason, configure, grade_many

__all__ = ["EvaluationFailedError", "evaluate", "evaluation_digest", "find", "grade", "scores"]

# Raise it when a change of ours alters a verdict: what was graded before is then graded anew.
GRADER_VERSION = 6
GRADED = pa.schema(
    [*COLUMNS, ("correct", pa.bool_()), ("reason", pa.string()), ("answer", pa.string())]
)
AT_ONCE = 4_096  # responses graded and written together: of 32K tokens they are half a gigabyte
_USUAL = Reward()


def request(experiment: Experiment, benchmark: Dataset, checkpoint: Checkpoint) -> Request:
    """What is to be sampled. Its length is the evaluation's own, never a stage's."""
    evaluation, hardware = experiment.evaluation, experiment.hardware
    return Request(
        checkpoint=str(checkpoint.path),
        prompts=str(benchmark.path),
        engine=hardware.rollout,
        device=hardware.device,
        dtype=hardware.dtype,
        samples=evaluation.samples,
        temperature=evaluation.temperature,
        top_p=evaluation.top_p,
        context_length=evaluation.context_length,
        seed=evaluation.seed,
        batch_size=evaluation.batch_size,
        memory_share=hardware.memory_share,
        tensor_parallel=hardware.tensor_parallel,
        shards=generations.shards(experiment),
    )


def evaluation_digest(checkpoint: str, data: str, sampling: Mapping[str, Any]) -> str:
    """The digest of all that determines a score: model, problems, sampling, and the grader."""
    return digest_of([checkpoint, data, sampling, GRADER_VERSION])


def find(
    experiment: Experiment, benchmark: Dataset, checkpoint: Checkpoint, label: str, position: int
) -> dict[str, Any] | None:
    """What `evaluate` would give, where it lies on disk; None if it was not made yet."""
    _, _, folder = _identity(experiment, benchmark, checkpoint)
    manifest = _read(folder)
    return manifest and {**manifest, "label": label, "position": position, "folder": folder}


def _read(folder: Path) -> dict[str, Any] | None:
    manifest, complaint = read_evaluation(folder)
    if complaint:
        print(complaint)
    return manifest


def _identity(
    experiment: Experiment, benchmark: Dataset, checkpoint: Checkpoint
) -> tuple[dict[str, Any], str, Path]:
    """How is sampled, the digest of all that decides the score, and the folder it lies in."""
    wanted = request(experiment, benchmark, checkpoint)
    sampling = generations.describe(wanted)
    sampling |= {"think": experiment.evaluation.think, "boxed": experiment.evaluation.boxed}
    # What takes longer counts as wrong. Usual limits are left out: scores of before stay found.
    limits = {key: getattr(experiment.reward, key) for key in ("seconds", "memory")}
    sampling |= {
        f"grading_{key}": limit for key, limit in limits.items() if limit != getattr(_USUAL, key)
    }
    digest = evaluation_digest(checkpoint.digest, benchmark.digest, sampling)
    output = Path(experiment.output).absolute()
    return sampling, digest, output / "evaluations" / f"{benchmark.name}-{digest[:12]}"


def evaluate(
    experiment: Experiment,
    benchmark: Dataset,
    checkpoint: Checkpoint,
    label: str,
    position: int,
    tracker: Tracker,
    parent_run: str,
) -> dict[str, Any]:
    """Score `checkpoint` on `benchmark`, or find it scored.

    No response is sampled twice, see `tasks.generations`: more samples are added to those that are
    there, and a grader of another version or with other limits reads them.

    Args:
        experiment: For sampling and hardware.
        benchmark: The problems.
        checkpoint: The model.
        label: What it is called in tables: "base", or the stage's name.
        position: Stage index, -1 for the base.
        tracker: Where its run is kept.
        parent_run: The pipeline's run.

    Returns:
        The manifest (`evaluation.json`), with `label`, `position` and `folder` added.

    Raises:
        EvaluationFailedError: the sampling process failed.
        ValueError: `checkpoint` is not what it was.
    """
    wanted = request(experiment, benchmark, checkpoint)
    sampling, digest, folder = _identity(experiment, benchmark, checkpoint)
    with tracker.child_run(
        parent_run,
        f"{label} on {benchmark.name}",
        "evaluation",
        flat({"evaluation": sampling, "checkpoint": label, "benchmark": benchmark.name}),
        lineage_tags(
            config_digest=digest,
            git_commit=environment()["git_commit"],
            checkpoint_digest=checkpoint.digest,
        ),
        [benchmark],
    ) as run:
        if not (manifest := _read(folder)):
            work = generations.folder_of(folder.parents[1], benchmark, checkpoint, wanted)
            with alone(work):
                if not (folder / MANIFEST).is_file():  # made while we waited
                    with checkpoint.held("another run made it anew, so run this one again"):
                        generations.complete(experiment, benchmark, checkpoint, wanted, work, label)
                        _grade(experiment, benchmark, checkpoint, sampling, work, folder)
            manifest = read_json(folder / MANIFEST)
        scores = {f"eval/{benchmark.name}/{k}": v for k, v in manifest["metrics"].items()}
        run.log_metrics(scores)
        tracker.log(parent_run, scores, position + 1)
    k = manifest["metrics"]["k"]
    print(
        f"{label} on {benchmark.name}: avg@{k} {manifest['metrics']['avg_at_k']:.1%}, "
        f"pass@{k} {manifest['metrics']['pass_at_k']:.1%}, "
        f"cut off {manifest['metrics']['truncated_share']:.1%}"
    )
    if said := undecided(manifest):
        print(f"warning: {label} on {benchmark.name}: {said}")
    return {**manifest, "label": label, "position": position, "folder": folder}


def _grade(experiment, benchmark, checkpoint, sampling, work: Path, folder: Path) -> None:
    """Grade what was sampled in `work`, and leave the finished evaluation in `folder`."""
    responses, seconds = generations.read(work, benchmark, sampling["samples"])
    reward = experiment.reward
    configure(Limits(reward.seconds, reward.memory, reward.workers))
    form = Form(experiment.evaluation.think, experiment.evaluation.boxed)
    with new_folder(folder, MANIFEST) as aside:
        file = aside / "responses.parquet"
        graded = grade(responses, benchmark, file, form, opens_thought(checkpoint.path))
        write_json(
            aside / MANIFEST,
            {
                "kind": "evaluation",
                "benchmark": benchmark.name,
                "checkpoint": {"path": str(checkpoint.path), "digest": checkpoint.digest},
                "data_digest": benchmark.digest,
                "sampling": sampling,
                "grader": GRADER_VERSION,
                "generations": work.name,
                "problems": benchmark.rows,
                "metrics": scores(graded, sampling["samples"]),
                "tokens": int(np.sum(graded["tokens"].to_numpy())),
                "seconds": seconds,
                "environment": environment(),
                "sampled_on": generations.made_on(work),  # what is graded anew was made earlier
            },
        )


def grade(
    responses: pa.Table, benchmark: Dataset, file: Path, form: Form = ANY, opened: bool = False
) -> pa.Table:
    """Write responses with three columns more: correct, reason, and the answer that was found.

    Piece by piece: of long responses to many problems all texts at once are many gigabytes.

    Args:
        responses: What was sampled.
        benchmark: The problems.
        file: Where they go, as parquet.
        form: What a response must look like.
        opened: Whether the prompts ended with an opening think tag.

    Returns:
        What was written, without the texts.
    """
    rows = benchmark.table().select(["id", "answers"]).to_pylist()
    answers = {row["id"]: row["answers"] for row in rows}
    graded = []
    with pq.ParquetWriter(file, GRADED) as writer:
        for start in range(0, responses.num_rows, AT_ONCE):
            piece = responses.slice(start, AT_ONCE)
            texts = piece["response"].to_pylist()
            grades = grade_many(
                texts,
                [answers[name] for name in piece["id"].to_pylist()],
                form=form,
                opened=opened,
                truncated=piece["truncated"].to_pylist(),
            )
            found = {
                "response": texts,
                "correct": [one.correct for one in grades],
                "reason": [str(one.reason) for one in grades],
                "answer": [one.answer for one in grades],
            }
            table = pa.table({**dict(zip(piece.column_names, piece.columns, strict=True)), **found})
            writer.write_table(table.cast(GRADED))
            graded.append(table.drop_columns("response"))
    return pa.concat_tables(graded)


def scores(graded: pa.Table, samples: int) -> dict[str, float | None]:
    """Every score of `trainer.metrics`, shares, and mean lengths in tokens.

    Args:
        graded: What `grade` gave, `samples` rows for each problem.
        samples: Responses per problem.
    """
    ordered = graded.sort_by([("id", "ascending"), ("sample", "ascending")])
    correct = ordered["correct"].to_numpy(zero_copy_only=False).reshape(-1, samples)
    tokens = ordered["tokens"].to_numpy().reshape(-1, samples)
    answers = np.array(ordered["answer"].to_pylist(), dtype=object).reshape(-1, samples).tolist()
    lengths = metrics.lengths_by_correctness(tokens, correct)
    reasons = graded["reason"].to_pylist()
    return {
        "k": samples,
        "avg_at_k": metrics.avg_at_k(correct),
        "pass_at_k": metrics.pass_at_k(correct, samples),
        "maj_at_k": metrics.maj_at_k(answers, correct),
        "m_g_pass_at_k": metrics.m_g_pass_at_k(correct, samples) if samples > 1 else None,
        "spread_over_samples": _known(metrics.spread_over_samples(correct)),
        "truncated_share": metrics.truncation_share(
            ordered["truncated"].to_numpy(zero_copy_only=False)
        ),
        "no_answer_share": sum(not Reason(reason).well_formed for reason in reasons) / len(reasons),
        "undecided_share": sum(Reason(reason).undecided for reason in reasons) / len(reasons),
        "response_length_mean": float(tokens.mean()),
        "response_length_correct": _known(lengths.correct),
        "response_length_wrong": _known(lengths.wrong),
    }


def _known(value: float) -> float | None:
    """JSON has no NaN: a length that no response has is null."""
    return None if math.isnan(value) else value
