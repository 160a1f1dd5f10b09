"""James-Stein baselines: error against the true pass rate, and the time an estimate takes.

    python -m benchmarks.james_stein            # prints the table
    python -m benchmarks.james_stein --write    # and leaves it in results/james_stein.json

True pass rates p are drawn from a Beta distribution, rewards are 1 with probability p. The baseline
is r - A, whatever the estimator. Seconds are of one thread.
"""

import argparse
import time

import torch

from benchmarks.record import RESULTS, write
from trainer.advantages import james_stein, rloo

# Prompts, rollouts, Beta's two parameters.
CASES = [(16, 2, 1, 1), (64, 4, 1, 1), (64, 8, 1, 1), (64, 16, 1, 1), (64, 8, 0.3, 0.9)]
CASES += [(3, 8, 0.3, 0.9)]
BASELINES = {
    "rloo": rloo,
    "published": lambda rewards: james_stein(rewards, variant="published"),
    "corrected": lambda rewards: james_stein(rewards, variant="corrected"),
}


def errors(
    prompts: int, rollouts: int, a: float, b: float, batches: int, seed: int = 0
) -> dict[str, float]:
    """Mean squared distance of each baseline from the true pass rate.

    Args:
        prompts: Prompt groups in a batch.
        rollouts: Rollouts of each.
        a: First parameter of the Beta distribution of pass rates.
        b: Second parameter.
        batches: Batches to average over.
        seed: Of the draws.
    """
    generator = torch.Generator().manual_seed(seed)
    total = dict.fromkeys(BASELINES, 0.0)
    for _ in range(batches):
        p = _beta(a, b, prompts, generator)
        rewards = torch.bernoulli(p.expand(prompts, rollouts), generator=generator)
        for name, estimate in BASELINES.items():
            total[name] += float((rewards - estimate(rewards) - p).square().mean())
    return {name: value / batches for name, value in total.items()}


def _beta(a: float, b: float, count: int, generator: torch.Generator) -> torch.Tensor:
    gammas = [
        torch._standard_gamma(torch.full((count, 1), float(c), dtype=torch.float64), generator)
        for c in (a, b)
    ]
    return gammas[0] / (gammas[0] + gammas[1])


def seconds(prompts: int, rollouts: int, variant: str, repeats: int = 200) -> float:
    """Median seconds of one estimate on one thread."""
    torch.set_num_threads(1)
    rewards = torch.bernoulli(torch.full((prompts, rollouts), 0.5, dtype=torch.float64))
    taken = []
    for _ in range(repeats):
        start = time.perf_counter()
        james_stein(rewards, variant=variant)
        taken.append(time.perf_counter() - start)
    return sorted(taken)[repeats // 2]


def main() -> None:
    """Measure, print and, if asked, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--write", action="store_true", help="leave the table in results/")
    parser.add_argument("--batches", type=int, default=4000, help="batches to average over")
    given = parser.parse_args()
    rows = [
        {"prompts": n, "rollouts": m, "beta": [a, b], **errors(n, m, a, b, given.batches)}
        for n, m, a, b in CASES
    ]
    speed = {variant: seconds(128, 8, variant) for variant in ("published", "corrected")}
    for row in rows:
        print({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
    print({variant: f"{value * 1e6:.0f} µs for 128 × 8" for variant, value in speed.items()})
    if given.write:
        write(RESULTS / "james_stein", {"mean_squared_error": rows, "seconds_128x8": speed})


if __name__ == "__main__":
    main()
