"""Refuse rows that no answer can be right for, or whose prompts are too long. Once for each set."""

import contextlib
from collections.abc import Iterable, Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from conf.load import ConfigError, refusal
from conf.schema import Experiment
from tasks.artifacts import Dataset, digest_of, read_json, write_json
from tasks.prompt_lengths import counter, tokenizer_digest, tokenizer_of
from trainer.answers import number
from trainer.rewards import answer_is_parsable

LOOK = 1  # raised when rows are looked at differently
NOTE = "checked.json"  # in a data set's folder: by what it was checked, and what was found


def check(experiment: Experiment, datasets: Iterable[Dataset], model_folder: Path) -> bool:
    """Look at every row of every set, unless the same look was taken before.

    What decides is noted with the set, so that a finished experiment is told from a new one
    without reading its rows, or importing what reads a tokenizer, which takes longer.

    Args:
        experiment: The settings.
        datasets: The sets whose rows are trained or scored.
        model_folder: The model whose tokenizer and chat template count.

    Returns:
        Whether an answer is no plain number, so that the grader's parser is needed.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    decides = digest_of(
        {
            "tokenizer": tokenizer_digest(model_folder),
            "longest": experiment.data.max_prompt_length,
            "unanswerable": experiment.data.unanswerable,
            "look": LOOK,
            "versions": [version(name) for name in ("math-verify", "transformers")],
        }
    )
    tokenizer: Any = None
    symbolic = False
    for dataset in datasets:
        noted = _noted(dataset)
        if decides not in noted:
            tokenizer = tokenizer or _tokenizer(model_folder)
            noted[decides] = _check_rows(experiment, dataset, tokenizer)
            with contextlib.suppress(OSError):  # a folder that may be read only: looked at again
                write_json(dataset.folder / NOTE, noted)
        symbolic |= noted[decides]
    return symbolic


def check_positions(
    experiment: Experiment, datasets: Iterable[Dataset], model_folder: Path, positions: int
) -> None:
    """Refuse prompts after which a model has no positions left for an evaluation's response.

    Args:
        experiment: The settings.
        datasets: The sets that are scored.
        model_folder: The model whose tokenizer and chat template count.
        positions: How many it has.

    Raises:
        ConfigError: for the first set that has such a prompt.
    """
    context = experiment.evaluation.context_length
    count = counter(_tokenizer(model_folder), positions - context)
    for dataset in datasets:
        longest = max(map(count, dataset.table().select(["prompt"]).to_pylist()), default=0)
        if longest + context > positions:
            raise refusal(
                f"evaluation.context_length: found {context} tokens, with the {longest} of the "
                f"longest prompt of {dataset.name} that is {longest + context}, needed at most "
                f"the model's {positions} positions",
                f"set evaluation.context_length={positions - longest}"
                if positions > longest
                else "choose another model, or take long prompts out of the source",
            )


def _noted(dataset: Dataset) -> dict[str, bool]:
    path = dataset.folder / NOTE
    try:
        return read_json(path) if path.exists() else {}
    except ValueError:  # damaged: looked at again
        return {}


def _tokenizer(folder: Path) -> Any:
    try:
        return tokenizer_of(folder)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_rows(experiment: Experiment, dataset: Dataset, tokenizer: Any) -> bool:
    rows = dataset.table().select(["id", "prompt", "answers"]).to_pylist()
    if not rows:
        raise refusal(f"{dataset.name}: found no rows, needed at least one", "look at its source")
    _check_answers(experiment, dataset.name, rows)
    _check_prompt_lengths(experiment, dataset.name, rows, tokenizer)
    return any(number(answer) is None for row in rows for answer in row["answers"])


def _check_answers(experiment: Experiment, name: str, rows: Iterable[Mapping]) -> None:
    if experiment.data.unanswerable == "keep":
        return
    bad = [row for row in rows if not any(map(answer_is_parsable, row["answers"]))]
    if bad:
        shown = ", ".join(f"{row['id']} {row['answers']!r:.80}" for row in bad[:3])
        raise refusal(
            f"{name}: found {len(bad)} problems whose truth cannot be parsed (first: {shown}), "
            r"needed an answer that could stand in \boxed{}",
            "mend the source, or set data.unanswerable=keep: no response will be right there",
        )


def _check_prompt_lengths(
    experiment: Experiment, name: str, rows: Iterable[Mapping], tokenizer: Any
) -> None:
    limit = experiment.data.max_prompt_length
    over = [length for length in map(counter(tokenizer, limit), rows) if length > limit]
    if over:
        raise refusal(
            f"data.max_prompt_length: found {limit} tokens, but {len(over)} prompts of {name} are "
            f"longer with the chat template, the longest {max(over)}",
            f"set data.max_prompt_length={max(over)}, or take them out of the source",
        )
