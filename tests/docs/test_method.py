"""docs/method.md, followed to the letter: a method from outside the tree."""

import re
import shlex
import textwrap
from pathlib import Path

import pytest
import torch

from conf.load import load
from tasks.preflight import check_settings
from tasks.stages import identity
from trainer.advantages import by_prompt
from trainer.backend.settings import settings
from trainer.functions import find

PAGE = Path(__file__).parents[2] / "docs" / "method.md"


@pytest.fixture
def outside(tmp_path, monkeypatch) -> list[str]:
    """Do what the page says in a folder of its own; the overrides of its command."""
    text = PAGE.read_text()
    [name] = re.findall(r"Write `(\w+\.py)`", text)
    [code] = re.findall(r"```python\n(.*?)```", text, re.S)
    (tmp_path / name).write_text(textwrap.dedent(code))
    [command] = re.findall(r"```\n +(python -m flows\.pipeline .*?)```", text, re.S)
    monkeypatch.chdir(tmp_path)
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


def test_an_edit_of_the_file_is_another_method(outside, tmp_path):
    experiment = load(*outside)
    before = identity(experiment, experiment.stages[0], "data", "start")
    with (tmp_path / "median.py").open("a") as file:
        file.write("# changed\n")
    after = identity(experiment, experiment.stages[0], "data", "start")
    assert before["method"]["advantage"] != after["method"]["advantage"]


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
