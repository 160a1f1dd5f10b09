"""What each selection pays for a group that teaches: simulated, beside the formula.

    python -m benchmarks.selection

Prompts have fixed pass rates: a share is hopeless or solved, the others spread evenly. A group
teaches if its rollouts disagree. Writes `benchmarks/results/selection.json` and `selection.md`:
rollouts generated per teaching group, and what the formulas say where there are some:

    uniform   N / mean(1 − p^N − (1 − p)^N)
    DAPO      the same: what does not teach is generated all the same
    SPEED     N_init / mean(1 − p^N_init − (1 − p)^N_init) + N_cont
"""

import argparse

import numpy as np

from benchmarks.record import RESULTS, write
from conf.schema import Selection
from trainer.selection import Bounds, Prompt, Stream, make_curriculum
from trainer.selection.simulator import Simulator, constant
from trainer.selection.speed import qualifies

ARMS = ("uniform", "dapo", "speed", "mopps", "greso", "speed_mopps")
SCREENING, GROUP = 4, 24
FLAT = (0.0, 0.5, 0.75)


def pass_rates(prompts: int, flat: float, seed: int) -> list[float]:
    """Pass rates of which a share is 0 or 1, half of each, and the rest even in between."""
    rng = np.random.default_rng(seed)
    ends = round(prompts * flat)
    rates = [*rng.uniform(size=prompts - ends), *np.zeros(ends // 2), *np.ones(ends - ends // 2)]
    return rng.permutation(rates).tolist()


def simulated(name: str, rates: list[float], batch_size: int, steps: int, seed: int) -> dict:
    """One stage of one selection: rollouts per teaching group, over its second half."""
    settings = Selection(name=name, speed={"screening": SCREENING}).model_dump()
    prompts = [Prompt(f"p{place}") for place in range(len(rates))]
    curriculum = make_curriculum(settings, prompts, group_size=GROUP, seed=seed, steps=steps)
    stream = Stream(curriculum, Bounds(batch_size, 4 * batch_size, 1, 16 * batch_size))
    run = Simulator(stream, constant(rates), seed=seed)
    records = []
    for _, record, _ in run.steps(steps):
        stream.released.clear()
        records.append(record)
    late = records[steps // 2 :]  # what learns about prompts has learned by then
    taught = sum(r["selection/trained"] * (1 - r["zero_variance_share"]) for r in late)
    return {
        "rollouts_per_teaching_group": sum(r["rollouts"] for r in late) / taught,
        "zero_variance_share": 1 - taught / sum(r["selection/trained"] for r in late),
        "prompts_per_teaching_group": sum(r["selection/drawn"] for r in late) / taught,
    }


def formulas(rates: list[float]) -> dict[str, float]:
    """Expected rollouts per teaching group where prompts are drawn evenly."""
    whole = GROUP / np.mean([qualifies(rate, GROUP) for rate in rates])
    screened = np.mean([qualifies(rate, SCREENING) for rate in rates])
    speed = SCREENING / screened + GROUP - SCREENING
    return {"uniform": float(whole), "dapo": float(whole), "speed": float(speed)}


def table(results: list[dict]) -> str:
    """A row per share of flat prompts, a column per selection; the formula in brackets."""
    lines = ["| hopeless or solved | " + " | ".join(ARMS) + " |", "|---" * (1 + len(ARMS)) + "|"]
    for row in results:
        cells = []
        for name in ARMS:
            values = [run["rollouts_per_teaching_group"] for run in row["runs"][name]]
            told = f"{np.mean(values):.1f} ± {np.std(values, ddof=1):.1f}"
            expected = row["formulas"].get(name)
            cells.append(told + (f" ({expected:.1f})" if expected else ""))
        lines.append(f"| {row['flat']:.0%} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def main() -> None:
    """Simulate, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    # The second half of the steps then draws each prompt once, where they are drawn evenly.
    parser.add_argument("--prompts", type=int, default=480)
    parser.add_argument("--batch-size", type=int, default=16)
    parser.add_argument("--steps", type=int, default=60)
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2, 3, 4])
    given = parser.parse_args()
    results = []
    for flat in FLAT:
        rates = pass_rates(given.prompts, flat, 0)
        runs = {
            name: [
                simulated(name, rates, given.batch_size, given.steps, seed) for seed in given.seeds
            ]
            for name in ARMS
        }
        results.append({"flat": flat, "formulas": formulas(rates), "runs": runs})
    told = table(results)
    print(told)
    facts = {
        "settings": {**vars(given), "screening": SCREENING, "group_size": GROUP},
        "results": results,
    }
    heading = (
        f"Rollouts generated per group that teaches, {SCREENING} + {GROUP - SCREENING} rollouts "
        "a prompt; mean ± deviation over seeds, the formula in brackets."
    )
    write(RESULTS / "selection", facts, f"{heading}\n\n{told}")


if __name__ == "__main__":
    main()
