"""Compares selections on the lab with verl itself: accuracy against updates, tokens and seconds.

    python -m benchmarks.selection_lab --output outputs --seeds 0 1 2

One stage on 160 prompts, half of which the base always solves or never does, by its own 16
responses to each. Every few steps the checkpoint is kept and scored on 120 held-back problems. A
run that is there already is not made again. Writes `benchmarks/results/selection_lab.json` and
`selection_lab.md`.

Seconds are those of the steps, without start-up and without saving.
"""

import argparse
import shutil
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from benchmarks.record import RESULTS, write
from conf.load import load
from conf.overrides import written
from conf.schema import Experiment
from tasks.artifacts import read_json, write_json
from tasks.download import download
from tasks.model import starting_model
from tasks.segment import segment
from tasks.train_stage import train_stage
from trainer.lab import BASE, task
from trainer.lab.measure import measure, prompt_ids
from trainer.metrics import Cost, cost_to_target, speed_up
from trainer.records import read_records
from trainer.sampling import sample, seed_of

ARMS = {
    "RLOO": ("method=rloo", "selection=uniform"),
    "SPEED-RLOO": ("method=rloo", "selection=speed"),
    "SPEED-RLOO, a step ahead": ("method=rloo", "selection=speed_ahead"),
    "SPEED-RLOO as published": ("method=rloo", "selection=speed_as_published"),
    "SPEED+MoPPS-RLOO": ("method=rloo", "selection=speed_mopps"),
    "GRPO": ("method=grpo", "selection=uniform"),
    "DAPO": ("method=grpo", "method.clip_high=0.28", "selection=dapo"),
    "SPEED-DAPO": ("method=grpo", "method.clip_high=0.28", "selection=speed"),
}
BASELINES = {arm: "RLOO" if "RLOO" in arm else "GRPO" for arm in ARMS}
RESPONSES = 16  # of the base to each candidate
SHARES = {"hopeless": 56, "solved": 24, "between": 80}
LEVELS = {"hopeless": range(12, 17), "solved": range(2, 4), "between": range(3, 11)}
TEST = {"rows": 120, "samples": 4, "context_length": 96, "first_context_length": 36}


def prompts(path: Path, context_length: int) -> dict[str, int]:
    """Write the training prompts, sorted into `SHARES` by the base's own responses; the counts."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32).eval()
    rows = task.problems(3000, 0, "train")
    found: dict[str, list[dict]] = {kind: [] for kind in SHARES}
    for kind, levels in LEVELS.items():  # where such prompts are likely; the responses decide
        likely = iter([row for row in rows if row["extra_info"]["level"] in levels])
        while len(found[kind]) < SHARES[kind]:
            block = list(islice(likely, 16))
            if not block:
                raise SystemExit(f"too few prompts are {kind}: {len(found[kind])}")
            questions = [
                row["prompt"][0]["content"].removesuffix(f" {task.INSTRUCTION}") for row in block
            ]
            asked = [question for question in questions for _ in range(RESPONSES)]
            drawn = sample(
                model,
                [prompt_ids(tokenizer, question) for question in asked],
                max_new_tokens=context_length,
                temperature=1.0,
                eos_ids={tokenizer.eos_token_id},
                pad_id=tokenizer.pad_token_id,
                seeds=[seed_of("selection_lab", q, n) for n, q in enumerate(asked)],
            )
            texts = tokenizer.batch_decode([one.tokens for one in drawn], skip_special_tokens=True)
            correct = [task.is_correct(q, text) for q, text in zip(asked, texts, strict=True)]
            for place, row in enumerate(block):
                right = sum(correct[place * RESPONSES : (place + 1) * RESPONSES])
                if {0: "hopeless", RESPONSES: "solved"}.get(right, "between") == kind:
                    found[kind].append(row)
        found[kind] = found[kind][: SHARES[kind]]
    chosen = [row for kind in SHARES for row in found[kind]]
    pq.write_table(pa.Table.from_pylist(chosen), path)
    return {kind: len(kept) for kind, kept in found.items()}


class Keeper:
    """Stands where the tracker does, and keeps the checkpoints that are to be scored."""

    def __init__(self, folder: Path, every: int):
        self.folder, self.every, self.stage = folder, every, None

    @contextmanager
    def child_run(self, *_arguments, **_settings):
        """A run that nobody records."""
        yield SimpleNamespace(id="", log_step=self.keep, log_checkpoint=lambda *_, **__: None)

    def found_stage(self, *_arguments):
        """Nothing to record."""

    def keep(self, record: dict) -> None:
        """Copy a checkpoint before verl drops it."""
        step = int(record["step"])
        if step % self.every:
            return
        (source,) = self.folder.parent.glob(f"out/stages/*/verl/global_step_{step}/actor")
        shutil.copytree(source / "huggingface", self.folder / str(step), dirs_exist_ok=True)


def settings_of(arm: str, seed: int, output: Path, data: Path) -> Experiment:
    """The experiment of an arm with a seed."""
    return load(
        "experiment=lab/selection",
        *ARMS[arm],
        f"seed={seed}",
        f"output={written(str(output))}",
        "data.train.kind=file",
        f"data.train.path={written(str(data))}",
    )


def run(arm: str, seed: int, output: Path, data: Path) -> dict:
    """Train one arm and score its checkpoints; from the disk if it was done."""
    name = f"{arm.replace(' ', '_')}-{seed}"
    done = output / f"{name}.json"
    if done.exists():
        return read_json(done)
    experiment = settings_of(arm, seed, output / name / "out", data)
    stage, folder = experiment.stages[0], Path(experiment.output)
    kept = output / name / "kept"
    kept.mkdir(parents=True, exist_ok=True)
    train = download(experiment.data.train, experiment.data, folder)
    sets = segment(train, experiment.data, folder)
    manifest = train_stage(
        experiment,
        0,
        sets[stage.prompts],
        starting_model(experiment.model),
        Keeper(kept, stage.save_every),
        "none",
    )
    records = read_records(Path(manifest["folder"]) / "metrics.jsonl")
    curve = [scored(BASE, records[:0])]
    for step in range(stage.save_every, stage.steps + 1, stage.save_every):
        curve.append(scored(kept / str(step), records[:step]))
    result = {
        "arm": arm,
        "seed": seed,
        "overrides": ["experiment=lab/selection", *ARMS[arm], f"seed={seed}"],
        "curve": curve,
        "totals": sums(records),
    }
    write_json(done, result)
    shutil.rmtree(output / name)
    return result


def sums(records: list[dict]) -> dict[str, float]:
    """What steps cost."""
    counted = {
        "steps": len(records),
        "updates": sum(r["updates"] for r in records),
        "prompts": sum(r["prompts"] for r in records),
        "rollouts": sum(r["rollouts"] for r in records),
        "rollouts_trained": sum(r["rollouts/trained"] for r in records),
        "tokens_generated": sum(r["tokens/generated"] for r in records),
        "tokens_trained": sum(r["tokens/trained"] for r in records),
        "zero_variance_groups": sum(
            r["zero_variance_share"] * r["selection/trained"] for r in records
        ),
    }
    # The first step waits for what later ones find loaded: the median stands for it.
    seconds = [r["seconds/step"] - r.get("seconds/save", 0) for r in records]
    if seconds:
        seconds[0] = float(np.median(seconds))
    return {**counted, "seconds": float(sum(seconds))}


def scored(checkpoint: Path, records: list[dict]) -> dict[str, float]:
    """avg@4 of a checkpoint, beside what it cost to get there."""
    tokenizer = AutoTokenizer.from_pretrained(BASE)
    model = AutoModelForCausalLM.from_pretrained(checkpoint, dtype=torch.float32).eval()
    return {**sums(records), "accuracy": measure(model, tokenizer, **TEST)["avg_at_k"]}


def table(runs: list[dict], target: float) -> str:
    """A row per arm: what it cost to a target, and how many times less than its baseline."""
    lines = [
        f"| arm | seeds | final avg@4 | updates to {target:.0%} | tokens to {target:.0%} "
        f"| times less than uniform (95 %) | seconds to {target:.0%} "
        "| times less than uniform (95 %) | updates | rollouts generated | trained "
        "| zero-variance groups |",
        "|" + "---|" * 12,
    ]
    for arm in dict.fromkeys(run["arm"] for run in runs):
        own = [run for run in runs if run["arm"] == arm]
        uniform = [run for run in runs if run["arm"] == BASELINES[arm]]
        final = [run["curve"][-1]["accuracy"] for run in own]
        cells = [told(costs(own, "updates", target))]
        for unit in ("tokens_generated", "seconds"):
            mine = costs(own, unit, target)
            cells += [told(mine), times(costs(uniform, unit, target), mine, arm)]
        totals = {key: np.mean([run["totals"][key] for run in own]) for key in own[0]["totals"]}
        lines.append(
            f"| {arm} | {len(own)} | {np.mean(final):.1%} ({min(final):.1%} to {max(final):.1%}) | "
            + " | ".join(cells)
            + f" | {totals['updates']:.0f} | {totals['rollouts']:,.0f} "
            f"| {totals['rollouts_trained']:,.0f} | {totals['zero_variance_groups']:.0f} |"
        )
    return "\n".join(lines)


def costs(runs: list[dict], unit: str, target: float) -> list[Cost]:
    """What each run spent until its accuracy first reached a target."""
    return [
        cost_to_target(
            [point[unit] for point in run["curve"]],
            [point["accuracy"] for point in run["curve"]],
            target,
        )
        for run in runs
    ]


def told(spent: list[Cost]) -> str:
    """Mean over seeds; how many reached the target where not all did."""
    reached = sum(cost.reached for cost in spent)
    text = f"{np.mean([cost.spent for cost in spent]):,.0f}"
    return text if reached == len(spent) else f"> {text}, {reached} of {len(spent)}"


def times(uniform: list[Cost], mine: list[Cost], arm: str) -> str:
    """How many times less an arm costs than uniform sampling, with its interval over seeds."""
    if arm == BASELINES[arm] or not uniform:
        return ""
    found = speed_up(uniform, mine)
    return f"{found.bound} {found.ratio:.2f} ({found.low:.2f} to {found.high:.2f})".strip()


def main() -> None:
    """Train what is not there yet, score, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--arms", nargs="+", default=list(ARMS), choices=list(ARMS))
    parser.add_argument("--targets", type=float, nargs="+", default=[0.75, 0.9], help="avg@4")
    parser.add_argument("--output", type=Path, default=Path("outputs"), help="folder of the runs")
    given = parser.parse_args()
    output = given.output.absolute() / "selection_lab"
    output.mkdir(parents=True, exist_ok=True)
    data = output / "prompts.parquet"
    counts = output / "prompts.json"
    if not counts.exists():
        write_json(counts, prompts(data, load("experiment=lab/selection").stages[0].context_length))
    runs = []
    for seed in given.seeds:
        for arm in given.arms:
            runs.append(run(arm, seed, output, data))
            tables = "\n\n".join(table(runs, target) for target in given.targets)
            facts = {
                "prompts": read_json(counts),
                "test": TEST,
                "targets": given.targets,
                "runs": runs,
            }
            write(RESULTS / "selection_lab", facts, tables)
            print(tables, flush=True)


if __name__ == "__main__":
    main()
