"""The plain loop that everything is compared with."""

import pytest
import torch
from torch.testing import assert_close
from transformers import AutoModelForCausalLM

from benchmarks.lab_loop import Loop, pack, update
from trainer.lab import BASE
from trainer.sampling import Sample

PROMPTS = [[5, 6, 7], [8, 9], [5], [6, 7]]
DRAWN = [Sample([10 + n] * n, [-3.0] * n, True) for n in (4, 1, 3, 2)]
ADVANTAGE = torch.tensor([1.0, -1.0, 0.5, -0.5])


def updated(micro_batch: int | None, average: str) -> tuple[float, list[torch.Tensor]]:
    """Gradient norm, and the gradient, of an update on four rollouts of different lengths."""
    model = AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    loop = Loop(loss_average=average, gradient_clip=1e9)
    tensors = (*pack(PROMPTS, DRAWN, 0), ADVANTAGE)
    norm = update(model, optimizer, loop, *tensors, micro_batch=micro_batch)
    return norm, [one.grad for one in model.parameters()]


@pytest.mark.parametrize("average", ["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"])
def test_an_update_is_the_same_however_it_is_cut_into_passes(average):
    norm, whole = updated(None, average)
    assert norm > 0
    for micro_batch in (1, 3):
        found, cut = updated(micro_batch, average)
        assert found == pytest.approx(norm, rel=1e-4)
        assert_close(cut, whole, rtol=1e-3, atol=1e-6)
