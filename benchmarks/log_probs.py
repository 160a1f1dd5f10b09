"""Log-probabilities without flash-attn, forwards and back: ours beside verl's row by row.

    python -m benchmarks.log_probs                    # a minute; writes results/log_probs.json

On a GPU where there is one, at the vocabulary of Qwen2, else at the lab's and a larger one.
"""

import argparse
import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch.utils.benchmark import Timer
from verl.utils.torch_functional import logprobs_from_logits_v2

from benchmarks.record import RESULTS, write
from trainer.backend.log_probs import log_probs

FUNCTIONS = {"ours": log_probs, "verl's": logprobs_from_logits_v2}
SECONDS = 2.0  # that each is repeated for, at least


def sizes(device: str) -> list[tuple[int, int, torch.dtype]]:
    """Tokens, vocabulary and precision of the logits."""
    if device == "cuda":
        return [(8_192, 151_936, torch.bfloat16), (8_192, 151_936, torch.float32)]
    return [(20_000, 323, torch.float32), (2_000, 32_000, torch.bfloat16)]


def seconds(
    function: Callable, tokens: int, vocabulary: int, dtype: torch.dtype, device: str
) -> float:
    """Median seconds of one pass, forwards and back."""
    source = torch.Generator(device).manual_seed(0)
    shape = {"generator": source, "device": device}
    logits = torch.randn(tokens, vocabulary, dtype=dtype, **shape).requires_grad_()
    labels = torch.randint(vocabulary, (tokens,), **shape)
    timer = Timer(
        "torch.autograd.grad(function(logits, labels).sum(), logits)",
        globals={"torch": torch, "function": function, "logits": logits, "labels": labels},
        num_threads=torch.get_num_threads(),
    )
    return timer.blocked_autorange(min_run_time=SECONDS).median


def main() -> None:
    """Measure, print, and write JSON."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--output", type=Path, default=RESULTS / "log_probs", help="without suffix")
    given = parser.parse_args()
    device = "cuda" if torch.cuda.is_available() else "cpu"
    rows = []
    for tokens, vocabulary, dtype in sizes(device):
        size = {"tokens": tokens, "vocabulary": vocabulary, "dtype": str(dtype), "device": device}
        took = {
            name: seconds(function, tokens, vocabulary, dtype, device)
            for name, function in FUNCTIONS.items()
        }
        rows.append({**size, "seconds": took, "ratio": took["verl's"] / took["ours"]})
        print(json.dumps(rows[-1]), flush=True)
    write(given.output, {"rows": rows})


if __name__ == "__main__":
    main()
