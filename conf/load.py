"""Names and overrides in, a checked `Experiment` out."""

import re
import signal
import sys
from collections.abc import Iterable
from typing import Any

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import ValidationError
from yaml import MarkedYAMLError
from yaml.reader import ReaderError

from conf import files, keys
from conf.compose import compose
from conf.files import FOLDER, GROUPS, choices
from conf.overrides import asked, written
from conf.refusals import ConfigError, refusal
from conf.schema import Experiment

__all__ = ["FOLDER", "GROUPS", "ConfigError", "checked", "choices", "load", "parsed", "refusal"]

REQUIRED = ("stages", "data", "model", "method", "reward", "selection", "hardware", "evaluation")

MANY = "run once for each value, or compare them in a study (docs/studies.md)"
SHOWN = "python -m conf.load prints the settings: python -m conf.load experiment=lab/fastcurl"
# What Hydra's users may type, and what there is in its place.
HYDRAS = {
    **dict.fromkeys(("-m", "--multirun"), MANY),
    **dict.fromkeys(("-c", "--cfg", "-i", "--info", "-r", "--resolve"), SHOWN),
    **dict.fromkeys(("-cn", "--config-name"), "experiment= chooses a file of conf/experiment"),
}


def load(*overrides: str) -> Experiment:
    """Compose conf/config.yaml with command-line overrides, and check every value.

    A group is chosen by its name (`experiment=lab/fastcurl`, `hardware=gpu1`), a knob is set by
    its path (`seed=1`, `stages.0.steps=2`), whether or not a YAML file mentions it.

    Args:
        overrides: Hydra overrides, in the order of the command line.

    Raises:
        ConfigError: for an unknown experiment, group choice or key (near names are given), for a
            value out of bounds, and for an override that takes the stages or a group away.
    """
    found = parsed(overrides)
    lines = [_checked(override) for override in found]
    try:
        config = compose("conf", "config", lines)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise _told(error, overrides) from error
    except (MarkedYAMLError, ReaderError, UnicodeDecodeError) as error:
        raise files.broken(error) from error
    except ValueError as error:  # Hydra's own, of a file's first lines or its `defaults`
        raise files.unreadable(error) from error
    if isinstance(values.get("curriculum"), dict):
        raise refusal(
            f"{' or '.join(files.without_package()) or 'the curriculum'}: its stages are not the "
            f"experiment's, needed the line {files.PACKAGE} at the top",
            f"begin the file with {files.PACKAGE}",
        )
    strange = [fault for key in values if (fault := keys.unknown([str(key)]))]
    for key in REQUIRED:
        if not values.get(key) and not strange:  # such as `stage` for `stages`
            raise refusal(
                f"{key}: found nothing, needed at least one setting",
                f"drop the override that empties {key}, or choose a file of that group",
            )
    experiment = checked(values)
    given = {one.key_or_group: one.value() for one in found if one.key_or_group not in GROUPS}
    if fault := keys.unread(experiment, given):
        raise ConfigError(fault)
    return experiment


def checked(values: dict[str, Any]) -> Experiment:
    """An `Experiment` from plain values, such as those of a `settings.json`.

    Raises:
        ConfigError: for unknown keys and for values out of bounds, all of them at once.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise ConfigError(keys.refused(error)) from error


def parsed(overrides: Iterable[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        ConfigError: one is none.
    """
    lines, parser, found = list(overrides), OverridesParser.create(), []
    for place, line in enumerate(lines):
        key, _, value = line.partition("=")
        if value == "~" or value.startswith("~/"):  # Hydra's grammar has no ~
            line = f"{key}={written(value)}"
        try:
            found.append(parser.parse_override(line))
        except HydraException as error:
            raise _no_override(line, lines[place + 1 : place + 2]) from error
    return found


def _no_override(line: str, after: list[str]) -> ConfigError:
    key, equals, value = line.partition("=")
    if key in HYDRAS:
        return refusal(f"found {line!r}, which is Hydra's own, needed key=value", HYDRAS[key])
    if equals and not line.startswith("-"):
        if not re.fullmatch(r"[+~]*[A-Za-z_][\w./@]*", key):
            return refusal(
                f"found {key!r} before the =, needed a key",
                "its parts are joined by dots, and places in a list count from 0: stages.0.steps",
            )
        return refusal(
            f"{key}: found {value!r}, which cannot be read",
            "close what is open, and quote a text with such signs once more: \"output='R&D runs'\"",
        )
    hint = "as in seed=1"
    if line.startswith("-"):
        hint = f"did you mean {key.lstrip('-')}={value or ''.join(after) or '...'}?"
    return refusal(f"{line!r} is no override, needed key=value", hint)


def _checked(override: Override) -> str:
    """The override as Hydra is to get it, or a ConfigError."""
    line, key = override.input_line, override.key_or_group
    if override.is_sweep_override():
        raise refusal(
            f"{key}: found several values in {line!r}, needed one",
            MANY,
        )
    if key in GROUPS and not override.is_delete():
        files.check_choice(key, str(override.value()))
        # Hydra knows a group by its package too, as conf/config.yaml spells it.
        return line.lstrip("+").replace("experiment=", "experiment@_global_=", 1)
    fault = keys.unknown(key.split("."))
    if fault:
        raise ConfigError(fault)
    if override.is_delete():
        raise refusal(
            f"{key}: found {line!r}, which takes it away; every setting is needed",
            f"give it another value, as in {key}=...",
        )
    # With "++" a knob may be set that no YAML file mentions: the schema says what exists.
    return "++" + line.lstrip("+")


def _told(error: Exception, overrides: tuple[str, ...]) -> ConfigError:
    """What Hydra or OmegaConf found wrong. The cause names the key where the error does not."""
    message = str(error)
    if "You must specify 'experiment@_global_'" in message:
        return refusal(
            f"experiment: found none, needed {files.some('experiment')}",
            "add experiment=lab/fastcurl",
        )
    chosen = [line.partition("=")[2] for line in overrides if line.startswith("experiment=")]
    try:
        files.check_defaults(message, *chosen[-1:])
    except ConfigError as found:
        return found
    # OmegaConf appends lines about its own nodes, Hydra where it looked: not what is wrong.
    facts = dict.fromkeys(
        str(part)
        .strip()
        .partition("\n    full_key")[0]
        .partition("\nConfig search path")[0]
        .strip()
        for part in (error, error.__cause__)
        if part
    )
    key = getattr(error, "full_key", None) or getattr(error.__cause__, "full_key", None)
    if any("index out of range" in fact for fact in facts):
        return refusal(f"{key}: found no such entry, the list is shorter", "entries count from 0")
    hint = f"look at the overrides {' '.join(overrides) or '(none)'}"
    if any(fact.startswith("Interpolation key") for fact in facts):
        hint = "${...} finds what a file of conf/ or another override sets, and no default"
    return refusal((f"{key}: " if key else "") + "\n".join(facts), hint)


def _main(arguments: list[str]) -> str:
    """Every setting of an experiment as YAML, or what can be set."""
    part = asked(arguments)
    if part is None:
        return OmegaConf.to_yaml(load(*arguments).model_dump(mode="json")).strip()
    from conf.help import told  # which needs this module

    if part:
        return told(part)
    usage = "usage: python -m conf.load experiment=lab/fastcurl [KEY=VALUE ...]"
    return f"{usage}\n\nPrint every setting of an experiment; run nothing.\n\n{told('')}"


if __name__ == "__main__":
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)  # `| head` may close the pipe
    sys.stdout.reconfigure(errors="replace")  # a terminal may have no Greek letters
    try:
        print(_main(sys.argv[1:]))
    except ValueError as found:
        sys.exit(str(found))
