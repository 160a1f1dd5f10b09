"""Log-probabilities of tokens, and entropy, of a block of logits at a time, in float32.

Logits are the largest tensor of a step: a few copies of them do not fit beside a model. verl takes
log-probabilities by a kernel of flash-attn; where that is missing it goes row by row in Python, a
row being a token: slow on a CPU, and slower than the model on a GPU. Entropy it takes of all logits
at once, and keeps two copies for a gradient, even where none is asked for.
"""

from collections.abc import Callable, Iterator

import torch
import torch.nn.functional as functional
from torch import Tensor
from torch.autograd.function import once_differentiable

BLOCK = 2**26  # logits of a block, at most: of each a few float32 copies live at a time


class _InBlocks(torch.autograd.Function):
    """A function of each row; keeps the logits for the gradient and no copy of them."""

    @staticmethod
    def forward(context, function: Callable, rows: int, logits: Tensor, *labels: Tensor) -> Tensor:
        context.save_for_backward(logits, *labels)
        context.function, context.rows = function, rows
        return torch.cat([function(*block) for block in _blocks(rows, logits, *labels)])

    @staticmethod
    @once_differentiable
    def backward(context, gradient: Tensor) -> tuple[Tensor | None, ...]:
        """Each block is computed once more, now to be differentiated, and forgotten."""
        logits, *labels = context.saved_tensors
        result = torch.empty_like(logits)
        blocks = _blocks(context.rows, result, gradient, logits, *labels)
        for here, outer, some, *named in blocks:
            some = some.detach().requires_grad_()
            with torch.enable_grad():
                part = context.function(some, *named)
            here.copy_(torch.autograd.grad(part, some, outer)[0])
        return None, None, result, *(None for _ in labels)


def log_probs(logits: Tensor, labels: Tensor, rows: int | None = None) -> Tensor:
    """Log-probability of each label: log_softmax(logits)[label].

    Args:
        logits: [..., V], of any precision; computed in float32 at least.
        labels: [...].
        rows: Rows of a block: they bound the memory, and change nothing. None: what `BLOCK` gives.

    Returns:
        [...], float32, or float64 of such logits.
    """
    return _applied(_log_probs_of_block, rows, logits, labels.reshape(-1))


def entropy(logits: Tensor, rows: int | None = None) -> Tensor:
    """Entropy of each distribution: -sum_v p_v log p_v, p = softmax(logits), in nats.

    Args:
        logits: [..., V], of any precision; computed in float32 at least.
        rows: As in `log_probs`.

    Returns:
        [...], float32, or float64 of such logits.
    """
    return _applied(_entropy_of_block, rows, logits)


def install() -> None:
    """Take verl's place: of log-probabilities where it has no flash-attn, of entropy everywhere."""
    from verl.utils import torch_functional

    torch_functional.logprobs_from_logits_v2 = log_probs
    torch_functional.entropy_from_logits = entropy


def _applied(function: Callable, rows: int | None, logits: Tensor, *labels: Tensor) -> Tensor:
    *shape, size = logits.shape
    rows = rows or max(1, BLOCK // size)
    return _InBlocks.apply(function, rows, logits.reshape(-1, size), *labels).view(shape)


def _blocks(rows: int, *tensors: Tensor) -> Iterator[tuple[Tensor, ...]]:
    return zip(*(tensor.split(rows) for tensor in tensors), strict=True)


def _log_softmax(logits: Tensor) -> Tensor:
    exact = torch.promote_types(logits.dtype, torch.float32)
    return functional.log_softmax(logits, dim=-1, dtype=exact)


def _log_probs_of_block(logits: Tensor, labels: Tensor) -> Tensor:
    return _log_softmax(logits).gather(-1, labels.unsqueeze(-1)).squeeze(-1)


def _entropy_of_block(logits: Tensor) -> Tensor:
    whole = _log_softmax(logits)
    return -(whole.exp() * whole).sum(-1)
