"""docs/method.md, followed to the letter: a method and a reward from outside the tree."""

import re
import shlex
import shutil
import textwrap
from pathlib import Path

import pytest
import torch

from conf.load import ConfigError, load
from tasks.preflight import check_settings
from tasks.stages import identity
from trainer.advantages import by_prompt
from trainer.backend.reward import compute_score
from trainer.backend.settings import settings
from trainer.functions import find

PAGE = Path(__file__).parents[2] / "docs" / "method.md"


@pytest.fixture
def outside(tmp_path, monkeypatch) -> list[str]:
    """Do what the page says in a folder of its own; the overrides of its command."""
    return followed("Write `(\\w+\\.py)`", 0, tmp_path, monkeypatch)


@pytest.fixture
def rewarded(tmp_path, monkeypatch) -> list[str]:
    """The same for the page's reward."""
    return followed("one graded rollout. `(\\w+\\.py)`", 1, tmp_path, monkeypatch)


def followed(names: str, place: int, folder: Path, monkeypatch) -> list[str]:
    text = PAGE.read_text()
    [name] = re.findall(names, text)
    code = re.findall(r"```python\n(.*?)```", text, re.S)[place]
    (folder / name).write_text(textwrap.dedent(code))
    command = re.findall(r"```\n *(python -m flows\.pipeline .*?)```", text, re.S)[place]
    monkeypatch.chdir(folder)
    return shlex.split(command.replace("\\\n", ""))[3:]


def test_the_page_adds_a_method(outside, tmp_path):
    experiment = load(*outside, f"output={tmp_path / 'out'}")
    check_settings(experiment)
    folder = {"start": tmp_path, "prompts": tmp_path, "folder": tmp_path}
    values = settings(experiment, 0, **folder)
    name, own = (values[f"+algorithm.stagecraft.{key}"] for key in ("estimator", "settings"))
    assert values["algorithm.adv_estimator"] == "stagecraft_median"
    assert name == f"{tmp_path / 'median.py'}:median"  # the trainer works in another folder
    rewards = torch.tensor([1.0, 5.0, 0.0, 1.0, 4.0, 3.0])
    found = by_prompt(find(name, {}), rewards, list("ababab"), **own)
    assert found.tolist() == [0.0, 4.0, -2.0, -4.0, 6.0, 0.0]  # medians 1 and 3, twice


def test_the_page_adds_a_reward_that_leaves_correctness_to_the_grader(rewarded, tmp_path):
    experiment = load(*rewarded, f"output={tmp_path / 'out'}")
    check_settings(experiment)
    values = settings(experiment, 0, start=tmp_path, prompts=tmp_path, folder=tmp_path)
    prefix = "+reward.custom_reward_function.reward_kwargs."
    given = {key.removeprefix(prefix): v for key, v in values.items() if key.startswith(prefix)}
    assert given["function"] == f"{tmp_path / 'short.py'}:short"
    for response, tokens, score, correct in (
        (r"</think>\boxed{2}", 16, 0.75, 1.0),  # of 64
        (r"</think>\boxed{2}", 64, 0.1, 1.0),
        (r"</think>\boxed{3}", 16, 0.0, 0.0),
    ):
        info = {"thinking": True, "response_tokens": tokens}
        found = compute_score("lab", response, ["2"], info, **given)
        assert (found["score"], found["acc"]) == (score, correct)


def test_an_edit_of_the_file_is_another_method(outside, tmp_path):
    experiment = load(*outside)
    before = identity(experiment, experiment.stages[0], "data", "start")
    with (tmp_path / "median.py").open("a") as file:
        file.write("# changed\n")
    after = identity(experiment, experiment.stages[0], "data", "start")
    assert before["method"]["advantage"] != after["method"]["advantage"]


def test_a_reward_of_ones_own_is_in_the_identity_by_its_contents_and_no_other_is(
    rewarded, tmp_path
):
    def rewards(*overrides: str) -> dict:
        experiment = load(*overrides)
        return identity(experiment, experiment.stages[0], "data", "start")["reward"]

    before = rewards(*rewarded)
    (tmp_path / "elsewhere").mkdir()
    moved = shutil.copy("short.py", tmp_path / "elsewhere" / "mine.py")
    assert rewards(*rewarded, f"reward.function={moved}:short") == before
    assert rewards(*rewarded, "reward.function_settings.floor=0.3") != before
    with (tmp_path / "short.py").open("a") as file:
        file.write("# changed\n")
    assert rewards(*rewarded)["function"] != before["function"]
    assert not [key for key in rewards("experiment=lab/smoke") if "function" in key]


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("reward.function=short", "needed module:function, or file.py:function"),
        ("reward.function=short.py:long", "has no function 'long'"),
        ("reward.function_settings.flor=1", "did you mean floor?"),
        ("reward.function=''", "found floor, but no function to take them"),
    ],
)
def test_a_slip_in_a_reward_is_refused(rewarded, tmp_path, change, told):
    with pytest.raises(ConfigError, match=r"\n\nhint: ") as refused:
        check_settings(load(*rewarded, change, f"output={tmp_path / 'out'}"))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ("method.advantage=median.py:mean", "has no function 'mean'"),
        ("method.advantage=mean.py:median", "cannot be loaded"),
        ("method.advantage_settings.scal=1", "did you mean scale?"),
    ],
)
def test_a_slip_is_refused_before_anything_is_computed(outside, tmp_path, change, told):
    with pytest.raises(ValueError, match=r"\n\nhint: ") as refused:
        check_settings(load(*outside, change, f"output={tmp_path / 'out'}"))
    assert told in str(refused.value)
