"""Log-probabilities and entropy in blocks are verl's own, and in bfloat16 nearer to the truth."""

import importlib.util
import math

import pytest
import torch
from verl.utils import torch_functional

from trainer.backend.log_probs import entropy, install, log_probs


@pytest.fixture
def verl():
    """verl's own functions, whatever has taken their place in this process."""
    spec = importlib.util.find_spec("verl.utils.torch_functional")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def of_labels(function):
    """A function of logits alone as one that is given labels, too."""
    return lambda logits, labels, **settings: function(logits, **settings)


OURS = {"log-probabilities": log_probs, "entropy": of_labels(entropy)}


@pytest.fixture(params=OURS)
def ours(request):
    return OURS[request.param]


@pytest.fixture
def its(verl, ours):
    """What verl has of that kind."""
    if ours is log_probs:
        return verl.logprobs_from_logits_v2
    return of_labels(verl.entropy_from_logits)


def case(shape: tuple[int, ...], size: int, dtype: torch.dtype) -> tuple[torch.Tensor, ...]:
    """Logits, labels and a weight of each row."""
    source = torch.Generator().manual_seed(7)
    logits = 5 * torch.randn(*shape, size, generator=source)
    labels = torch.randint(size, shape, generator=source)
    return logits.to(dtype), labels, torch.randn(shape, generator=source)


def with_gradient(function, logits, labels, weight, **settings):
    """What a function gives, and the gradient of its weighted sum."""
    logits = logits.clone().requires_grad_()
    result = function(logits, labels, **settings)
    (result * weight).sum().backward()
    return result.detach(), logits.grad


def test_verl_computes_with_them(monkeypatch):
    monkeypatch.setattr(torch_functional, "logprobs_from_logits_v2", None)
    monkeypatch.setattr(torch_functional, "FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE", False)
    install()
    logits, labels, _ = case((11,), 301, torch.bfloat16)
    result = torch_functional.logprobs_from_logits(logits, labels)
    assert torch.equal(result, log_probs(logits, labels))


def test_verl_tells_entropy_by_ours(monkeypatch):
    monkeypatch.setattr(torch_functional, "entropy_from_logits", None)
    install()
    logits, _, _ = case((3, 5), 301, torch.bfloat16)
    assert torch.equal(torch_functional.entropy_from_logits(logits), entropy(logits))


def test_entropy_of_known_distributions():
    even, sure = torch.zeros(1, 8), torch.tensor([[100.0, 0.0, 0.0, 0.0]])
    assert entropy(even).item() == pytest.approx(math.log(8))
    assert entropy(sure).item() == pytest.approx(0.0, abs=1e-6)


@pytest.mark.parametrize("shape", [(11,), (3, 5)])
def test_they_are_verls_in_float32_and_so_is_their_gradient(ours, its, shape):
    logits, labels, weight = case(shape, 301, torch.float32)
    result, gradient = with_gradient(ours, logits, labels, weight)
    expected, slope = with_gradient(its, logits, labels, weight)
    torch.testing.assert_close(result, expected, rtol=1e-6, atol=4e-6)
    torch.testing.assert_close(gradient, slope, rtol=1e-5, atol=2e-6)


def test_in_bfloat16_they_are_nearer_to_float64_than_verls(ours, its):
    logits, labels, weight = case((64,), 2000, torch.bfloat16)
    truth, slope = with_gradient(ours, logits.double(), labels, weight.double())
    result, gradient = with_gradient(ours, logits, labels, weight)
    theirs, their_slope = with_gradient(its, logits, labels, weight)
    assert result.dtype == torch.float32
    assert gradient.dtype == torch.bfloat16
    assert (result - truth).abs().max() < 1e-2 * (theirs - truth).abs().max()
    assert (gradient - slope).abs().mean() < (their_slope - slope).abs().mean()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_the_blocks_change_nothing(ours, dtype):
    logits, labels, weight = case((10,), 97, dtype)
    whole = with_gradient(ours, logits, labels, weight)
    for rows in (1, 3, 10):
        parts = with_gradient(ours, logits, labels, weight, rows=rows)
        assert all(torch.equal(part, one) for part, one in zip(parts, whole, strict=True))


def test_under_autocast_they_are_the_same(ours):
    logits, labels, weight = case((10,), 97, torch.bfloat16)
    usual = with_gradient(ours, logits, labels, weight)
    with torch.autocast("cpu", torch.bfloat16):
        result = with_gradient(ours, logits, labels, weight)
    assert all(torch.equal(one, other) for one, other in zip(result, usual, strict=True))


def test_the_gradient_keeps_no_copy_of_the_logits(ours):
    logits, labels, _ = case((10,), 97, torch.bfloat16)
    kept = []
    with torch.autograd.graph.saved_tensors_hooks(lambda kept_: kept.append(kept_), lambda x: x):
        ours(logits.requires_grad_(), labels)
    assert sum(tensor.numel() for tensor in kept if tensor.is_floating_point()) == logits.numel()
