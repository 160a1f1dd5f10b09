"""The reward inside verl's own reward worker, and the columns that it leaves."""

import numpy as np
import pytest
import torch

from conf.load import choices, load
from conf.overrides import written
from conf.schema import Experiment, Stage
from trainer.backend.reward import compute_score
from trainer.backend.settings import settings


def arguments(reward: str = "deepscaler", context_length: int = 64) -> dict:
    """What verl hands to the reward function with this choice of reward."""
    experiment = load("experiment=lab/smoke", f"reward={reward}")
    stage = Stage(context_length=context_length)
    experiment = Experiment(**{**experiment.model_dump(), "stages": [stage]})
    values = settings(experiment, 0, start="s", prompts="p", folder=experiment_folder())
    prefix = "+reward.custom_reward_function.reward_kwargs."
    return {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}


def experiment_folder():
    from pathlib import Path

    return Path("runs")


@pytest.mark.parametrize(
    ("reward", "right", "wrong", "formless"),
    [
        ("correctness", 1, 0, 0),
        ("deepscaler", 1, 0, 0),
        ("areal", 5, -5, -5),
        ("dapo", 1, -1, -1),
        ("format", 1, -0.8, -1),
    ],
)
def test_every_published_reward_keeps_correctness_apart(reward, right, wrong, formless):
    given = {"extra_info": {"thinking": True}, **arguments(reward)}
    for response, score, correct in (
        (r"2</think>\boxed{2}", right, 1.0),
        (r"2</think>\boxed{3}", wrong, 0.0),
        ("still thinking", formless, 0.0),
    ):
        found = compute_score("toy", response, ["2"], **given)
        assert (found["score"], found["acc"]) == (score, correct)


def test_every_choice_of_reward_is_tested():
    assert set(choices("reward")) == {"correctness", "deepscaler", "areal", "dapo", "format"}


@pytest.mark.parametrize(("reward", "cut"), [("areal", -5), ("dapo", 1)])
def test_with_areal_a_response_that_was_cut_off_is_worth_minus_five_whatever_it_says(reward, cut):
    """The reward that trains: correctness stays the grader's word."""
    given = {**arguments(reward), "overlong_share": 0.0}
    for truncated, score in ((True, cut), (False, given["right"])):
        info = {"thinking": True, "response_tokens": 64, "truncated": truncated}
        found = compute_score("toy", r"</think>\boxed{2}", ["2"], extra_info=info, **given)
        assert (found["score"], found["acc"]) == (score, 1.0)


def test_a_response_that_fills_the_context_loses_the_whole_penalty_and_stays_correct():
    given = {**arguments("dapo"), "overlong_share": 0.3125}
    info = {"thinking": True, "response_tokens": 64}
    found = compute_score("toy", r"</think>\boxed{2}", ["2"], extra_info=info, **given)
    assert found == {"score": 0.0, "acc": 1.0, "reason": "equal as text"}
    info = {"thinking": True, "response_tokens": 54}
    found = compute_score("toy", r"</think>\boxed{2}", ["2"], extra_info=info, **given)
    assert found["score"] == 0.5


@pytest.fixture(scope="module")
def manager():
    return manager_of("experiment=lab/smoke")


def manager_of(*overrides_of_ours: str):
    pytest.importorskip("verl")
    from omegaconf import OmegaConf
    from transformers import AutoTokenizer
    from verl.trainer.ppo.reward import load_reward_manager

    from conf.compose import compose
    from trainer.backend.settings import overrides
    from trainer.lab import BASE

    experiment = load(*overrides_of_ours)
    values = settings(experiment, 0, start=BASE, prompts=BASE, folder=BASE)
    config = compose("verl.trainer.config", "ppo_trainer", overrides(values))
    OmegaConf.resolve(config.reward.custom_reward_function)
    return load_reward_manager(config, AutoTokenizer.from_pretrained(BASE))


def rollout(tokenizer, prompt: str, response: str, *, ended: bool = True):
    """A row with one token of padding behind the response."""
    from verl import DataProto

    ids = [tokenizer(text, return_tensors="pt")["input_ids"][0] for text in (prompt, response)]
    end = torch.tensor([tokenizer.eos_token_id] * ended + [tokenizer.pad_token_id])
    ids[1] = torch.cat([ids[1], end])
    attended = torch.ones(len(ids[0]) + len(ids[1]), dtype=torch.int64)
    attended[-1] = 0
    return DataProto.from_dict(
        tensors={
            "prompts": ids[0][None],
            "responses": ids[1][None],
            "attention_mask": attended[None],
        },
        non_tensors={
            "data_source": np.array(["lab"]),
            "reward_model": np.array([{"ground_truth": ["7"]}], dtype=object),
            "extra_info": np.array([{"id": "a"}], dtype=object),
        },
    )


@pytest.mark.parametrize(
    ("prompt", "response", "ended", "score", "reason"),
    [
        ("user\n<think>\n", "a=7</think>\\boxed{7}", True, 1.0, "equal as text"),
        ("user\n<think>\n", "a=7</think>\\boxed{7}", False, 1.0, "equal as text"),
        ("user\n<think>\n", "a=7</think>\\boxed{8}", True, 0.0, "not equal"),
        ("user\n<think>\n", "a=7", True, 0.0, "missing think tags"),
        ("user\n<think>\n", "a=7", False, 0.0, "truncated"),
        ("user\n", "a=7</think>\\boxed{7}", True, 0.0, "missing think tags"),  # nobody opened it
        ("user\n<think>\n", "a=7;" * 40, False, 0.0, "truncated"),
        ("user\n<think>\n", "a=7;" * 40, True, 0.0, "missing think tags"),  # ended at the limit
    ],
)
def test_verls_reward_manager_tells_the_tokens_and_the_opening_tag(
    manager, prompt, response, ended, score, reason
):
    row = rollout(manager.tokenizer, prompt, response, ended=ended)
    ids = row.batch["prompts"][0].tolist(), [row.batch["responses"][0][:-1].tolist()]
    prompt = {name: column[0] for name, column in row.non_tensor_batch.items()}
    found = [manager.loop.run_until_complete(manager.run_single(row))]
    found += manager.loop.run_until_complete(manager.grade(prompt, *ids))
    for one in found:
        assert one["reward_score"] == score
        assert one["reward_extra_info"] == {"score": score, "acc": score, "reason": reason}


def test_a_function_of_the_users_reaches_verl_with_its_settings(tmp_path):
    """Its file in another folder, a text among its settings: both pass Hydra's grammar."""
    file = tmp_path / "it's mine" / "own.py"
    file.parent.mkdir()
    file.write_text(
        "def own(response, answer, answers, tokens, reward, *, share, sign):\n"
        "    assert (answer, answers) == ('7', ['7']) and sign in response\n"
        "    return reward + share * tokens\n"
    )
    own = ["reward.function_settings={share:0.5,sign:'</think>'}", "reward.right=2"]
    manager = manager_of("experiment=lab/smoke", f"reward.function={written(f'{file}:own')}", *own)
    row = rollout(manager.tokenizer, "user\n<think>\n", "a=7</think>\\boxed{7}")
    found = manager.loop.run_until_complete(manager.run_single(row))
    tokens = row.batch["responses"].shape[-1] - 1
    assert found["reward_score"] == 2 + 0.5 * tokens
    assert found["reward_extra_info"]["acc"] == 1.0


@pytest.mark.parametrize("value", ["None", "float('nan')", "'much'"])
def test_a_function_that_returns_no_number_stops_the_stage(tmp_path, value):
    file = tmp_path / f"{value[:4]}.py"
    file.write_text(f"def own():\n    return {value}\n")
    with pytest.raises(
        ValueError, match=r"reward.function returned .*, needed a finite number\n\nhint: "
    ):
        compute_score("toy", "", ["2"], function=f"{file}:own", **arguments())
