"""A step of one update takes its old log-probabilities from the update's own forward pass."""

from functools import partial
from types import SimpleNamespace

import pytest
import torch
from omegaconf import OmegaConf
from tensordict import TensorDict
from verl.utils import tensordict_utils as tu
from verl.workers.config import FSDPActorConfig
from verl.workers.utils.losses import ppo_loss
from verl.workers.utils.padding import no_padding_2_padding

from trainer.backend import engine
from trainer.backend.group_store import POLICY
from trainer.backend.single_update import COUNT, LARGEST, NATS, SINGLE, SUM, is_single, loss, told

LENGTHS = [(2, 3), (4, 1), (1, 5)]  # tokens of prompt and response


def jagged(rows, dtype=torch.float32):
    rows = [torch.as_tensor(row, dtype=dtype) for row in rows]
    return torch.nested.as_nested_tensor(rows, layout=torch.jagged)


def rollouts(single: bool, policies=(6, 6, 6)) -> tuple[dict, TensorDict]:
    """What the model gave for three rollouts, and what the queue holds of them at policy 6."""
    torch.manual_seed(0)
    whole = [-torch.rand(prompt + response) for prompt, response in LENGTHS]
    output = {
        "log_probs": jagged(whole).requires_grad_(),
        "entropy": jagged([torch.rand(len(row)) for row in whole]),
    }
    data = TensorDict(
        {
            "prompts": jagged([range(prompt) for prompt, _ in LENGTHS], torch.int64),
            "responses": jagged([range(length) for _, length in LENGTHS], torch.int64),
            "input_ids": jagged([range(len(row)) for row in whole], torch.int64),
            "response_mask": jagged([[1] * length for _, length in LENGTHS], torch.int64),
            "advantages": jagged([torch.randn(length) for _, length in LENGTHS]),
            "rollout_log_probs": jagged([-torch.rand(length) for _, length in LENGTHS]),
            POLICY: torch.tensor(policies),
        },
        batch_size=[3],
    )
    told = {"dp_size": 1, "batch_num_tokens": 9, "global_batch_size": 3}
    tu.assign_non_tensor(data, **told, **{SINGLE: 6 if single else None})
    return output, data


@pytest.fixture
def usual():
    config = FSDPActorConfig(
        strategy="fsdp", rollout_n=1, ppo_mini_batch_size=3, ppo_micro_batch_size_per_gpu=3
    )
    return partial(ppo_loss, config=config)


def test_loss_and_gradient_are_verls_with_the_policys_own_log_probabilities(usual):
    output, data = rollouts(single=False)
    own = no_padding_2_padding(output["log_probs"], data).detach()
    data["old_log_probs"] = jagged(
        [row[:length] for row, (_, length) in zip(own, LENGTHS, strict=True)]
    )
    entropy = output.pop("entropy")  # verl's own step asks for none
    expected, metrics = loss(usual, model_output=output, data=data)
    expected.backward()
    gradient = output["log_probs"].grad.values()
    assert LARGEST not in metrics and gradient.abs().sum() > 0

    output, data = rollouts(single=True)
    engines = data["rollout_log_probs"].to_padded_tensor(0.0)
    found, metrics = loss(usual, model_output=output, data=data)
    found.backward()
    assert found.item() == pytest.approx(expected.item())
    assert torch.equal(output["log_probs"].grad.values(), gradient)

    mask = data["response_mask"].to_padded_tensor(0)
    apart = ((own.exp() - engines.exp()).abs() * mask)[mask.bool()]
    assert metrics[LARGEST].aggregate() == pytest.approx(apart.max().item())
    assert metrics[SUM].aggregate() == pytest.approx(apart.sum().item())
    nats = (engines - own)[mask.bool()].sum().item()
    assert metrics[NATS].aggregate() == pytest.approx(nats) and nats
    assert metrics[COUNT].aggregate() == len(apart) == 9
    of_responses = no_padding_2_padding(entropy, data)[mask.bool()]
    assert metrics["actor/entropy"].aggregate() == pytest.approx(of_responses.mean().item())
    assert metrics["actor/ppo_kl"].aggregate() == 0


def test_a_rollout_of_an_older_policy_keeps_the_probabilities_it_was_sampled_with(usual):
    """As in a step that computes them first and then corrects for age."""
    output, data = rollouts(single=False, policies=(6, 5, 6))
    own = no_padding_2_padding(output["log_probs"], data).detach()
    rows = [row[:length] for row, (_, length) in zip(own, LENGTHS, strict=True)]
    rows[1] = data["rollout_log_probs"].unbind()[1]
    data["old_log_probs"] = jagged(rows)
    output.pop("entropy")
    expected, _ = loss(usual, model_output=output, data=data)
    expected.backward()

    single, data = rollouts(single=True, policies=(6, 5, 6))
    found, metrics = loss(usual, model_output=single, data=data)
    found.backward()
    assert found.item() == pytest.approx(expected.item())
    gradients = [one["log_probs"].grad.values() for one in (output, single)]
    assert torch.equal(*gradients)
    engines = data["rollout_log_probs"].to_padded_tensor(0.0)
    fresh = torch.cat([(own.exp() - engines.exp()).abs()[i, : LENGTHS[i][1]] for i in (0, 2)])
    assert metrics[COUNT].aggregate() == len(fresh) == 8  # of the others no difference is due
    assert metrics[SUM].aggregate() == pytest.approx(fresh.sum().item())
    assert metrics[LARGEST].aggregate() == pytest.approx(fresh.max().item())


def test_the_differences_get_the_names_that_other_steps_give_them():
    metrics = {LARGEST: 0.5, SUM: 1.5, NATS: 0.75, COUNT: 3.0}
    assert told(metrics)
    assert metrics == {engine.LARGEST: 0.5, engine.MEAN: 0.5, engine.KL: 0.25}


def test_where_no_rollout_is_of_the_present_policy_there_is_no_difference():
    metrics = {LARGEST: 0.0, SUM: 0.0, NATS: 0.0, COUNT: 0.0}
    assert not told(metrics)
    assert metrics == {}


def verls(**changed):
    config = OmegaConf.create(
        {
            "actor_rollout_ref": {
                "actor": {"ppo_epochs": 1, "ppo_mini_batch_size": 2, "entropy_coeff": 0.0},
                "rollout": {"n": 2},
            },
            "algorithm": {"use_kl_in_reward": False},
        }
    )
    for name, value in changed.items():
        OmegaConf.update(config, name.replace("__", "."), value)
    return config


def batch(rows=4, **changed):
    tags = [{} for _ in range(rows)]
    tags[-1] |= changed
    return SimpleNamespace(keys=list(range(rows)), tags=tags)


def test_a_step_of_one_update_is_known():
    assert is_single(verls(), batch())


@pytest.mark.parametrize(
    "config, rows",
    [
        (verls(actor_rollout_ref__actor__ppo_epochs=2), batch()),
        (verls(), batch(rows=8)),  # two mini-batches
        (verls(actor_rollout_ref__actor__entropy_coeff=0.1), batch()),
        (verls(algorithm__use_kl_in_reward=True), batch()),
        (verls(), batch(is_padding=True)),
    ],
)
def test_any_other_step_computes_them_first(config, rows):
    assert not is_single(config, rows)
