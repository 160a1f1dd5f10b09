"""The distance between engine and trainer: by hand, as verl tells it, and of weights far apart."""

import pytest
import torch
from tensordict import TensorDict
from verl import DataProto
from verl.trainer.ppo.v1 import trainer_base
from verl.utils.debug.metrics import calculate_debug_metrics

from conf.schema import Hardware
from trainer.backend import engine

FAR = Hardware().kl_tolerance


def batch(trainers: torch.Tensor, engines: torch.Tensor, mask: torch.Tensor) -> DataProto:
    fields = {
        "old_log_probs": trainers,
        "rollout_log_probs": engines,
        "response_mask": mask,
        "responses": torch.zeros_like(mask),
    }
    return DataProto(batch=TensorDict(fields, batch_size=[len(mask)]))


def test_two_tokens_by_hand():
    found = engine.distance(torch.tensor([0.5, 0.2]).log(), torch.tensor([0.25, 0.4]).log())
    assert found[engine.LARGEST] == pytest.approx(0.25)
    assert found[engine.MEAN] == pytest.approx(0.225)
    assert found[engine.KL] == pytest.approx(0, abs=1e-6)  # half, and twice


def test_no_token_is_no_distance():
    assert set(engine.distance(torch.zeros(0), torch.zeros(0)).values()) == {0.0}


def test_a_batch_is_told_as_verl_does_and_padding_is_left_out():
    random = torch.Generator().manual_seed(0)
    trainers, engines = (-torch.rand((3, 5), generator=random) for _ in range(2))
    mask = torch.tensor([[1, 1, 1, 1, 1], [1, 1, 0, 0, 0], [1, 0, 0, 0, 0]])
    trainers[mask == 0] = -9.0
    data = batch(trainers, engines, mask)
    found, verls = engine.of_batch(data), calculate_debug_metrics(data)
    for name in (engine.LARGEST, engine.MEAN):
        assert found[name] == pytest.approx(verls[name])
    expected = (engines - trainers)[mask.bool()].mean().item()
    assert found[engine.KL] == pytest.approx(expected)


def test_verls_trainer_tells_it(monkeypatch):
    monkeypatch.setattr(trainer_base, "calculate_debug_metrics", None)  # verl calls it by this name
    engine.tell_distance()
    assert trainer_base.calculate_debug_metrics is engine.of_batch


def test_an_engine_without_the_weights_is_far_and_one_that_rounds_is_near():
    """Where probabilities themselves say nothing: of 50,000 tokens all are small."""
    random = torch.Generator().manual_seed(0)
    logits = 3 * torch.randn((64, 50_000), generator=random)
    trained = logits.log_softmax(-1)

    def sampled_by(policy: torch.Tensor) -> dict[str, float]:
        tokens = torch.multinomial(policy.exp(), 8, replacement=True, generator=random)
        return engine.distance(*(each.gather(1, tokens).flatten() for each in (trained, policy)))

    rounded = sampled_by(logits.bfloat16().float().log_softmax(-1))
    assert abs(rounded[engine.KL]) < 0.05 * FAR
    untrained = torch.randn(logits.shape, generator=random).log_softmax(-1)
    found = sampled_by(untrained)
    assert found[engine.KL] > FAR and found[engine.MEAN] < 0.01
