"""What is wrong in a YAML file of one's own is told by its name and line."""

import json
import os
import re
import shutil
import subprocess
import sys

import pytest

from conf.files import FOLDER, GROUPS, INSTEAD, check_choice
from conf.help import told
from conf.load import ConfigError

MINE = "conf/experiment/mine.yaml"
WRONG = [
    # What stands in conf/experiment/mine.yaml, and what is said of it.
    (
        "defaults:\n  - override /curriculum: lab_smoki",
        rf"^{MINE}: curriculum: found 'lab_smoki', .*\n\nhint: did you mean lab_smoke\?$",
    ),
    (
        "defaults:\n  - /curriculum: lab_smoki",
        rf"^{MINE}: curriculum: found 'lab_smoki', needed one of",
    ),
    (
        "defaults:\n  - curriculum: lab_smoke",
        rf"^{MINE}: .*needed `override`.*hint: write - override /curriculum: lab_smoke$",
    ),
    (
        "defaults:\n  - /curriculum: lab_smoke",
        rf"^{MINE}: its defaults .*hint: write - override /curriculum: lab_smoke$",
    ),
    (
        "defaults:\n  - override curriculum: lab_smoke",
        rf"^{MINE}: its defaults .*hint: write - override /curriculum: \.\.\.$",
    ),
    (
        "defaults:\n  - override /curiculum: lab_smoke",
        rf"^{MINE}: found 'curiculum' in its defaults.*hint: did you mean curriculum\?$",
    ),
    (
        "defaults:\n  - override /curriculum: without_package",
        r"conf/curriculum/without_package\.yaml: its stages .*hint: begin .*@package _global_",
    ),
    ("data: {train: [", rf"^{MINE}, line 2: expected .*, needed YAML\n\nhint: look at colons"),
    (" seed: 1\nseed: 2", rf"^{MINE}, line 2: .*, needed YAML\n\nhint: look at colons"),
    (
        "defaults:\n  - override /curriculum: lab_smoke\nstages: {0: {steps: 3}}",
        rf"^{MINE}: found keys for a part of a list, .*hint: .*stages\.0\.steps=20$",
    ),
    (
        "defaults: [lab/smoke, _self_]\nname: mine",
        rf"^{MINE}: its defaults take experiment/lab/smoke in under a key of its own, needed at "
        r"the top,.*\n\nhint: write - /experiment/lab/smoke@_global_$",
    ),
    (
        "# in Latin-1\nname: mine  # caf\u00e9",
        rf"^{MINE}, line 2: found the byte 0xe9, which is no UTF-8, needed a file in UTF-8\n\nhint",
    ),
    ("stpes: 3", r"^stpes: no such key, needed one of name, .*hint: did you mean stages"),
    (
        "defaults:\n  - override /curriculum: comment_first",
        r"^conf/curriculum/comment_first\.yaml or .*: its stages .*hint: begin .*@package _global_",
    ),
    (
        "defaults:\n  - override /curriculum: misspelt",
        r"^stage: no such key, needed one of name, .*hint: did you mean stages\?$",
    ),
    (
        "# @package _global_ # mine\nname: mine",
        rf"^{MINE}: found '@package _global_ # mine', needed # @package _global_ alone\n\nhint: ",
    ),
    ("# @package\nname: mine", rf"^{MINE}: found '@package', needed # @package _global_ alone"),
    ("defaults: mine", rf"^{MINE}: found defaults that are no list, needed one\n\nhint: "),
    (
        "defaults:\n  - override /data=lab",
        rf"^{MINE}: found 'data=lab' in its defaults, .*hint: write - override /group: file",
    ),
    (
        "method: dapo",
        r"^method: found 'dapo', .*\n\nhint: to choose a file write - override /method: dapo",
    ),
    (
        "curriculum: lab_smoke",
        r"^curriculum: no such key.*hint: curriculum=.* - override /curriculum: \.\.\. in a file",
    ),
    ("experiment: lab/smoke", r"^experiment: no such key.*hint: experiment=\.\.\. on the command"),
    (
        "learning_rate: 3",
        r"^learning_rate: no such key.*hint: did you mean stages\.0\.learning_rate\?",
    ),
    ("seed: 1\nname: mine  # \x1b", rf"^{MINE}: found a character of code 27, .*\n\nhint: write "),
    ("1: 2", r"^found 1, needed a text as a key\n\nhint: "),
    ("name: 2024", r"^name: found 2024, .*hint: a text is quoted: name: '2024' in a file, \"name="),
]
SAY = """
import json, sys
from pathlib import Path
from conf.load import ConfigError, load
said = []
for text in json.loads(sys.argv[1]):
    Path("conf/experiment/mine.yaml").write_text(text + "\\n", encoding="latin-1")
    try:
        load("experiment=mine")
    except ConfigError as error:
        said.append(str(error))
print(json.dumps(said))
"""


def test_a_slip_in_a_file_is_told_with_the_file_and_what_was_needed(tmp_path):
    """In a process of its own, whose conf/ is a copy."""
    shutil.copytree(FOLDER, tmp_path / "conf")
    stages = "# more than one line\n\nstages:\n  - name: a\n"
    for name, text in (
        ("without_package", stages),
        ("comment_first", f"# mine\n# @package _global_\n{stages}"),
        ("misspelt", "# @package _global_\nstage:\n  - name: a\n"),
    ):
        (tmp_path / f"conf/curriculum/{name}.yaml").write_text(text)
    command = [sys.executable, "-c", SAY, json.dumps([text for text, _ in WRONG])]
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    for said, (text, wanted) in zip(json.loads(done.stdout), WRONG, strict=True):
        assert re.search(wanted, said, re.S), f"{text}\n\n{said}"
        assert "Config search path" not in said


@pytest.mark.parametrize(
    ("group", "name", "hint"),
    [
        (
            "data",
            "/data/x/train.jsonl",
            "data.train.kind=file data.train.path=/data/x/train.jsonl;",
        ),
        ("data", "train.parquet", "data.train.kind=file data.train.path=train.parquet;"),
        ("model", "~/mymodel", "model.path=~/mymodel;"),
        ("model", "Qwen/Qwen3-4B", "model.path=Qwen/Qwen3-4B;"),
        ("reward", "mine.py:reward", "reward.function=mine.py:reward;"),
        ("method", "median.py:median", "method.advantage=median.py:median;"),
        ("evaluation", "t.jsonl", "'evaluation.benchmarks=[{name:mine,kind:file,path:t.jsonl}]';"),
        ("hardware", "./gpu.txt", "hardware= names a file under conf/hardware, without its .yaml"),
        ("curriculum", "conf/curriculum/lab_smoke.yaml", "did you mean lab_smoke?"),
        ("curriculum", "mine.yaml", "write conf/curriculum/mine.yaml"),
        ("reward", "zzz", "write conf/reward/zzz.yaml"),
        ("reward", "", "name one of them"),
        ("experiment", "lab/speed", "lab/speed is a folder: did you mean lab/speed/dapo or "),
        ("method", "{'name': 'x'}", "method= names a file under conf/method; a knob is set as in"),
    ],
)
def test_a_path_in_place_of_a_name_gets_the_setting_that_takes_one(group, name, hint):
    with pytest.raises(ConfigError) as refused:
        check_choice(group, name)
    assert f"\n\nhint: {hint}" in str(refused.value)


def test_the_settings_that_take_a_path_are_there():
    assert INSTEAD.keys() <= set(GROUPS)
    for suggestion in INSTEAD.values():
        for key in re.findall(r"([a-z_.]+)=", suggestion):
            told(key)


TAKEN_IN = """
from pathlib import Path
from conf.load import load
from conf.studies import load_study
lines = ["defaults: [/experiment/lab/smoke@_global_, _self_]", "seed: 5", "name: mine"]
Path("conf/experiment/mine.yaml").write_text("\\n".join(lines))
made, other = load("experiment=mine"), load("experiment=lab/smoke")
assert made == other.model_copy(update={"name": "mine", "seed": 5})
Path("conf/study/mine.yaml").write_bytes(b"arms: []\\nquestion: \\xe9?")
try:
    load_study("mine", [])
except ValueError as error:
    assert str(error).startswith("conf/study/mine.yaml, line 2: found the byte 0xe9"), error
"""


def test_an_experiment_is_taken_in_by_the_hint_and_a_study_in_latin_1_is_named(tmp_path):
    shutil.copytree(FOLDER, tmp_path / "conf")
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    command = [sys.executable, "-c", TAKEN_IN]
    done = subprocess.run(command, cwd=tmp_path, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
