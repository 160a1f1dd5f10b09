"""What a benchmark leaves: its figures, the command that finds them again, and the machine."""

import shlex
import sys
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

from tasks.artifacts import write_json
from tasks.machine import environment

ROOT = Path(__file__).parents[1]
RESULTS = ROOT / "benchmarks" / "results"
MEASURED = ("matplotlib", "pyarrow", "scipy", "sympy", "tokenizers")
"""Packages whose time or decisions are measured, beside those of every manifest."""


def command() -> str:
    """The command that was given, as a shell takes it, without what only this machine has.

    Relative paths stand as they were given. Absolute ones are told from the checkout, or else as
    FOLDER and the file's name.
    """
    return shlex.join(["python", *map(_told, sys.orig_argv[1:])])


def _told(word: str) -> str:
    """A word of a command without folders of this machine.

    >>> [_told(word) for word in ("--rows", "outputs", "/my/sets", "--output=/my/data.json")]
    ['--rows', 'outputs', 'FOLDER', '--output=FOLDER/data.json']
    """
    option, equals, value = word.rpartition("=")
    path = Path(value)
    if path.is_relative_to(ROOT):
        path = path.relative_to(ROOT)
    elif path.is_absolute():
        path = Path("FOLDER", path.name if path.suffix else "")
    else:
        return word
    return f"{option}{equals}{path}"


def write(path: Path, facts: Mapping[str, Any], page: str = "") -> None:
    """Keep figures as JSON and, where there is one, a page beside them as Markdown.

    Args:
        path: Of both, with `.json` or without a suffix.
        facts: The figures. Command, packages and machine are added.
        page: What is for people. The command is put before it.
    """
    name, made_on = str(path).removesuffix(".json"), environment()
    packages = made_on["packages"] | {each: version(each) for each in MEASURED}
    write_json(
        f"{name}.json",
        {"command": command(), **facts, "environment": {**made_on, "packages": packages}},
    )
    if page:
        Path(f"{name}.md").write_text(f"`{command()}`\n\n{page}\n")
