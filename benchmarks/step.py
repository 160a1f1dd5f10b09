"""A training step and a launch: ours on verl, stock verl, a plain PyTorch loop, TRL. In turns.

    python -m benchmarks.step                          # 10 minutes; writes results/step.*
    python -m benchmarks.step --rounds 1 --systems ours plain --output somewhere/step
    python -m benchmarks.step --instant --systems ours stock --prompts 128 --rollouts 16
    python -m pip install --no-deps --target .trl trl==1.16.0      # before, to have TRL measured

The third measures the work around sampling alone: rollouts are made up in no time, and `generate`
is then what agent loop, reward loop, transfer queue and replay buffer take.

Each round launches every system once, one after the other: the same model, prompts, numbers of
rollouts and tokens, one optimizer update a step. A launch is the time until its first step has
ended; a step is the mean of those between the first and the last. Figures are medians of rounds,
ratios medians of the ratios within a round.

What is stock and what is not: verl has no CPU platform and no rollout for one, so stock verl gets
ours, and with the platform its faster log-probabilities (`trainer/backend/cpu.py`, without which it
is slower); with one agent-loop worker and one reward worker in place of eight each, which two cores
would not bear; and our settings of lengths and batches. Its trainer, replay buffer, agent loop,
reward loop, task runner and entry are its own. On a GPU nothing of ours is loaded but the reward,
and without flash-attn the log-probabilities (`benchmarks/step_stock_gpu.py`).
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path
from statistics import median

from benchmarks.record import RESULTS, write
from benchmarks.step_watch import measured
from benchmarks.step_work import SYSTEMS, TOLD, Work, missing
from trainer.lab import BASE

FIGURES = ("launch_s", "launch_cpu_s", "step_s", "step_cpu_s", "peak_gib")


def in_turns(systems: list[str], work: Work, rounds: int, folder: Path) -> list[dict[str, dict]]:
    """What each round measured, by system."""
    results = []
    for number in range(1, rounds + 1):
        row = {}
        for system in systems:
            row[system] = measured(system, work, folder / f"{number}-{system}")
            print(f"round {number}  {system:6}", told_of(row[system]), flush=True)
        results.append(row)
    return results


def told_of(one: dict) -> str:
    """A launch in a line."""
    return (
        f"launch {one['launch_s']:6.1f} s ({one['launch_cpu_s']:5.1f} s CPU)  "
        f"step {one['step_s']:6.2f} s ({one['step_cpu_s']:5.2f} s CPU)  {one['peak_gib']:.1f} GiB"
    )


def summary(results: list[dict[str, dict]]) -> dict[str, dict]:
    """Medians over the rounds, by system; and how often ours fits into each, by round."""
    found = {}
    for system in results[0]:
        runs = [row[system] for row in results]
        one = {key: median(run[key] for run in runs) for key in FIGURES}
        parts = {name: median(run["parts"].get(name, 0.0) for run in runs)
                 for name in runs[0]["parts"]}  # fmt: skip
        if "ours" in results[0]:
            for key in ("step_s", "step_cpu_s", "launch_s"):
                ratios = [row[system][key] / row["ours"][key] for row in results]
                one[f"{key}_of_ours"] = round(median(ratios), 3)
        found[system] = {**one, "parts": parts}
    return found


def table(found: dict[str, dict], work: Work) -> str:
    """The summary as a table in Markdown."""
    lines = [
        "| system | launch to first step, s | of CPU, s | step, s | of CPU, s | tokens/s | GiB "
        "| its step / ours |",
        "|---|---|---|---|---|---|---|---|",
    ]
    for system, one in found.items():
        ratio = f"{one['step_s_of_ours']:.2f}" if "step_s_of_ours" in one else ""
        lines.append(
            f"| {TOLD[system]} | {one['launch_s']:.1f} | {one['launch_cpu_s']:.1f} "
            f"| {one['step_s']:.2f} | {one['step_cpu_s']:.2f} "
            f"| {work.tokens / one['step_s']:,.0f} | {one['peak_gib']:.1f} | {ratio} |"
        )
    lines += ["", "Seconds of a step by part, as each system tells them:", ""]
    for system, one in found.items():
        told = ", ".join(f"{k} {v:.2f}" for k, v in one["parts"].items() if v and k != "memory_gib")
        lines.append(f"- {system}: {told}")
    return "\n".join(lines)


def available(asked: list[str]) -> list[str]:
    """Those that can be measured here; says of the others why not."""
    for system in asked:
        if why := missing(system):
            print(why)
    return [system for system in asked if not missing(system)]


def main() -> None:
    """Measure, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    usual = Work(model=str(BASE))
    parser.add_argument("--systems", nargs="+", choices=SYSTEMS, default=list(SYSTEMS))
    parser.add_argument("--rounds", type=int, default=5, help="each launches every system")
    for name in ("prompts", "rollouts", "response", "steps"):
        parser.add_argument(f"--{name}", type=int, default=getattr(usual, name))
    parser.add_argument("--instant", action="store_true", help="rollouts in no time: verl's own")
    parser.add_argument("--output", type=Path, default=RESULTS / "step", help="without suffix")
    given = parser.parse_args()
    sizes = {k: getattr(given, k) for k in ("prompts", "rollouts", "response", "steps", "instant")}
    work = replace(usual, **sizes)
    systems = available(given.systems)
    with tempfile.TemporaryDirectory(prefix="step-") as folder:
        results = in_turns(systems, work, given.rounds, Path(folder))
    found = summary(results)
    told = table(found, work)
    print(told)
    facts = {"work": work.facts, "summary": found, "rounds": results}
    write(given.output, facts, f"{work.size}:\n\n{told}")


if __name__ == "__main__":
    main()
