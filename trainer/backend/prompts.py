"""A prompt set as the file that verl reads."""

import os
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq


def write_prompts(rows: pa.Table, path: Path) -> None:
    """Write a prompt set in verl's columns: prompt, data_source, reward_model, extra_info.

    Args:
        rows: With `prompt`, `answers`, `source`, `id` and `level`.
        path: A parquet file; never there half-written.
    """
    answers = rows["answers"].combine_chunks()
    verl = pa.table(
        {
            "prompt": rows["prompt"],
            "data_source": rows["source"],
            "reward_model": pa.StructArray.from_arrays(
                [answers, pa.array(["rule"] * len(rows))], names=["ground_truth", "style"]
            ),
            "extra_info": pa.StructArray.from_arrays(
                [
                    pa.array(range(len(rows))),
                    rows["id"].combine_chunks(),
                    rows["level"].combine_chunks(),
                ],
                names=["index", "id", "level"],
            ),
        }
    )
    aside = path.with_suffix(".part")
    pq.write_table(verl, aside)
    os.replace(aside, path)
