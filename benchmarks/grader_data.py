"""The accepted answers of the real data sets, read from the folder beside the checkout."""

import os
from pathlib import Path

import pyarrow.parquet as pq


def folder() -> Path:
    """Where FastCuRL's files lie."""
    beside = Path(__file__).parents[2] / "shared" / "data" / "fastcurl"
    return Path(os.environ.get("STAGECRAFT_FASTCURL_DATA", beside))


def real_answers(pattern: str = "**/*.parquet") -> list[list[str]]:
    """For each problem its accepted answers, in the order of the files.

    Raises:
        FileNotFoundError: none of the files is there.
    """
    files = sorted(folder().glob(pattern))
    if not files:
        raise FileNotFoundError(
            f"found no {pattern} in {folder()}\n\nhint: set STAGECRAFT_FASTCURL_DATA"
        )
    truths = [
        row["ground_truth"]
        for file in files
        for row in pq.read_table(file, columns=["reward_model"])["reward_model"].to_pylist()
    ]
    return [[str(one) for one in (t if isinstance(t, list) else [t])] for t in truths]
