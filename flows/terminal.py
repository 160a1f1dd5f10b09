"""A flow from a command line: `key=value` in, an exit code out, errors as sentences."""

import gc
import inspect
import json
import logging
import re
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from threading import Thread
from typing import Any

from prefect import Flow
from prefect.exceptions import ParameterTypeError
from pydantic import BaseModel

from conf.load import ConfigError
from conf.overrides import asked
from conf.schema import Experiment
from flows import temporary_server
from flows.parameters import settings_of
from flows.usage import OF_SETTINGS, usage
from tasks import track_reach
from tasks.comparison import StudyIncompleteError
from tasks.evaluate import EvaluationFailedError
from tasks.prompt_lengths import load_tokenizers
from tasks.train_stage import begin
from trainer.backend.launch import StageFailedError
from trainer.process import StalledError

# Errors whose message says all: where in our code they were raised helps nobody.
EXPLAINED = (
    ValueError,
    StageFailedError,
    StalledError,
    EvaluationFailedError,
    StudyIncompleteError,
)
# What Prefect says of a run that did not end well.
ENDED = re.compile(r"Finished in state (Failed|Crashed)\(")
INTERRUPTED = "Execution was aborted by an interrupt signal."


def run(
    flow: Flow,
    arguments: list[str],
    *,
    given: tuple[str, str] = ("experiment", "lab/fastcurl"),
    check: Callable[..., Any] = settings_of,
    knobs: type[BaseModel] = Experiment,
    trains: bool = False,
) -> int:
    """Run a flow; what is none of its parameters is a setting of the experiment.

    `--help` alone, or before a parameter or the start of a setting's key, tells what can be set
    and runs nothing.

    Args:
        flow: Takes what `given` names, `overrides`, and parameters of its own.
        arguments: `key=value` each.
        given: What the settings are settings of, and which one by default.
        check: Refuses settings that cannot be used, from those of the flow's parameters it takes.
        knobs: What the settings are settings of.
        trains: Where nothing was made yet, the flow will train and sample.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted, 143 told to end by SIGTERM.
    """
    gc.freeze()  # see `flows`
    gc.enable()
    parameters = dict([given])
    own = set(flow.parameters.properties) - OF_SETTINGS
    part = asked(arguments)
    if part is not None:
        return usage(flow, given[0], knobs, part)
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in own:
            parameters[key] = _value(value)
        else:
            overrides.append(argument)
    told = _sigterm_is_ctrl_c()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_in_a_line)
    logging.getLogger("prefect.flows").addFilter(_no_mistyped)
    try:
        # Before the flow starts, so that a slip of the keyboard costs no start-up.
        valid = flow.validate_parameters({**parameters, "overrides": overrides})
        taken = inspect.signature(check).parameters
        settings = check(**{name: value for name, value in valid.items() if name in taken})
        temporary_server.begin()
        if _begins(settings):  # while it starts
            if trains:
                begin(settings)
            Thread(target=_load).start()
        with temporary_server.answering():
            flow(**parameters, overrides=overrides)
    except KeyboardInterrupt:
        print("interrupted; the same command resumes from the last checkpoint", file=sys.stderr)
        return 128 + (told[0] if told else signal.SIGINT)
    except ParameterTypeError as error:
        print(f"\n{_mistyped(parameters, error)}", file=sys.stderr)
        return 2
    except ConfigError as error:  # a refusal: settings, data, model or disk do not allow it
        print(f"\n{error}", file=sys.stderr)
        return 2
    except EXPLAINED as error:
        print(f"\n{error}", file=sys.stderr)
        return 1
    except Exception as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _sigterm_is_ctrl_c() -> list[int]:
    """Let SIGTERM interrupt as Ctrl-C does, so that stage and runs say that they were interrupted.

    Returns:
        What it was told: SIGTERM, once it was.
    """
    told: list[int] = []

    def interrupt(number: int, _: object) -> None:
        told.append(number)
        raise KeyboardInterrupt

    signal.signal(signal.SIGTERM, interrupt)
    return told


def _begins(settings: Any) -> bool:
    """Whether nothing was made in the output folder yet: then prompts are still to be counted."""
    output = getattr(settings, "output", None)
    return output is not None and not (Path(output) / "data").exists()


def _load() -> None:
    """Import what the flow asks for first."""
    track_reach.load()
    load_tokenizers()


def _value(text: str) -> Any:
    """A parameter as `prefect deployment run --param` reads it: JSON, else text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _mistyped(given: dict[str, Any], error: ParameterTypeError) -> str:
    """What is wrong with parameters of the flow's own, by what Prefect says of them."""
    needs: dict[str, list[str]] = {}
    for name, need in re.findall(r"^ - (\w+)\S*: (?:Input should be )?(.+)$", str(error), re.M):
        needs.setdefault(name, []).append(need)
    facts = [
        f"{name}: found {given.get(name)!r}, needed {' or '.join(need)}"
        for name, need in needs.items()
    ]
    return "\n".join(facts) + f"\n\nhint: --help {next(iter(needs), '')} tells what it is"


def _no_mistyped(record: logging.LogRecord) -> bool:
    """`run` says what is wrong with a parameter."""
    return not record.getMessage().startswith("Parameter validation failed")


def _in_a_line(record: logging.LogRecord) -> bool:
    """Log in a line that a run failed or was interrupted; `run` says why, once and at the end.

    An error that does not explain itself keeps its line, with the trace.
    """
    message = record.getMessage()
    if record.exc_info and isinstance(record.exc_info[1], EXPLAINED):
        return False
    if message == f"Crash detected! {INTERRUPTED}":
        return False
    if ended := ENDED.match(message):
        record.msg, record.args = f"Finished in state {ended[1]}()", ()
        if INTERRUPTED in message:
            record.msg, record.levelno, record.levelname = "Interrupted", logging.INFO, "INFO"
    return True
