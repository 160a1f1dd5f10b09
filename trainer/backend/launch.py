"""Run one stage on verl in processes of its own: memory, Ray and device state end with it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

from trainer.backend.ahead import LOG, ray_settings, take_ahead
from trainer.backend.stop import STOP
from trainer.guard import LISTENING
from trainer.process import how_it_ended, last_lines, run_guarded
from trainer.records import Growing, read_records


class StageFailedError(RuntimeError):
    """A stage did not end as it should: why, and where its log is."""


def launch(
    folder: Path,
    values: Mapping[str, object],
    environment: Mapping[str, str],
    *,
    first_step: int,
    on_step: Callable[[dict], None],
    stall_timeout: float,
    stop_grace: float,
    warm: bool,
) -> None:
    """Train the stage whose settings are `values`; blocks until it has ended.

    Args:
        folder: The stage's folder: settings, metrics, log, and verl's state.
        values: What `settings` gave.
        environment: Added to this process's environment.
        first_step: Step that training starts or resumes at, from 1.
        on_step: Called once with each record of `metrics.jsonl`, in order, soon after it is
            written.
        stall_timeout: Seconds without a step and without a line in the log before it is stopped.
        stop_grace: Seconds that a trainer told to stop has to save its last whole step.
        warm: Fork it from a process that has the imports; for a trainer that uses no GPU.

    Raises:
        StageFailedError: the trainer failed.
        StalledError: the trainer stalled; it has been stopped.
        KeyboardInterrupt: passed on, as `run_guarded` does.
    """
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "settings.json").write_text(json.dumps({"verl": dict(values)}, indent=2))
    for name in ("failure.json", STOP, STOP + LISTENING):
        (folder / name).unlink(missing_ok=True)
    next_step, metrics = first_step, folder / "metrics.jsonl"
    before = {record["time"] for record in read_records(metrics)}
    growing = Growing(metrics)

    def progress() -> bool:
        nonlocal next_step
        seen = next_step
        for record in growing.more():
            if record["step"] == next_step and record["time"] not in before:
                on_step(record)
                next_step += 1
        return next_step > seen

    begun = take_ahead(folder, ray_settings(values), environment)
    if begun:
        code = begun.watch(folder / LOG, progress, stall_timeout)
    else:
        code = run_guarded(
            "trainer.backend.main",
            [str(folder)],
            log=folder / LOG,
            environment=environment,
            progress=progress,
            stall_timeout=stall_timeout,
            stop_file=folder / STOP,
            grace=stop_grace,
            warm=warm,
        )
    if code != 0:
        raise StageFailedError(_reason(folder, code))


def _reason(folder: Path, code: int) -> str:
    log, failure = folder / LOG, folder / "failure.json"
    if failure.exists():
        record = json.loads(failure.read_text())
        return f"{record['type']}: {record['message']}\n\nlog: {log}"
    return f"the trainer {how_it_ended(code)}; its last lines:\n{last_lines(log)}\n\nlog: {log}"
