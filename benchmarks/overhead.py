"""What a pipeline costs outside the processes that train and sample, and when all is done already.

    python -m benchmarks.overhead                                   # lab/smoke, 2 minutes
    python -m benchmarks.overhead --experiment lab/fastcurl         # the demo, 5 minutes

Runs an experiment from nothing, and then again. Writes results/overhead-EXPERIMENT.json: seconds of
the whole, of it outside trainer processes, of each stage from its launch to the end of its first
step, and of the second run, which must train nothing.
"""

import argparse
import json
import shlex
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from pathlib import Path

import psutil

from benchmarks.step import RESULTS
from tasks.artifacts import read_json
from tasks.machine import environment
from tasks.stages import MANIFEST, stage_folders
from trainer.records import read_records

TRAINERS = ("trainer.backend.main", "trainer.generate")
LOOK = 0.1  # seconds between looks at which processes there are


def timed(experiment: str, output: Path) -> dict[str, float]:
    """Run a pipeline; seconds of all, and of it with a trainer or sampler process.

    Raises:
        RuntimeError: it failed.
    """
    command = [sys.executable, "-m", "flows.pipeline", f"experiment={experiment}"]
    log = output.with_suffix(".log")
    began = time.monotonic()
    with log.open("a") as file:
        run = subprocess.Popen([*command, f"output={output}"], stdout=file, stderr=file)
        inside, done = 0.0, threading.Event()

        def watch() -> None:
            nonlocal inside
            before = time.monotonic()
            while not done.wait(LOOK):
                now = time.monotonic()
                inside += (now - before) * _training(run.pid)
                before = now

        thread = threading.Thread(target=watch)
        thread.start()
        code = run.wait()
        seconds = time.monotonic() - began
        done.set()
        thread.join()
    if code:
        raise RuntimeError(f"{experiment} ended with exit code {code}\n\nhint: {log}")
    return {
        "seconds": round(seconds, 1),
        "in_trainers_s": round(inside, 1),
        "outside_s": round(seconds - inside, 1),
        "outside_share": round(1 - inside / seconds, 4),
    }


def _training(pid: int) -> bool:
    with suppress(psutil.Error):
        for process in psutil.Process(pid).children(recursive=True):
            with suppress(psutil.Error):
                if any(name in process.cmdline() for name in TRAINERS):
                    return True
    return False


def stages(output: Path) -> list[dict]:
    """Of each stage the seconds from its launch to the end of its first step."""
    found = []
    for folder in stage_folders(output):
        manifest = read_json(folder / MANIFEST)
        attempt, records = manifest["attempts"][0], read_records(folder / "metrics.jsonl")
        found.append(
            {
                "stage": manifest["name"],
                "position": manifest["position"],
                "launch_s": round(records[0]["time"] - attempt["started"], 1),
                "step_s": round(records[-1]["seconds/step"], 2),
                "wall_s": round(attempt["ended"] - attempt["started"], 1),
            }
        )
    return sorted(found, key=lambda stage: stage["position"])


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--experiment", default="lab/smoke")
    parser.add_argument("--output", type=Path, help="JSON file to write")
    given = parser.parse_args()
    name = given.experiment.replace("/", "_")
    with tempfile.TemporaryDirectory(prefix="overhead-") as folder:
        output = Path(folder) / "outputs"
        first = timed(given.experiment, output)
        made = stages(output)
        attempts = [len(read_json(f / MANIFEST)["attempts"]) for f in stage_folders(output)]
        again = timed(given.experiment, output)
        if again["in_trainers_s"] or attempts != [
            len(read_json(f / MANIFEST)["attempts"]) for f in stage_folders(output)
        ]:
            raise RuntimeError(f"{given.experiment} was finished, and trained or sampled again")
    facts = {
        "command": shlex.join(["python", "-m", "benchmarks.overhead", *sys.argv[1:]]),
        "experiment": given.experiment,
        "from_nothing": first,
        "stages": made,
        "finished_before": again,
        "environment": environment(),
    }
    print(json.dumps({k: v for k, v in facts.items() if k != "environment"}, indent=1))
    path = given.output or RESULTS / f"overhead-{name}.json"
    path.write_text(json.dumps(facts, indent=1) + "\n")


if __name__ == "__main__":
    main()
