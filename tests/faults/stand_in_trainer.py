"""What verl's trainer does to a stage's folder, without learning: python -m stand_in_trainer FOLDER

In verl's order: a step's checkpoint file by file, the one that makes it whole last, then verl's
tracker, then the step's prompts and its record. It holds shared memory and a daemon in a session of
its own, as Ray does, for whoever must clean up after it.
"""

import json
import mmap
import os
import random
import shutil
import subprocess
import sys
import time
from pathlib import Path

import pyarrow.parquet as pq

from trainer.backend.endings import Endings, refuse
from trainer.backend.resume import STATE, TRACKER, last_saved_step, last_whole_step
from trainer.records import append_record, keep_steps


def drawn(ids: list[str], seed: int, batch: int, steps: int) -> list[list[str]]:
    """Ids of the prompts of each step: shuffled anew for each epoch, whose last part is dropped."""
    source = random.Random(seed)
    found: list[list[str]] = []
    while len(found) < steps:
        epoch = source.sample(ids, len(ids))
        whole = len(ids) // batch * batch
        found += [epoch[start : start + batch] for start in range(0, whole, batch)]
    return found[:steps]


def prompts_in_order(folder: Path, seed: int, batch: int, steps: int) -> list[list[str]]:
    """`drawn`, from a stage's folder."""
    rows = pq.read_table(folder / "prompts.parquet")["extra_info"].to_pylist()
    return drawn([row["id"] for row in rows], seed, batch, steps)


def main(folder: Path) -> None:
    """Make the steps that are not made yet, and export."""
    values = json.loads((folder / "settings.json").read_text())["verl"]
    steps, batch = values["trainer.total_training_steps"], values["data.train_batch_size"]
    group = values["actor_rollout_ref.rollout.n"]
    held = _leave_things()
    verl = folder / "verl"
    made = last_saved_step(verl)
    if made:
        cursor = json.loads((verl / f"global_step_{made}" / "data.pt").read_text())
        assert cursor == made * batch, (cursor, made)
    for name in ("metrics.jsonl", "order.jsonl"):
        keep_steps(folder / name, made)
    order = prompts_in_order(folder, values["data.seed"], batch, steps)
    given = json.loads(values["+trainer.stagecraft.endings"])
    endings = Endings(folder / "metrics.jsonl", given, steps)
    last, step = endings.resume() or steps, made
    while step < last:
        step += 1
        time.sleep(float(os.environ["STAND_IN_WAIT"]))
        _save(verl, step, step * batch, values["trainer.max_actor_ckpt_to_keep"])
        record = _record(step, batch, group)
        endings.check(record)
        collapse = endings.collapse()
        append_record(folder / "order.jsonl", {"step": step, "prompts": order[step - 1]})
        append_record(folder / "metrics.jsonl", record)
        if collapse:
            refuse(collapse, last_whole_step(folder))
        if endings.done():
            last = step
    _export(folder, verl / f"global_step_{last}")
    held.close()


def _leave_things() -> mmap.mmap:
    sleep = [sys.executable, "-c", "import time; time.sleep(600)"]
    subprocess.Popen(sleep, start_new_session=True)
    with open(f"/dev/shm/stand-in-{os.getpid()}", "wb+") as file:
        file.truncate(4096)
        return mmap.mmap(file.fileno(), 4096)


def _save(verl: Path, step: int, cursor: int, kept: int) -> None:
    folder = verl / f"global_step_{step}"
    (folder / "actor").mkdir(parents=True, exist_ok=True)
    (folder / STATE).write_text(json.dumps({"drawn": cursor}))
    weights = random.Random(step).randbytes(1 << 20)
    (folder / "actor" / "model.safetensors").write_bytes(weights)
    (folder / "data.pt").write_text(json.dumps(cursor))
    (verl / TRACKER).write_text(str(step))
    shutil.rmtree(verl / f"global_step_{step - kept}", ignore_errors=True)


def _export(folder: Path, saved: Path) -> None:
    aside, target = folder / "checkpoint.part", folder / "checkpoint"
    shutil.rmtree(aside, ignore_errors=True)
    aside.mkdir()
    shutil.copy(saved / "actor" / "model.safetensors", aside / "weights.bin")
    (aside / "handoff.json").write_text(json.dumps({"parameters": 3}))
    shutil.rmtree(target, ignore_errors=True)
    os.replace(aside, target)


def _record(step: int, batch: int, group: int) -> dict:
    return {
        "step": step,
        "time": time.time(),
        "reward/mean": step / 100,
        "truncated_share": 0.0,
        "response_length/mean": 20.0,
        "tokens_per_second": 1000.0,
        "seconds/step": 0.1,
        "updates": 1,
        "prompts": batch,
        "rollouts": batch * group,
        "tokens/generated": 640,
        "tokens/trained": 640,
    }


if __name__ == "__main__":
    main(Path(sys.argv[1]))
