"""The trainers and samplers of a finished pipeline, started by hand: one after another, from cold.

What a shell script would take that starts the same processes with the same settings, and neither
prepares data nor grades, tracks or reports: what a pipeline's seconds are to be compared with.
"""

import shutil
import time
from pathlib import Path

from conf import telemetry
from conf.schema import Experiment
from tasks import generations
from tasks.artifacts import read_json
from tasks.stages import MANIFEST, stage_folders
from trainer.generate import parts
from trainer.process import run_guarded

GIVEN = ("settings.json", "prompts.parquet")
"""What a trainer is given in its stage's folder."""


def by_hand(experiment: Experiment, output: Path) -> dict[str, float]:
    """Train each stage and sample each checkpoint of a finished pipeline anew, on a CPU.

    Args:
        experiment: What the pipeline ran.
        output: Its folder. What was trained and sampled there is replaced.

    Returns:
        Seconds of all trainers, and of all samplers.

    Raises:
        RuntimeError: one failed.
    """
    manifests = {folder: read_json(folder / MANIFEST) for folder in stage_folders(output)}
    training = sampling = 0.0
    for folder in sorted(manifests, key=lambda folder: manifests[folder]["position"]):
        _clear(folder)
        variables = {**manifests[folder]["engine"]["environment"], **telemetry.OFF}
        training += _seconds("trainer.backend.main", [str(folder)], folder, variables)
    for request in sorted(output.glob("generations/*/request.json")):
        for part in parts(request.parent):
            part.unlink()
        words, variables = [str(request.parent), "0"], generations.environment(experiment, 0)
        sampling += _seconds("trainer.generate", words, request.parent, variables)
    return {"training_s": round(training, 1), "sampling_s": round(sampling, 1)}


def _clear(stage: Path) -> None:
    for path in stage.iterdir():
        if path.is_dir():
            shutil.rmtree(path)
        elif path.name not in GIVEN:
            path.unlink()


def _seconds(module: str, words: list[str], folder: Path, environment: dict[str, str]) -> float:
    log = folder / "by_hand.log"
    began = time.monotonic()
    code = run_guarded(
        module,
        words,
        log=log,
        environment=environment,
        progress=lambda: False,
        stall_timeout=600.0,
    )
    if code:
        raise RuntimeError(f"{module} ended with exit code {code}\n\nhint: {log}")
    return time.monotonic() - began
