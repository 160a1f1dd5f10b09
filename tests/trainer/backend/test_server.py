"""The server behind rollout.name=torch, without Ray: batches, weights, errors."""

import asyncio

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from trainer.backend.server import ServerSettings, TorchServer
from trainer.lab import BASE
from trainer.lab.task import problems

PARAMS = {"temperature": 1.0, "top_p": 1.0, "top_k": -1}


def serve(use, response_length: int = 24):
    """Run `use(server)` with a server that has no trained weights yet."""

    async def main():
        settings = ServerSettings(str(BASE), "float32", 64, response_length, seed=0)
        return await use(TorchServer(settings))

    return asyncio.run(main())


@pytest.fixture(scope="module")
def base():
    return AutoModelForCausalLM.from_pretrained(BASE, dtype=torch.float32)


@pytest.fixture(scope="module")
def prompt():
    (problem,) = problems(1, seed=0, split="train")
    return AutoTokenizer.from_pretrained(BASE).apply_chat_template(
        problem["prompt"], add_generation_prompt=True, return_dict=False
    )


def test_requests_that_come_together_are_answered_together(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict(), global_steps=4)
        asked = [server.generate(prompt, PARAMS, request_id=str(i)) for i in range(20)]
        return await asyncio.gather(*asked)

    answers = serve(use)
    assert len(answers) == 20
    for answer in answers:
        assert len(answer.token_ids) == len(answer.log_probs) <= 24
        assert answer.extra_fields["global_steps"] == 4
    assert len({tuple(answer.token_ids) for answer in answers}) > 1


def test_log_probabilities_are_those_of_the_synced_weights(base, prompt):
    """The check that a stage makes at every step, without the stage."""

    async def use(server):
        await server.update_weights(base.state_dict())
        return await server.generate(prompt, PARAMS, request_id="0")

    answer = serve(use)
    ids = torch.tensor([prompt + answer.token_ids])
    logprobs = base(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    expected = logprobs.gather(-1, torch.tensor(answer.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.log_probs), expected, atol=1e-5, rtol=0)


def test_the_same_weights_and_step_give_the_same_responses(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict(), global_steps=2)
        first = await server.generate(prompt, PARAMS, request_id="0")
        await server.update_weights(base.state_dict(), global_steps=3)
        other = [await server.generate(prompt, PARAMS, request_id="0") for _ in range(3)]
        await server.update_weights(base.state_dict(), global_steps=2)
        again = await server.generate(prompt, PARAMS, request_id="0")
        return first.token_ids, again.token_ids, [one.token_ids for one in other]

    first, again, other = serve(use)
    assert first == again
    assert any(one != first for one in other)


def test_weights_of_another_model_are_refused(base):
    async def use(server):
        state = dict(base.state_dict())
        state["model.layers.9.mlp.up_proj.weight"] = torch.zeros(1)
        await server.update_weights(state)

    with pytest.raises(ValueError, match="must be given the same"):
        serve(use)


def test_a_request_that_cannot_be_answered_raises_and_the_next_is_served(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict())
        with pytest.raises(ValueError, match="without tokens"):
            await asyncio.wait_for(server.generate([], PARAMS, request_id="0"), 30)
        return await asyncio.wait_for(server.generate(prompt, PARAMS, request_id="1"), 30)

    assert serve(use).token_ids


def test_a_response_may_be_as_long_as_the_room_its_prompt_leaves(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict())
        return await server.generate((prompt * 4)[:62], PARAMS, request_id="0")

    assert len(serve(use, response_length=4).token_ids) <= 64 + 4 - 62


def test_a_prompt_that_leaves_no_room_is_an_error_in_words(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict())
        return await server.generate((prompt * 9)[:80], PARAMS, request_id="0")

    with pytest.raises(ValueError, match="max_new_tokens"):
        serve(use, response_length=4)
