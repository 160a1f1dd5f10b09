"""A stage that takes over an optimizer keeps its moments, and its own schedule from the start."""

import copy
from types import SimpleNamespace

import pytest
import torch

verl = pytest.importorskip("verl.utils.torch_functional")

from verl.workers.engine.fsdp import transformer_impl  # noqa: E402

from trainer.backend.worker import StageWorker, gradient_over_logits  # noqa: E402

WARM_UP = {
    "constant": verl.get_constant_schedule_with_warmup,
    "cosine": lambda optimizer, steps: verl.get_cosine_schedule_with_warmup(optimizer, steps, 10),
}


def optimizer_of(learning_rate: float) -> torch.optim.Optimizer:
    return torch.optim.AdamW([torch.nn.Parameter(torch.ones(2))], lr=learning_rate)


def step(optimizer: torch.optim.Optimizer) -> float:
    """A step with gradient 1; how far it went."""
    (weight,) = optimizer.param_groups[0]["params"]
    before, weight.grad = weight.detach().clone(), torch.ones(2)
    optimizer.step()
    return (weight - before).abs().max().item()


@pytest.mark.parametrize("kind", WARM_UP)
@pytest.mark.parametrize("steps", [0, 4])
def test_the_first_step_is_as_long_as_the_schedule_says(kind, steps):
    before = optimizer_of(0.5)
    step(before)
    optimizer = optimizer_of(0.1)
    scheduler = WARM_UP[kind](optimizer, steps)
    saver = SimpleNamespace(checkpoint_load_contents=["model"])

    def load_checkpoint(folder, del_local_after_load):
        assert saver.checkpoint_load_contents == ["optimizer"]
        optimizer.load_state_dict(copy.deepcopy(before.state_dict()))

    engine = SimpleNamespace(
        checkpoint_manager=saver,
        load_checkpoint=load_checkpoint,
        optimizer=optimizer,
        lr_scheduler=scheduler,
    )
    worker = SimpleNamespace(actor=SimpleNamespace(engine=engine))
    StageWorker.carry_optimizer(worker, "global_step_1/actor", 0.1)

    assert saver.checkpoint_load_contents == ["model"]
    (state,) = optimizer.state.values()
    assert state["step"] == 1 and state["exp_avg"].all()
    rates = []
    for _ in range(6):
        rates.append(optimizer.param_groups[0]["lr"])
        assert (step(optimizer) > 0) == (rates[-1] > 0)
        scheduler.step()
    fresh = optimizer_of(0.1)
    expected = WARM_UP[kind](fresh, steps)
    for rate in rates:
        assert rate == fresh.param_groups[0]["lr"]
        fresh.step()
        expected.step()


def test_a_gradient_takes_the_place_of_the_logits_even_where_entropy_is_told(monkeypatch):
    """verl asks for `inplace_backward=False` there; flash-attn's kernel is told otherwise."""
    told = []

    def kernel(logits, labels, inplace_backward):
        told.append(inplace_backward)
        return torch.zeros(len(labels))

    monkeypatch.setattr(verl, "FLAH_ATTN_CROSS_ENTROPY_LOSS_AVAILABLE", True)
    monkeypatch.setattr(verl, "logprobs_from_logits_flash_attn", kernel)
    monkeypatch.setattr(transformer_impl, "logprobs_from_logits", verl.logprobs_from_logits)
    asked = {"logits": torch.zeros(2, 3), "labels": torch.zeros(2, dtype=torch.long)}
    transformer_impl.logprobs_from_logits(**asked, inplace_backward=False)
    gradient_over_logits()
    transformer_impl.logprobs_from_logits(**asked, inplace_backward=False)
    assert told == [False, True]
