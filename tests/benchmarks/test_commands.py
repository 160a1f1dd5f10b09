"""The command in a result can be run again, and so can those that documents name."""

import importlib
import json
import re
import shlex
import sys
from argparse import ArgumentParser
from pathlib import Path

import pytest

from benchmarks import record
from benchmarks.all import COMMANDS

ROOT = Path(__file__).parents[2]
BENCHMARKS = {
    f"benchmarks.{path.stem}"
    for path in (ROOT / "benchmarks").glob("*.py")
    if "ArgumentParser" in path.read_text()
}


def named() -> list[str]:
    """Every command of a benchmark in documents, docstrings, results and `benchmarks.all`."""
    found = {f"python -m {words}" for words in COMMANDS.values()}
    places = [ROOT / "README.md", *(ROOT / "docs").rglob("*.md"), *(ROOT / "benchmarks").glob("*")]
    for path in [*places, *(ROOT / "benchmarks" / "results").glob("*.md")]:
        if path.suffix in {".md", ".py"}:
            found |= set(re.findall(r"python -m benchmarks\.\w[^`#\n]*", path.read_text()))
    for path in (ROOT / "benchmarks" / "results").glob("*.json"):
        found.add(json.loads(path.read_text()).get("command", ""))
    return sorted({one.strip() for one in found if module_of(one) in BENCHMARKS})


def module_of(command: str) -> str:
    return (shlex.split(command) + [""] * 3)[2]


class Taken(Exception):
    """Holds what a parser made of a command."""


@pytest.fixture
def taken(monkeypatch):
    """Gives what a benchmark's own parser makes of a command; nothing is measured."""
    parse = ArgumentParser.parse_args

    def stop(parser):
        raise Taken(vars(parse(parser)))

    def taken(command: str) -> dict:
        module, *words = shlex.split(command)[2:]
        monkeypatch.setattr(sys, "argv", [module, *words])
        monkeypatch.setattr(sys, "orig_argv", ["/bin/python", "-m", module, *words])
        with pytest.raises(Taken) as found:
            importlib.import_module(module).main()
        return found.value.args[0]

    monkeypatch.setattr(ArgumentParser, "parse_args", stop)
    return taken


def test_each_benchmark_says_how_it_is_run():
    assert {module_of(command) for command in named()} == BENCHMARKS


@pytest.mark.parametrize("command", named())
def test_a_command_is_one_that_its_benchmark_takes_and_records(taken, command):
    asked = taken(command)
    assert record.command() == shlex.join(shlex.split(command))
    assert taken(record.command()) == asked


def test_folders_of_this_machine_are_not_recorded(taken, tmp_path):
    inside = ROOT / "benchmarks" / "results" / "data.json"
    taken(f"python -m benchmarks.data --data {tmp_path} --rows 9 --output {inside}")
    told = "python -m benchmarks.data --data FOLDER --rows 9 --output benchmarks/results/data.json"
    assert record.command() == told
    taken(f"python -m benchmarks.step --output={tmp_path}/step.json")
    assert record.command() == "python -m benchmarks.step --output=FOLDER/step.json"


@pytest.mark.parametrize("name", ["step", "step.json", "of 0.5B"])
def test_a_result_has_its_command_its_figures_and_its_machine(taken, tmp_path, name):
    taken("python -m benchmarks.step --rounds 1")
    record.write(tmp_path / "new" / name, {"seconds": 1.5}, "| a page |")
    file, page = (tmp_path / "new" / (name.removesuffix(".json") + end) for end in (".json", ".md"))
    facts = json.loads(file.read_text())
    assert list(facts) == ["command", "seconds", "environment"]
    assert facts["command"] == "python -m benchmarks.step --rounds 1"
    assert {"torch", "sympy"} <= set(facts["environment"]["packages"])
    assert page.read_text() == "`python -m benchmarks.step --rounds 1`\n\n| a page |\n"
