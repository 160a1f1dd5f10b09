"""Responses of checkpoints, kept by what they were made from: nothing is sampled twice.

A folder holds the responses of one checkpoint to one benchmark with one way of sampling. The
number of samples is no part of its name, nor is the grader: more samples are added to those that
are there, and grading anew reads them. A process that is killed loses what it had in hand.
"""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import suppress
from dataclasses import asdict
from pathlib import Path
from threading import Event
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from conf import telemetry
from conf.schema import Experiment
from tasks import machine
from tasks.artifacts import Dataset, digest_of, read_json, write_json
from tasks.model import Checkpoint
from tasks.progress import SamplingProgress
from trainer.backend import surroundings
from trainer.generate import COLUMNS, SECONDS, Request, made, missing, parts
from trainer.process import how_it_ended, last_lines, run_guarded

MANIFEST = "generations.json"
# Together they may be longer than the 2 GiB that a column of `string` can be sorted with.
IN_MEMORY = COLUMNS.set(
    COLUMNS.get_field_index("response"), pa.field("response", pa.large_string())
)
DETERMINING = ("temperature", "top_p", "context_length", "seed", "engine", "dtype")
"""What of a request determines a response, beside checkpoint, prompt and the sample's number; and
where they are not the usual ones, so that folders of before keep their names, `tensor_parallel` and
`device`: sums are made in another order there."""
_USUAL_DEVICE = {"float32": "cpu", "bfloat16": "cuda"}  # as conf/hardware has them


class EvaluationFailedError(RuntimeError):
    """A checkpoint could not be sampled: why, and where the log is."""


def folder_of(output: Path, benchmark: Dataset, checkpoint: Checkpoint, wanted: Request) -> Path:
    """Where these responses lie or would lie."""
    digest = digest_of([checkpoint.digest, benchmark.digest, _determining(wanted)])
    return output / "generations" / f"{benchmark.name}-{digest[:12]}"


def complete(
    experiment: Experiment,
    benchmark: Dataset,
    checkpoint: Checkpoint,
    wanted: Request,
    folder: Path,
    label: str,
) -> None:
    """Sample what is missing of `wanted` in `folder`, on every GPU there is. The caller holds it.

    Raises:
        EvaluationFailedError: a sampling process failed; what it had written is kept.
    """
    there = made(folder)
    total = benchmark.rows * wanted.samples
    left = len(missing(wanted, there))
    earlier, now = made_on(folder), machine.environment()
    write_json(
        folder / MANIFEST,
        {
            "kind": "generations",
            "benchmark": benchmark.name,
            "checkpoint": {"path": str(checkpoint.path), "digest": checkpoint.digest},
            "data_digest": benchmark.digest,
            "sampling": _determining(wanted),
            "made_on": [*earlier, *([] if left == 0 or now in earlier else [now])],
        },
    )
    if left == 0:
        return
    if left < total:
        print(f"{label} on {benchmark.name}: {total - left} of {total} responses are there already")
    write_json(folder / "request.json", asdict(wanted))
    name, failed = f"{label} on {benchmark.name}", Event()
    line = SamplingProgress(name, folder, benchmark.rows, wanted.samples, left)

    def one(shard: int) -> None:
        try:
            _sample(experiment, wanted, folder, shard, line, failed)
        except BaseException:  # it stalled, for one
            failed.set()
            raise

    _at_once(one, wanted.shards, failed)


def _sample(
    experiment: Experiment,
    wanted: Request,
    folder: Path,
    shard: int,
    line: SamplingProgress,
    failed: Event,
) -> None:
    """Run the process that samples a shard's share, unless another one has `failed`."""
    log = folder / f"generate-{shard}.log"
    own = parts(folder, shard)

    def progress() -> bool:
        nonlocal own
        if failed.is_set():
            raise InterruptedError("another sampling process failed")
        line.look()
        before, own = own, parts(folder, shard)
        return own != before  # those of others say nothing about this one

    code = run_guarded(
        "trainer.generate",
        [str(folder), str(shard)],
        log=log,
        environment=environment(experiment, shard),
        progress=progress,
        stall_timeout=experiment.hardware.stall_timeout,
        warm=experiment.hardware.device == "cpu" and wanted.engine == "torch",
    )
    if code != 0:
        raise EvaluationFailedError(
            f"sampling {line.label} {how_it_ended(code)}; its last lines:\n"
            f"{last_lines(log)}\n\nlog: {log}"
        )


def _at_once(one: Callable[[int], None], count: int, failed: Event) -> None:
    """Call a function for each shard at the same time, and raise what went wrong first."""
    if count == 1:
        one(0)
        return
    with ThreadPoolExecutor(count) as pool:
        try:
            errors = [done.exception() for done in [pool.submit(one, n) for n in range(count)]]
        except BaseException:  # Ctrl-C, while we waited
            failed.set()
            raise
    # The one that failed by itself, not those that were stopped for it.
    for error in sorted(
        filter(None, errors), key=lambda error: isinstance(error, InterruptedError)
    ):
        raise error


def shards(experiment: Experiment) -> int:
    """How many engines sample at the same time: one for each group of GPUs that holds a model."""
    hardware = experiment.hardware
    if hardware.device == "cpu":
        return 1
    return max(1, hardware.ranks // hardware.tensor_parallel)


def environment(experiment: Experiment, shard: int) -> dict[str, str]:
    """What a sampling process gets: threads on a CPU, its own GPUs where there are several."""
    hardware = experiment.hardware
    given = {**surroundings.environment(hardware), **telemetry.OFF}
    if hardware.device == "cpu":
        # All cores sample: nothing else of the pipeline runs meanwhile.
        return {**given, "OMP_NUM_THREADS": str(len(os.sched_getaffinity(0)))}
    if shards(experiment) == 1:
        return given
    visible = os.environ.get("CUDA_VISIBLE_DEVICES") or ",".join(map(str, range(hardware.ranks)))
    each = hardware.tensor_parallel
    mine = visible.split(",")[each * shard : each * (shard + 1)]
    return {**given, "CUDA_VISIBLE_DEVICES": ",".join(mine)}


def read(folder: Path, benchmark: Dataset, samples: int) -> tuple[pa.Table, float]:
    """The first `samples` responses to each problem, and the seconds that they took.

    Returns:
        A table of `trainer.generate.COLUMNS`, sorted by problem and sample, whose responses are
        `large_string`; and the time of all engines together, that of a part shared equally by its
        responses.

    Raises:
        ValueError: a response is missing, or there twice.
    """
    table, seconds = _together(folder, samples)
    table = table.sort_by([("id", "ascending"), ("sample", "ascending")])
    found = list(zip(table["id"].to_pylist(), table["sample"].to_pylist(), strict=True))
    ids = sorted(benchmark.table()["id"].to_pylist())
    asked = [(name, number) for name in ids for number in range(samples)]
    if found != asked:
        absent, extra = len(set(asked) - set(found)), len(found) - len(set(found) & set(asked))
        raise ValueError(
            f"{folder} has {len(found)} responses, needed {len(asked)}: {samples} to each of "
            f"{len(ids)} problems ({absent} are missing, {extra} are too many)\n\n"
            "hint: delete the folder; they are sampled again"
        )
    return table, seconds


def _together(folder: Path, samples: int) -> tuple[pa.Table, float]:
    """What lies in all parts of the first `samples` responses, and its seconds; unsorted."""
    tables, seconds = [IN_MEMORY.empty_table()], 0.0
    for path in parts(folder):
        table = pq.read_table(path, schema=COLUMNS)
        took = float((pq.read_schema(path).metadata or {}).get(SECONDS, b"nan"))
        kept = table.filter(pc.less(table["sample"], samples))
        seconds += took * kept.num_rows / max(1, table.num_rows)
        tables.append(kept.cast(IN_MEMORY))
    return pa.concat_tables(tables).combine_chunks(), seconds


def describe(wanted: Request) -> dict[str, Any]:
    """How was sampled, for a manifest."""
    return {"samples": wanted.samples, **_determining(wanted)}


def made_on(folder: Path) -> list[dict[str, Any]]:
    """What the responses in a folder were made on, see `tasks.machine.environment`.

    Several where they were made in several goes; empty where it was not written down.
    """
    with suppress(ValueError, OSError, KeyError, TypeError):
        return list(read_json(folder / MANIFEST)["made_on"])
    return []


def _determining(wanted: Request) -> dict[str, Any]:
    found = {key: getattr(wanted, key) for key in DETERMINING}
    if wanted.tensor_parallel > 1:
        found["tensor_parallel"] = wanted.tensor_parallel
    if wanted.device != _USUAL_DEVICE.get(wanted.dtype):
        found["device"] = wanted.device
    return found
