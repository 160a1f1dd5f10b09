"""Divide a training set into prompt sets, and leave those on disk."""

import glob
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from conf.schema import Data, Segmentation, Stage
from tasks.artifacts import MANIFEST, Dataset, digest_of, read_json
from tasks.segmentations import (
    Labels,
    Split,
    by_length,
    by_level,
    by_pass_rate,
    by_quantiles,
    remaining,
    split_by_length,
    whole,
)
from trainer.records import read_records

__all__ = [
    "Measured",
    "Split",
    "left",
    "pass_rates_in",
    "pruned",
    "segment",
    "segmented",
    "split_by_length",
]


@dataclass(frozen=True)
class Measured:
    """A number for each row that the table does not hold: its tokens, or its pass rate.

    Attributes:
        digest: What names the numbers before they are there: of a tokenizer, of an evaluation.
        values: Gives them for a table, in the order of its rows.
        facts: What the manifest is to say of them.
    """

    digest: str
    values: Callable[[pa.Table], Sequence[Any]]
    facts: Mapping[str, Any]


def segmented(
    dataset: Dataset, data: Data, output: Path | str, measured: Measured | None = None
) -> dict[str, Dataset] | None:
    """What `segment` would find on disk, or None where it would have to make it."""
    stem = _stem(dataset, data, output, measured)
    found = {
        folder.name.removeprefix(f"{stem.name}-"): folder
        for folder in sorted(stem.parent.glob(f"{glob.escape(stem.name)}-*"))
        if (folder / MANIFEST).is_file()
    }
    # Each manifest says which sets there are; `counts` is in the order of the rule.
    some = next(iter(found.values()), None)
    names = read_json(some / MANIFEST)["counts"] if some else {}
    if not names or not set(names) <= set(found):
        return None
    return {name: Dataset.load(found[name]) for name in names}


def _stem(dataset: Dataset, data: Data, output: Path | str, measured: Measured | None) -> Path:
    key = digest_of([dataset.digest, data.segmentation, measured.digest if measured else ""])
    return Path(output) / "data" / f"{dataset.name}-{key[:12]}"


def segment(
    dataset: Dataset, data: Data, output: Path | str, measured: Measured | None = None
) -> dict[str, Dataset]:
    """The prompt sets of a training set by name, under `output`/data.

    Rows keep their order. What is on disk already is returned as it is. A prompt set may come out
    empty: `tasks.preflight` refuses that where a stage trains on it.

    Args:
        dataset: The training set.
        data: Its `segmentation` is the rule.
        output: The experiment's output folder.
        measured: The rows' tokens (rule `tokens`) or pass rates (rule `pass_rate`).

    Raises:
        ValueError: when the training set is empty, or holds nothing that the rule could use.
    """
    there = segmented(dataset, data, output, measured)
    if there:
        return there
    table = dataset.table()
    labels = _labels(table, data.segmentation, measured)
    parts = {name: table.filter(pa.array(labels.mask(name))) for name in labels.sets}
    counts = {name: part.num_rows for name, part in parts.items()}
    stem = _stem(dataset, data, output, measured)
    return {
        name: Dataset.write(
            stem.with_name(f"{stem.name}-{name}"),
            f"{dataset.name}-{name}",
            part,
            segment=name,
            segmentation=data.segmentation.model_dump(mode="json"),
            **labels.facts,
            **(measured.facts if measured else {}),
            counts=counts,
            parent_digest=dataset.digest,
            created=datetime.now(UTC).isoformat(timespec="seconds"),
        )
        for name, part in parts.items()
    }


def _labels(table: pa.Table, rule: Segmentation, measured: Measured | None) -> Labels:
    if rule.rule == "length":
        return by_length(table, rule.length_of, rule.threshold)
    if rule.rule == "level":
        return by_level(table["level"].to_pylist())
    if rule.rule == "whole":
        return whole(table.num_rows)
    if measured is None:
        raise ValueError(
            f"rule {rule.rule!r} needs numbers that no file of the set holds\n\nhint: call "
            "tasks.prepare.prompt_sets, which measures them"
        )
    values, names = measured.values(table), rule.labels[:-1]
    if rule.rule == "tokens":
        return by_quantiles(values, rule.quantiles, names)
    return by_pass_rate(values, rule.bands, names)


def pass_rates_in(folder: Path | str) -> dict[str, float]:
    """Pass rate of each prompt when the stage of a folder last drew it, of all that it sampled.

    From groups.jsonl, which tells of groups that did not train, too: under a selection that keeps
    what teaches, no solved or hopeless one does. Each of its records has `groups`, those whose fate
    was sealed at a step; `number` is their place among the draws. A group that failed is left out,
    with what it may have sampled before.

    Raises:
        ValueError: there are no such records, or they are damaged.
    """
    path = Path(folder) / "groups.jsonl"
    try:
        groups = [group for record in read_records(path) for group in record["groups"]]
        rates = {
            group["id"]: group["correct"] / group["rollouts"]
            for group in sorted(groups, key=lambda group: group["number"])
            if group["rollouts"] and not group["fate"].startswith("failed")
        }
    except (AttributeError, KeyError, TypeError) as error:
        raise ValueError(_unknown_rates(path, f"a group that is none ({error!r})")) from error
    if not groups:
        raise ValueError(_unknown_rates(path, "no group"))
    return rates


def _unknown_rates(path: Path, found: str) -> str:
    return (
        f"{path}: found {found}, needed what the stage before drew and how many were right\n\n"
        "hint: train that stage again with force=true, or set neither drop_solved nor drop_hopeless"
    )


def left(dataset: Dataset, stage: Stage, pass_rates: Mapping[str, float]) -> pa.Table:
    """The rows of a prompt set less what the stage before solved, or could not solve at all.

    Args:
        dataset: The prompt set that the stage names.
        stage: Its `drop_solved` and `drop_hopeless` are the limits.
        pass_rates: By id, as the stage before recorded them.

    Raises:
        ValueError: when fewer prompts are left than a step takes.
    """
    table = dataset.table()
    ids = table["id"].to_pylist()
    keep = remaining(ids, pass_rates, stage.drop_solved, stage.drop_hopeless)
    if sum(keep) < stage.batch_size:
        raise ValueError(
            f"stage {stage.name}: found {sum(keep)} of {len(ids)} prompts left of {dataset.name} "
            f"after drop_solved={stage.drop_solved} and drop_hopeless={stage.drop_hopeless}, "
            f"needed the {stage.batch_size} of a step\n\nhint: raise drop_solved, lower "
            "drop_hopeless or batch_size, or take a larger prompt set"
        )
    return table.filter(pa.array(keep))


def pruned(
    dataset: Dataset, stage: Stage, pass_rates: Mapping[str, float], output: Path | str
) -> Dataset:
    """`left` as a data set under `output`/data, made or found.

    Raises:
        ValueError: when fewer prompts are left than a step takes.
    """
    table = left(dataset, stage, pass_rates)
    key = digest_of([dataset.digest, table["id"].to_pylist()])
    folder = Path(output) / "data" / f"{dataset.name}-left-{key[:12]}"
    if (folder / MANIFEST).is_file():
        return Dataset.load(folder)
    return Dataset.write(
        folder,
        f"{dataset.name}-left",
        table,
        drop_solved=stage.drop_solved,
        drop_hopeless=stage.drop_hopeless,
        with_pass_rate=len(pass_rates),
        dropped=dataset.rows - table.num_rows,
        parent_digest=dataset.manifest.get("parent_digest") or dataset.digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )
