"""A flow from a command line: `key=value` in, an exit code out, errors as sentences."""

import json
import logging
import signal
import subprocess
import sys
from collections.abc import Callable
from threading import Thread
from typing import Any

from prefect import Flow
from prefect.server.api.server import SubprocessASGIServer

from conf.load import ConfigError
from flows.steps import settings_of
from tasks.comparison import StudyIncompleteError
from tasks.evaluate import EvaluationFailedError
from tasks.prompt_lengths import load_tokenizers
from trainer.backend.launch import StageFailedError
from trainer.process import StalledError, under_guard, with_our_modules

# Errors whose message says all: where in our code they were raised helps nobody.
EXPLAINED = (
    ValueError,
    StageFailedError,
    StalledError,
    EvaluationFailedError,
    StudyIncompleteError,
)


def run(
    flow: Flow,
    arguments: list[str],
    *,
    given: tuple[str, str] = ("experiment", "lab/fastcurl"),
    check: Callable[[str, list[str]], Any] = settings_of,
) -> int:
    """Run a flow; what is none of its parameters is a setting of the experiment.

    Args:
        flow: Takes what `given` names, `overrides`, and parameters of its own.
        arguments: `key=value` each.
        given: What the settings are settings of, and which one by default.
        check: Refuses settings that cannot be used, from that name and the overrides.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted, 143 told to end by SIGTERM.
    """
    parameters = dict([given])
    own = set(flow.parameters.properties) - {"overrides", "output"}
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in own:
            parameters[key] = _value(value)
        else:
            overrides.append(argument)
    _server_lives_as_long_as_this()
    told = _sigterm_is_ctrl_c()
    for name in ("prefect.flow_runs", "prefect.task_runs"):
        logging.getLogger(name).addFilter(_without_trace)
    try:
        # Before the flow starts, so that a slip of the keyboard costs no start-up.
        check(parameters[given[0]], overrides)
        Thread(target=load_tokenizers).start()  # while Prefect's server starts
        flow(**parameters, overrides=overrides)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 128 + (told[0] if told else signal.SIGINT)
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


def _value(text: str) -> Any:
    """A parameter as `prefect deployment run --param` reads it: JSON, else text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def _without_trace(record: logging.LogRecord) -> bool:
    """Log an error that explains itself without its traceback."""
    if record.exc_info and isinstance(record.exc_info[1], EXPLAINED):
        record.exc_info = record.exc_text = None
    return True


def _server_lives_as_long_as_this() -> None:
    """Start Prefect's temporary server under a guard, in a process group of its own.

    Killed outright, this process stops no server, which would then run for ever. And a terminal
    sends Ctrl-C to the whole group: the server would end at once, and the flow would then wait for
    minutes to tell it that it was interrupted.
    """
    start = SubprocessASGIServer._run_uvicorn_command

    def start_apart(server: SubprocessASGIServer) -> subprocess.Popen:
        popen = subprocess.Popen

        def guarded(args: list[str], env: dict[str, str]) -> subprocess.Popen:
            environment = with_our_modules(env)
            return popen([*under_guard(), *args], env=environment, process_group=0)

        subprocess.Popen = guarded
        try:
            return start(server)
        finally:
            subprocess.Popen = popen

    SubprocessASGIServer._run_uvicorn_command = start_apart
