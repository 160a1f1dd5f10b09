"""Run one stage in processes of its own, watch it, and stop all of it when it must stop.

A process per stage: memory, Ray and device state end with it, and a crash is one failed stage.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.backend.guard import STOPPED
from trainer.backend.records import read_records

GRACE = 4.0  # seconds that a trainer has to end by itself once told to
POLL = 0.5  # seconds between looks at its metrics


class StageFailedError(RuntimeError):
    """A stage did not end as it should: why, and where its log is."""


def launch(
    folder: Path,
    values: Mapping[str, object],
    environment: Mapping[str, str],
    *,
    on_step: Callable[[dict], None],
    stall_timeout: float,
) -> None:
    """Train the stage whose settings are `values`; blocks until it has ended.

    Args:
        folder: The stage's folder: settings, metrics, log, and verl's state.
        values: What `settings` gave.
        environment: Added to this process's environment.
        on_step: Called with each record of `metrics.jsonl`, in order, soon after it is written.
        stall_timeout: Seconds without a step and without a line in the log before it is stopped.

    Raises:
        StageFailedError: the trainer failed, stalled, or was stopped by a signal.
        KeyboardInterrupt: passed on, after every process of the stage has ended.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"verl": dict(values)}, indent=2))
    (folder / "failure.json").unlink(missing_ok=True)
    log = folder / "trainer.log"
    # Ray keeps sockets under it, whose paths may be 107 characters at most: so not in `folder`.
    ray_folder = tempfile.mkdtemp(prefix="ray-", dir="/tmp")
    command = [sys.executable, "-m", "trainer.backend.guard", str(GRACE)]
    command += [sys.executable, "-m", "trainer.backend.main", str(folder)]
    try:
        with log.open("ab") as output:
            guard = subprocess.Popen(
                command,
                stdout=output,
                stderr=subprocess.STDOUT,
                stdin=subprocess.DEVNULL,
                env=_environment(environment, ray_folder),
                start_new_session=True,  # a Ctrl-C in the terminal reaches us, and we tell it
            )
            try:
                _watch(guard, folder, log, on_step, stall_timeout)
            finally:
                _stop(guard)
    finally:
        shutil.rmtree(ray_folder, ignore_errors=True)
    if guard.returncode != 0:
        raise StageFailedError(_reason(folder, guard.returncode))


def _environment(more: Mapping[str, str], ray_folder: str) -> dict[str, str]:
    root = str(Path(__file__).parents[2])
    path = os.pathsep.join(filter(None, [root, os.environ.get("PYTHONPATH")]))
    inherited = dict(os.environ)
    if more.get("VERL_PLATFORM") == "cpu":
        # Ray refuses logical GPUs where the real ones are hidden.
        inherited.pop("CUDA_VISIBLE_DEVICES", None)
    return {**inherited, **more, "PYTHONPATH": path, "RAY_TMPDIR": ray_folder}


def _watch(
    guard: subprocess.Popen,
    folder: Path,
    log: Path,
    on_step: Callable[[dict], None],
    stall_timeout: float,
) -> None:
    started = time.time()
    seen: set[int] = set()
    alive, size = time.monotonic(), 0
    while True:
        ended = guard.poll() is not None  # asked first, so that the last records are still read
        for record in read_records(folder / "metrics.jsonl"):
            if record["time"] >= started and record["step"] not in seen:
                seen.add(record["step"])
                alive = time.monotonic()
                on_step(record)
        if ended:
            return
        if (now := log.stat().st_size) != size:
            alive, size = time.monotonic(), now
        if time.monotonic() - alive > stall_timeout:
            _stop(guard)
            raise StageFailedError(
                f"the trainer made no step and wrote no line for {stall_timeout:.0f} s and was "
                f"stopped\n\nhint: see {log}; a slow machine needs a larger hardware.stall_timeout"
            )
        time.sleep(POLL)


def _stop(guard: subprocess.Popen) -> None:
    if guard.poll() is None:
        guard.send_signal(signal.SIGTERM)
        try:
            guard.wait(GRACE + 5)
        except subprocess.TimeoutExpired:
            guard.kill()
            guard.wait()


def _reason(folder: Path, code: int) -> str:
    log = folder / "trainer.log"
    failure = folder / "failure.json"
    if failure.exists():
        record = json.loads(failure.read_text())
        return f"{record['type']}: {record['message']}\n\nlog: {log}"
    if code == STOPPED:
        return f"the trainer was told to stop; the next run resumes it\n\nlog: {log}"
    if code < 0:
        return f"the trainer was killed by {signal.Signals(-code).name}\n\nlog: {log}"
    tail = "".join(log.read_text(errors="replace").splitlines(keepends=True)[-15:])
    return f"the trainer ended with exit code {code}; its last lines:\n{tail}\nlog: {log}"
