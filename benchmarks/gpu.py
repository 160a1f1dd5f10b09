"""Ours on verl beside stock verl on one GPU, with vLLM: Qwen2 of 0.5B and 1.5B, long responses.

    python -m benchmarks.gpu                # one GPU of 80 GB; writes results/gpu.json and gpu.md
    python -m benchmarks.gpu --tiny         # the same on a CPU with a tiny model: does it run?

Random weights: what is measured is time and memory, and no response ends before its longest length.
Each size gets 262,144 tokens a step, whatever the length; then 128 prompts × 16 rollouts of 256
tokens, where the work around each rollout weighs most. `benchmarks.step` says what is in turns.
"""

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

from benchmarks.record import RESULTS, write
from benchmarks.step import in_turns, summary, table
from benchmarks.step_model import random_model
from benchmarks.step_work import Work

TOKENS = 262_144  # of a step
LENGTHS = (1024, 4096, 8192)
ROLLOUTS = 8
PROMPT = 64  # more than the longest prompt
ON_GPU = ("hardware.dtype=bfloat16", "hardware.gradient_checkpointing=true")


def works(model: Path, tiny: bool) -> list[Work]:
    """What is measured with one model."""
    if tiny:
        usual = Work(str(model), rollouts=2, steps=3, micro_batch=8)
        return [replace(usual, prompts=4, response=length) for length in (8, 16)]
    usual = Work(str(model), rollouts=ROLLOUTS, hardware="gpu1", overrides=ON_GPU)
    long = [
        replace(
            usual,
            prompts=TOKENS // length // ROLLOUTS,
            response=length,
            micro_batch=max(1, 2 * LENGTHS[-1] // length),
        )
        for length in LENGTHS
    ]
    return [*long, replace(usual, prompts=128, rollouts=16, response=256, micro_batch=64)]


def main() -> None:
    """Measure, print, and write JSON and Markdown."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--tiny", action="store_true", help="on a CPU, with a tiny model")
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--output", type=Path, default=RESULTS / "gpu", help="without suffix")
    given = parser.parse_args()
    results, pages = [], []
    with tempfile.TemporaryDirectory(prefix="gpu-") as folder:
        for name in ["tiny"] if given.tiny else ["0.5B", "1.5B"]:
            dtype = "float32" if given.tiny else "bfloat16"
            model = random_model(name, Path(folder) / name, PROMPT + LENGTHS[-1], dtype)
            for number, work in enumerate(works(model, given.tiny)):
                rounds = in_turns(
                    ["ours", "stock"], work, given.rounds, Path(folder) / f"{name}-{number}"
                )
                found = summary(rounds)
                pages.append(f"{name}, {work.size}:\n\n{table(found, work)}")
                print(pages[-1], flush=True)
                results.append(
                    {"model": name, "size": work.size, "summary": found, "rounds": rounds}
                )
    write(given.output, {"results": results}, "\n\n".join(pages))


if __name__ == "__main__":
    main()
