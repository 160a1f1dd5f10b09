"""The account of a finished stage as tables: a row per step, a row per prompt group."""

import os
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from trainer.records import read_records

STEPS, GROUPS = "ledger.parquet", "groups.parquet"

GROUP_COLUMNS = pa.schema(
    [
        ("step", pa.int64()),
        ("number", pa.int64()),
        ("id", pa.string()),
        ("drawn", pa.int64()),
        ("fate", pa.string()),
        ("screening", pa.int64()),
        ("rollouts", pa.int64()),
        ("correct", pa.float64()),
        ("tokens", pa.int64()),
        ("trained", pa.int64()),
    ]
)


def write_ledger(folder: Path) -> list[Path]:
    """Write `ledger.parquet` and `groups.parquet` beside a stage's records.

    `ledger.parquet` holds every metric of every step. `groups.parquet` holds every prompt group in
    the order in which it was drawn: `number`, `id` of the prompt, `step` at which its fate was
    sealed and `drawn` at which it was drawn, `fate` (trained, solved, hopeless, out of bounds,
    surplus, failed and why; waiting, where the stage ended before its turn came), rollouts of its
    `screening` and in all, how many were `correct`, its `tokens`, and how many rollouts `trained`.

    Args:
        folder: The stage's folder, with `metrics.jsonl` and `groups.jsonl`.
    """
    steps = read_records(folder / "metrics.jsonl")
    names = list(dict.fromkeys(name for record in steps for name in record))
    ledger = pa.table({name: [record.get(name) for record in steps] for name in names})
    sealed: list[dict[str, Any]] = [
        {"step": record["step"], **group}
        for record in read_records(folder / "groups.jsonl")
        for group in record["groups"]
    ]
    sealed.sort(key=lambda group: group["number"])
    groups = pa.Table.from_pylist(sealed, schema=GROUP_COLUMNS)
    written = []
    for table, name in ((ledger, STEPS), (groups, GROUPS)):
        aside = folder / f"{name}.part"
        pq.write_table(table, aside)
        os.replace(aside, folder / name)
        written.append(folder / name)
    return written
