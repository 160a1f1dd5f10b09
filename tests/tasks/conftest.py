"""Settings of a small experiment, and a made-up run on disk, as the pipeline leaves it."""

import json
import math
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import load
from conf.schema import Experiment
from tasks.artifacts import Dataset

CURRICULUM = (("short", "L1", 64), ("middle", "L2", 128), ("long", "L3", 192), ("last", "L2", 128))
PACKAGES = {"torch": "2.13.0", "verl": "0.9.1"}


@pytest.fixture
def smoke(tmp_path):
    """Settings of the smoke experiment, with overrides, that write below the test's folder."""

    def settings(*overrides):
        return load("experiment=lab/smoke", f"output={tmp_path / 'out'}", *overrides)

    return settings


@pytest.fixture(scope="session")
def made_up_run():
    """The function that writes a run; see `_made_up_run`."""
    return _made_up_run


def _made_up_run(
    output: Path,
    *,
    steps: int = 16,
    problems: int = 120,
    samples: int = 8,
    gain: float = 0.05,
    name: str = "lab_fastcurl",
    benchmark: str = "lab",
    stages: tuple[tuple[str, str, int], ...] = CURRICULUM,
    seed: int = 0,
    problem_seed: int | None = None,
    recorded: tuple[str, ...] = (),
) -> SimpleNamespace:
    """Four stages that learn `gain` each, evaluated before and after; keywords of `write_report`.

    Only metrics named in `recorded` are written, or all. Runs with one `problem_seed` have the same
    problems.

    Returns:
        `experiment` and `given`, so that `write_report(run.experiment, **run.given)` works.
    """
    random = np.random.default_rng(seed)
    experiment = Experiment.model_validate(
        {
            "name": name,
            "output": str(output),
            "stages": [
                {"name": stage, "prompts": prompts, "context_length": context, "steps": steps,
                 "batch_size": 32, "mini_batch_size": 32}
                for stage, prompts, context in stages
            ],
            "evaluation": {
                "benchmarks": [{"name": benchmark, "split": "test"}],
                "samples": samples,
            },
        }
    )  # fmt: skip
    theirs = random if problem_seed is None else np.random.default_rng(problem_seed)
    train = _problems(output / "data" / "train", "train", 900, theirs)
    test = _problems(output / "data" / benchmark, benchmark, problems, theirs)
    lengths = np.array([len(question) for question in train.table()["question"].to_pylist()])
    threshold = round(lengths.mean())
    rule = {"rule": "raw_question", "threshold": threshold, "mean": float(lengths.mean())}
    segments = {
        segment: Dataset.write(
            output / "data" / f"train-{segment}",
            f"train-{segment}",
            train.table().filter(pa.array(kept)),
            segment=segment,
            **rule,
        )
        for segment, kept in (
            ("L1", lengths <= threshold),
            ("L2", lengths > 0),
            ("L3", lengths > threshold),
        )
    }
    labels = ["base", *(stage for stage, _, _ in stages)]
    return SimpleNamespace(
        experiment=experiment,
        given={
            "train": train,
            "segments": segments,
            "stages": [
                _stage(output, stage, position, context, steps, random, recorded)
                for position, (stage, _, context) in enumerate(stages)
            ],
            "evaluations": [
                _evaluation(
                    output, benchmark, label, place - 1, test, samples, 0.35 + gain * place, random
                )
                for place, label in enumerate(labels)
            ],
            "output": output,
            "command": f"python -m flows.pipeline experiment={name} seed=0",
            "benchmarks": {benchmark: test},
        },
    )


def _problems(folder: Path, name: str, rows: int, random) -> Dataset:
    levels = random.integers(2, 9, rows).tolist()
    questions = ["".join(random.choice(list("abcd+-= "), 8 + 6 * level)) for level in levels]
    columns = {
        "id": [f"{name}-{index}" for index in range(rows)],
        "prompt": [[{"role": "user", "content": question}] for question in questions],
        "question": questions,
        "answers": [["7"]] * rows,
        "source": [name] * rows,
        "index": list(range(rows)),
        "level": levels,
    }
    return Dataset.write(folder, name, pa.table(columns), source={"kind": "lab"})


def _stage(
    output: Path, name: str, position: int, context: int, steps: int, random, recorded
) -> dict:
    folder = output / "stages" / f"{name}-0123456789ab"
    folder.mkdir(parents=True)
    lines = []
    for step in range(1, steps + 1):
        done = position + step / max(steps, 1)
        lines.append(
            {
                "step": step,
                "time": 1.7e9 + step,
                "reward/mean": 0.3 + 0.07 * done + random.normal(0, 0.03),
                "entropy": 1.1 * math.exp(-0.3 * done) + random.normal(0, 0.02),
                "grad_norm": 0.6 + abs(random.normal(0, 0.15)),
                "response_length/mean": 45 + 3 * done + random.normal(0, 1.5),
                "truncated_share": max(0, 0.3 - 0.07 * done + random.normal(0, 0.02)),
                "zero_variance_share": 0.2 + 0.05 * done + random.normal(0, 0.03),
                "probability_difference/max": 10 ** (-5 + random.normal(0, 0.2)),
                "tokens_per_second": 2400 + random.normal(0, 90),
                "updates": 1,
                "tokens/generated": 256 * (45 + position),
                "seconds/step": 7.0,
                "seconds/generate": 4.0,
                "seconds/old_log_prob": 0.5,
                "seconds/update": 2.0,
                "seconds/weights": 0.1,
            }
        )
    if recorded:
        lines = [{name: line[name] for name in ("step", *recorded)} for line in lines]
    text = "".join(json.dumps(line) + "\n" for line in lines)
    (folder / "metrics.jsonl").write_text(text)
    return {
        "kind": "stage",
        "name": name,
        "digest": "ab" * 32,
        "position": position,
        "folder": folder,
        "steps": steps,
        "counters": {
            "steps": steps,
            "updates": steps,
            "prompts": 32 * steps,
            "rollouts": 256 * steps,
            "tokens_generated": 256 * steps * (45 + position),
            "tokens_trained": 256 * steps * (44 + position),
        },
        "seconds": 7.0 * steps + 11,
        "handoff": {
            "parameters": 812_345,
            "probe_logprob": -2.34567 - position,
            "tokenizer_unchanged": True,
            "chat_template_unchanged": True,
        },
        "attempts": [{"outcome": "finished", "first_step": 1, "last_step": steps}],
        "environment": {
            "python": "3.11.7",
            "packages": PACKAGES,
            "git_commit": "c0ffee0",
            "platform": "Linux x86_64",
            "cpus": 2,
            "engine": "torch",
        },
        "outcome": "finished",
    }


def _evaluation(
    output: Path,
    benchmark: str,
    label: str,
    position: int,
    problems: Dataset,
    samples: int,
    chance: float,
    random,
) -> dict:
    folder = output / "evaluations" / f"{benchmark}-{label}"
    folder.mkdir(parents=True)
    levels = np.array(problems.table()["level"].to_pylist())
    hard = np.clip(chance + 0.07 * (5 - levels), 0.02, 0.98)[:, None]
    correct = random.random((problems.rows, samples)) < hard
    tokens = (14 + 7 * levels[:, None] + random.integers(0, 12, correct.shape)).astype(int)
    truncated = random.random(correct.shape) < max(0.02, 0.25 - 0.05 * position)
    ids = problems.table()["id"].to_pylist()
    columns = {
        "id": [id for id in ids for _ in range(samples)],
        "sample": list(range(samples)) * len(ids),
        "response": ["..."] * correct.size,
        "tokens": tokens.ravel().tolist(),
        "truncated": truncated.ravel().tolist(),
        "correct": correct.ravel().tolist(),
        "reason": ["equal"] * correct.size,
        "answer": ["7"] * correct.size,
    }
    # In no particular order, as they finish.
    table = pa.table(columns).take(random.permutation(correct.size))
    pq.write_table(table, folder / "responses.parquet")
    return {
        "kind": "evaluation",
        "benchmark": benchmark,
        "label": label,
        "position": position,
        "folder": folder,
        "problems": problems.rows,
        "sampling": {"samples": samples, "temperature": 0.6, "top_p": 1.0, "context_length": 192,
                     "seed": 0, "engine": "torch"},
        "metrics": {
            "avg_at_k": float(correct.mean()),
            "pass_at_k": float(correct.any(axis=1).mean()),
            "k": samples,
            "truncated_share": float(truncated.mean()),
            "no_answer_share": 0.0125,
            "response_length_mean": float(tokens.mean()),
            "response_length_correct": float(tokens[correct].sum() / max(1, correct.sum())),
            "response_length_wrong": float(tokens[~correct].sum() / max(1, (~correct).sum())),
        },
        "tokens": int(tokens.sum()),
        "seconds": 21.5,
        "environment": {"python": "3.11.7", "packages": PACKAGES},
    }  # fmt: skip
