"""The server behind rollout.name=torch, without Ray: batches, weights, errors."""

import asyncio
import subprocess
import sys

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
        settings = ServerSettings(str(BASE), "float32", 64, response_length)
        return await use(TorchServer(settings))

    return asyncio.run(main())


async def group(server, prompt, seeds):
    """The responses to one prompt."""
    (answers,) = await server.generate_groups([(prompt, seeds)], PARAMS)
    return answers


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
        groups = [(prompt, range(4 * i, 4 * i + 4)) for i in range(5)]
        return await server.generate_groups(groups, PARAMS)

    groups = serve(use)
    assert [len(group) for group in groups] == [4] * 5
    answers = [answer for group in groups for answer in group]
    assert len(answers) == 20
    for answer in answers:
        assert len(answer.token_ids) == len(answer.log_probs) <= 24
        assert answer.extra_fields["global_steps"] == 4
    assert len({tuple(answer.token_ids) for answer in answers}) > 1


def test_log_probabilities_are_those_of_the_synced_weights(base, prompt):
    """The check that a stage makes at every step, without the stage."""

    async def use(server):
        await server.update_weights(base.state_dict())
        return await group(server, prompt, [0])

    (answer,) = serve(use)
    ids = torch.tensor([prompt + answer.token_ids])
    logprobs = base(ids).logits.log_softmax(-1)[0, len(prompt) - 1 : -1]
    expected = logprobs.gather(-1, torch.tensor(answer.token_ids)[:, None])[:, 0]
    torch.testing.assert_close(torch.tensor(answer.log_probs), expected, atol=1e-5, rtol=0)


def test_a_response_is_the_same_whatever_was_asked_before_or_with_it(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict(), global_steps=2)
        (alone,) = await group(server, prompt, [5])
        await group(server, prompt, [1, 2, 3])
        *_, last = await group(server, prompt, [8, 7, 6, 5])
        (other,) = await group(server, prompt, [9])
        return alone.token_ids, last.token_ids, other.token_ids

    alone, last, other = serve(use)
    assert alone == last != other


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
            await asyncio.wait_for(group(server, [], [0]), 30)
        return await asyncio.wait_for(group(server, prompt, [0]), 30)

    assert serve(use)[0].token_ids


def test_a_response_may_be_as_long_as_the_room_its_prompt_leaves(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict())
        return await group(server, (prompt * 4)[:62], [0])

    assert len(serve(use, response_length=4)[0].token_ids) <= 64 + 4 - 62


def test_a_prompt_that_leaves_no_room_is_an_error_in_words(base, prompt):
    async def use(server):
        await server.update_weights(base.state_dict())
        return await group(server, (prompt * 9)[:80], [0])

    with pytest.raises(ValueError, match="max_new_tokens"):
        serve(use, response_length=4)


def test_a_process_that_gets_a_handle_on_the_server_imports_neither_torch_nor_transformers():
    """Ray loads the actor's class there."""
    loaded = "import sys, trainer.backend.server; print({'torch', 'transformers'} & {*sys.modules})"
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True)
    assert done.stdout == "set()\n", done.stderr
