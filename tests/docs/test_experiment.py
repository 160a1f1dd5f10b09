"""docs/experiment.md, followed to the letter in a copy of conf/; what takes minutes is checked."""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "experiment.md").read_text()
BLOCKS = re.findall(r"^( *)```(console|yaml)\n(.*?)^ *```", TEXT, re.S | re.M)
CONSOLE, YAML = (
    [textwrap.dedent(body) for _, kind, body in BLOCKS if kind == wanted]
    for wanted in ("console", "yaml")
)
# Run as a program: this process has the repository's own conf/ loaded.
CHECK = """
import importlib, inspect, json, sys
from flows import cli, evaluate, parameters
found = []
for program, *words in json.loads(sys.argv[1]):
    if program == "stagecraft":
        found.append(cli.main(words))
        continue
    module = importlib.import_module(program)
    own = inspect.signature(getattr(module, program.rpartition(".")[2]).fn).parameters
    given = dict(word.split("=", 1) for word in words if word.split("=")[0] in own)
    rest = [word for word in words if word.split("=")[0] not in own]
    check = evaluate.settings_of if "checkpoint" in given else parameters.settings_of
    stage = given.pop("stage", None)
    given.pop("force", None)
    settings = check(given.pop("experiment", "lab/fastcurl"), rest, **given)
    at = None if stage is None else parameters.position_of(settings, stage)
    found.append([settings.stages[0].steps, at, settings.evaluation.benchmarks[0].name])
print("found:", json.dumps(found))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    """Where the page's files are written, as it says."""
    folder = tmp_path_factory.mktemp("experiment")
    shutil.copytree(ROOT / "conf", folder / "conf")
    names = re.findall(r"^\*\*.*?\*\*, `(conf/\S+?\.yaml)`", TEXT, re.M)
    for name, body in zip(names, YAML, strict=True):
        (folder / name).write_text(body)
    command, shown = CONSOLE[0].split("$ head -1 train.jsonl\n")
    run(folder, "bash", "-c", command.removeprefix("$ "))
    assert (folder / "train.jsonl").read_text().splitlines()[0] == shown.strip()
    return folder


def run(folder: Path, *command: str) -> str:
    binaries = Path(sys.executable).parent
    paths = {"PYTHONPATH": f"{folder}:{ROOT}", "PATH": f"{binaries}:{os.environ['PATH']}"}
    done = subprocess.run(
        command, cwd=folder, env={**os.environ, **paths}, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout + done.stderr


def commands() -> list[list[str]]:
    lines = "".join(CONSOLE[1:]).splitlines()
    words = [shlex.split(line.removeprefix("$ "), comments=True) for line in lines]
    return [each[2:] if each[0] == "python" else each for each in words]


def test_the_files_make_an_experiment_with_problems_and_test_sets_of_ones_own(folder):
    read, inspected, planned, _ = commands()[:4]
    settings = run(folder, sys.executable, "-m", *read)
    assert "path: test.jsonl" in settings and "context_length: 64" in settings
    sets = run(folder, sys.executable, "-m", *inspected)
    assert re.search(r"L2 +200 prompts", sets)
    plan = run(folder, sys.executable, "-m", *planned)
    assert re.search(r"^3-tight +to run +4 +4 +32 ", plan, re.M)


def test_every_other_command_is_taken(folder):
    from trainer.lab import BASE

    for name in set(re.findall(r"outputs/stages/([\w-]+)", TEXT)):
        shutil.copytree(BASE, folder / "outputs" / "stages" / name / "checkpoint")
    told = run(folder, sys.executable, "-c", CHECK, json.dumps(commands()[3:]))
    [found] = re.findall(r"^found: (.*)$", told, re.M)
    assert json.loads(found) == [
        [4, None, "mine_test"],
        [8, None, "mine_test"],
        [4, 2, "mine_test"],
        [4, -1, "mine_test"],
        [8, None, "mine_test"],  # of lab/fastcurl, whose stages do not matter
        [4, None, "mine_test"],
        0,
        0,
    ]
