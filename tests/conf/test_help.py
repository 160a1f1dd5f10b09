"""What can be set is told from the schema, all of it."""

import ast
import re
from pathlib import Path

import pytest

from conf.help import told
from conf.load import GROUPS, ConfigError, choices, load
from conf.schema import Experiment
from conf.schema.study import Study

ROOT = Path(__file__).parents[2]
OURS = ("conf", "flows", "tasks", "trainer")
PARTS = "selection|hardware|stages|method|reward|data|evaluation|gates|model"
NAMES_VERLS = {"flows/plan.py", "trainer/backend/settings.py"}  # whose knobs begin alike


def keys(values, prefix=""):
    """Every key of plain settings, places in lists as N."""
    if isinstance(values, dict) and values:
        return [key for name in values for key in keys(values[name], f"{prefix}.{name}")]
    if isinstance(values, list) and values and isinstance(values[0], dict):
        return [key for each in values for key in keys(each, f"{prefix}.N")]
    return [prefix.removeprefix(".")]


def test_every_setting_of_an_experiment_is_listed_with_type_and_default():
    listed = {}
    for part in Experiment.model_fields:
        for line in told(part).splitlines():
            if found := re.match(r"(\S+)  (.+), default .+", line):
                listed[found[1]] = found[2]
    of_users = ("notes", "settings", "targets", "sampling")  # mappings with keys of their own
    for key in set(keys(load("experiment=lab/fastcurl").model_dump())):
        assert (
            key in listed
            or any(f".{name}." in f".{key}." for name in of_users)
            or any(one.startswith(f"{key}.") for one in listed)
        ), key


def test_the_parts_and_every_group_of_files_are_listed():
    text = told("")
    assert all(f"\n  {name} " in text for name in Experiment.model_fields)
    assert all(f"\n  {group}=" in text for group in GROUPS)
    assert "question" in told("", Study)


@pytest.mark.parametrize("group", GROUPS)
def test_a_group_is_listed_file_by_file(group):
    text = told(group).split("\n\n")[0].split("=", 1)[1]
    assert re.split(r",\s+", text) == choices(group)


def test_one_setting_is_told_by_its_own_key_and_a_near_name_is_suggested():
    assert told("stages.0.steps") == told("stages.N.steps") == told("stages.1.steps")
    assert told("evaluation.benchmarks.10.rows") == told("evaluation.benchmarks.N.rows")
    assert len(told("stages.0.steps").splitlines()) == 2
    with pytest.raises(ConfigError, match=r"called 'stage'\n\nhint: did you mean stages"):
        told("stage")
    with pytest.raises(ConfigError, match=r"did you mean stages\.N\.prompts or "):
        told("stages.0.promts")
    with pytest.raises(ConfigError, match="--help alone"):
        told("xyz")


def test_types_are_told_in_words():
    text = "\n".join(told(part, root) for root in (Experiment, Study) for part in root.model_fields)
    assert not re.search(r"Annotated|Union|Optional|NoneType|FieldInfo|<", text)
    assert "threshold  int or 'mean', characters, default 'mean'" in text
    assert "quantiles  list[float], shares, default [0.5]" in text
    assert "dual_clip  float or null, 1, default 3.0" in text


def test_a_knob_that_a_message_names_is_there():
    named = set()
    for file in (file for folder in OURS for file in (ROOT / folder).rglob("*.py")):
        if file.relative_to(ROOT).as_posix() in NAMES_VERLS:
            continue
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                named |= set(re.findall(rf"(?<![\w./+])(?:{PARTS})\.[\w.]*\w", node.value))
    files = {name for name in named if name.endswith((".json", ".pt"))}
    named -= files | {"method.advantage_settings.variant"}  # a setting of one estimator
    assert "selection.bounds" in named and len(named) > 20
    for name in named:
        told(name)
