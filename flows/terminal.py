"""A flow from a command line: `key=value` in, an exit code out, errors as sentences."""

import json
import sys
from typing import Any

from prefect import Flow

from flows.steps import settings_of


def run(flow: Flow, arguments: list[str]) -> int:
    """Run a flow; what is none of its parameters is a setting of the experiment.

    Args:
        flow: Takes `experiment`, `overrides`, and parameters of its own.
        arguments: `key=value` each.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    parameters = {"experiment": "lab/fastcurl"}
    own = set(flow.parameters.properties) - {"overrides", "output"}
    overrides = []
    for argument in arguments:
        key, equals, value = argument.partition("=")
        if equals and key in own:
            parameters[key] = _value(value)
        else:
            overrides.append(argument)
    try:
        # Before the flow starts, so that a slip of the keyboard costs no start-up.
        settings_of(parameters["experiment"], overrides)
        flow(**parameters, overrides=overrides)
    except KeyboardInterrupt:
        print("interrupted; the same command goes on from the last checkpoint", file=sys.stderr)
        return 130
    except ValueError as error:  # a refusal: settings, data, model or disk do not allow it
        print(f"\n{error}", file=sys.stderr)
        return 2
    except Exception as error:
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1
    return 0


def _value(text: str) -> Any:
    """A parameter as `prefect deployment run --param` reads it: JSON, else text."""
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text
