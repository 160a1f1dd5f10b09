"""What a flow's command line takes, told by its signature, its docstring and the schema."""

import inspect
import re
import signal
import sys
from pathlib import Path

from prefect import Flow
from pydantic import BaseModel

from conf.help import told
from conf.load import GROUPS, ConfigError, choices
from conf.overrides import written
from conf.schema import Experiment

OF_SETTINGS = {"overrides", "output"}  # parameters that settings on a command line stand for


def usage(flow: Flow, given: str, knobs: type[BaseModel], part: str) -> int:
    """Print what a part of a flow's command line is: a parameter of the flow, or settings.

    Args:
        flow: The flow.
        given: Which of its parameters names the settings.
        knobs: What the settings are settings of.
        part: A parameter, or the start of a setting's key; "": the usage, and all there are.

    Returns:
        Exit code: 0 done, 2 there is no such part.
    """
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` may close the pipe
    sys.stdout.reconfigure(errors="replace")  # a terminal may have no Greek letters
    arguments = _arguments(flow)
    if part in arguments and part not in GROUPS:
        named = f"\n\n{', '.join(choices(part))}" if part == given else ""
        print(f"{part}  {arguments[part]}{named}")
        return 0
    if part.partition(".")[0] in Experiment.model_fields.keys() - knobs.model_fields.keys():
        knobs = Experiment  # of a study, what is none of its keys is a setting of every arm
    try:
        about = told(part, knobs)
    except ConfigError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    if not part:
        module = f"flows.{Path(inspect.getfile(flow.fn)).stem}"
        shown = " ".join(f"[{name}={default}]" for name, default in _defaults(flow).items())
        print(f"usage: python -m {module} {shown} [KEY=VALUE ...]")
        print(f"       python -m {module} --help [PART]\n")
        print(inspect.getdoc(flow.fn).split("\n\n")[0], end="\n\n")
        for name, what in arguments.items():
            print(f"  {name:<12} {what}")
        print()
    print(about)
    return 0


def _defaults(flow: Flow) -> dict[str, str]:
    """The flow's own parameters on a command line, and what each is where it is left out."""
    parameters = inspect.signature(flow.fn).parameters
    return {
        name: "..." if one.default is None else written(one.default).strip("'")
        for name, one in parameters.items()
        if name not in OF_SETTINGS
    }


def _arguments(flow: Flow) -> dict[str, str]:
    """What the docstring says of each of the flow's own parameters."""
    part = re.search(r"^Args:\n(.*?)(?:\n\n|\Z)", inspect.getdoc(flow.fn), re.M | re.S)
    said = re.findall(r"^ {4}(\w+): (.+(?:\n {8}.+)*)", part[1] if part else "", re.M)
    return {name: " ".join(what.split()) for name, what in said if name in _defaults(flow)}
