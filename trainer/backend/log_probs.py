"""Log-probabilities of tokens without flash-attn: all rows of a block at once, in float32.

flash-attn's cross entropy is a kernel that has to be built. Where it is missing verl goes row by
row in Python, a row being a token: that is slow on a CPU, and slower than the model on a GPU.
"""

from collections.abc import Iterator

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**26  # logits of a block, at most: of each a few float32 copies live at a time


class _LogProbs(torch.autograd.Function):
    """Keeps the logits for the gradient and no copy of them, as flash-attn's kernel does."""

    @staticmethod
    def forward(context, logits: Tensor, labels: Tensor, rows: int) -> Tensor:
        context.save_for_backward(logits, labels)
        context.rows = rows
        return torch.cat([_of_block(*block) for block in _blocks(rows, logits, labels)])

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor, None, None]:
        """Each block is computed once more, now to be differentiated, and forgotten."""
        logits, labels = context.saved_tensors
        result = torch.empty_like(logits)
        for block in _blocks(context.rows, logits, labels, gradient, result):
            some, named, outer, here = block
            some = some.detach().requires_grad_()
            with torch.enable_grad():
                part = _of_block(some, named)
            here.copy_(torch.autograd.grad(part, some, outer)[0])
        return result, None, None


def log_probs(logits: Tensor, labels: Tensor, rows: int | None = None) -> Tensor:
    """Log-probability of each label: log_softmax(logits)[label].

    Args:
        logits: [..., V], of any precision; computed in float32 at least.
        labels: [...].
        rows: Rows of a block: they bound the memory, and change nothing. None: what `BLOCK` gives.

    Returns:
        [...], float32, or float64 of such logits.
    """
    size = logits.shape[-1]
    rows = rows or max(1, BLOCK // size)
    flat = _LogProbs.apply(logits.reshape(-1, size), labels.reshape(-1), rows)
    return flat.view(labels.shape)


def install() -> None:
    """Take the place of verl's row by row, which it falls back to without flash-attn."""
    from verl.utils import torch_functional

    torch_functional.logprobs_from_logits_v2 = log_probs


def _blocks(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _of_block(logits: Tensor, labels: Tensor) -> Tensor:
    exact = torch.promote_types(logits.dtype, torch.float32)
    whole = functional.log_softmax(logits, dim=-1, dtype=exact)
    return whole.gather(-1, labels.unsqueeze(-1)).squeeze(-1)
