"""How long and how much memory download, gates and segmentation take, on FastCuRL's real files.

    python -m benchmarks.data --data FOLDER --output benchmarks/results/data.json
    python -m benchmarks.data --data FOLDER --rows 40315        # prints, writes nothing

FOLDER holds train_L1.parquet, train_L3.parquet and test/. Each size runs in a process of its own,
on two cores: 40,315 rows are the set itself, fewer its first rows, more its rows again and again.
"""

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from collections import Counter
from contextlib import suppress
from pathlib import Path

import psutil
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from benchmarks.processes import looking, tree
from benchmarks.record import write
from conf.load import load
from tasks import prepare
from tasks.artifacts import read_json
from tasks.datacard import write_card
from tasks.download import download
from tasks.model import local_folder
from tasks.segment import segment

SIZES = (10_000, 40_315, 100_000, 400_000)
CORES = 2
TESTS = ("aime2024", "amc2023", "math", "minerva", "olympiadbench")


def replicated(data: Path, rows: int, path: Path) -> None:
    """Write so many rows of the real set to a parquet, each with an index of its own."""
    whole = pa.concat_tables(
        [pq.read_table(data / f"train_{name}.parquet") for name in ("L1", "L3")]
    )
    order = pc.sort_indices(pc.struct_field(whole["extra_info"], "index"))
    whole = whole.take(order)
    times = -(-rows // len(whole))
    table = pa.concat_tables([whole] * times)[:rows].drop_columns(["extra_info"])
    index = pa.StructArray.from_arrays([pa.array(range(rows))], names=["index"])
    pq.write_table(table.append_column("extra_info", index), path)


def resident_bytes() -> int:
    """Resident bytes of this process and of all below it."""
    total = 0
    for process in tree():
        with suppress(psutil.NoSuchProcess):
            total += process.memory_info().rss
    return total


def findings(path: Path) -> dict[str, dict]:
    """What each gate found, counted."""
    return {
        one["gate"]: {
            "rows": one["found"],
            "groups": len(one["groups"]),
            "evaluation_problems": Counter(
                b for b, _ in sorted({(m["benchmark"], m["problem"]) for m in one["matches"]})
            ),
            "note": one["note"],
        }
        for one in read_json(path)
    }


def once(data: Path, rows: int, output: Path) -> dict:
    """All that is done to a set of so many rows, each step with its seconds."""
    path = output / "train.parquet"
    replicated(data, rows, path)
    tests = ",".join(
        f"{{name:{name},kind:file,path:'{data / 'test' / name}.parquet'}}" for name in TESTS
    )
    settings = load(
        "experiment=fastcurl",
        "data=fastcurl_files",
        f"data.train.path='{path}'",
        f"evaluation.benchmarks=[{tests}]",
        "gates=as_published",
        "gates.overlong_prompts=flag",  # every row is counted, whatever the tokenizer
        "model=lab",
        "hardware=cpu",
    )
    seconds = {}

    def timed(name, function, *arguments):
        started = time.perf_counter()
        made = function(*arguments)
        seconds[name] = round(time.perf_counter() - started, 2)
        return made

    peak = 0

    def look() -> None:
        nonlocal peak
        peak = max(peak, resident_bytes())

    before = resource.getrusage(resource.RUSAGE_SELF)
    with looking(look, 0.1):
        train = timed("download", download, settings.data.train, settings.data, output)
        compared = {
            one.name: download(one, settings.data, output) for one in settings.evaluation.benchmarks
        }
        model = local_folder(settings.model)
        kept = timed("gates", prepare.gated, settings, train, compared, model, output)
        segments = timed("segmentation", segment, kept, settings.data, output)
        card = timed("card", write_card, prepare.Prepared(train, kept, segments), compared, output)
    after, children = (
        resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)
    )
    processor = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    processor += children.ru_utime + children.ru_stime
    wall = sum(seconds.values())
    return {
        "rows": rows,
        "seconds": seconds,
        "wall_seconds": round(wall, 1),
        "processor_seconds": round(processor, 1),
        "rows_per_second": round(rows / wall),
        "rows_per_processor_second": round(rows / processor),
        "peak_mib": round(peak / 2**20),
        "load_average": round(os.getloadavg()[0], 1),
        "prompt_sets": {name: one.rows for name, one in segments.items()},
        "digests": {name: one.digest for name, one in segments.items()},
        "findings": findings(kept.folder / prepare.FINDINGS),
        "card_bytes": card.html.stat().st_size,
    }


def main() -> None:
    """Run every size in a process of its own, and write the results."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of FastCuRL's files")
    parser.add_argument("--rows", type=int, nargs="+", default=SIZES, help="sizes to run")
    parser.add_argument("--output", type=Path, help="results, as JSON")
    parser.add_argument("--inside", action="store_true", help=argparse.SUPPRESS)
    given = parser.parse_args()
    if given.inside:
        with tempfile.TemporaryDirectory() as folder:
            print(json.dumps(once(given.data, given.rows[0], Path(folder))))
        return
    os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:CORES])
    found = []
    for rows in given.rows:
        words = [sys.executable, "-m", "benchmarks.data", "--inside"]
        words += ["--data", str(given.data.absolute()), "--rows", str(rows)]
        done = subprocess.run(words, stdout=subprocess.PIPE, text=True)
        if done.returncode:
            sys.exit(done.returncode)
        found.append(json.loads(done.stdout.splitlines()[-1]))
        print(json.dumps({k: v for k, v in found[-1].items() if k != "findings"}))
        if given.output:
            write(given.output, {"sizes": found})


if __name__ == "__main__":
    main()
