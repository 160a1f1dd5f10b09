"""Names and overrides in, a checked `Experiment` out."""

import sys
from collections.abc import Iterable
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args, get_origin

from hydra.core.override_parser.overrides_parser import OverridesParser
from hydra.core.override_parser.types import Override
from hydra.errors import HydraException
from omegaconf import OmegaConf
from omegaconf.errors import OmegaConfBaseException
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from conf.compose import compose
from conf.schema import Experiment

FOLDER = Path(__file__).parent
GROUPS = (
    "experiment", "curriculum", "method", "reward", "selection", "data", "gates", "model",
    "hardware", "evaluation", "notes",
)  # fmt: skip
REQUIRED = ("stages", "data", "model", "method", "reward", "selection", "hardware", "evaluation")


class ConfigError(ValueError):
    """Settings that cannot be used: which key, what was found, what was needed, and a hint."""


def refusal(fact: str, hint: str) -> ConfigError:
    """The error of a setting: what was found and needed, and the knob to turn."""
    return ConfigError(f"{fact}\n\nhint: {hint}")


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
    lines = [_checked(override) for override in parsed(overrides)]
    try:
        config = compose("conf", "config", lines)
        values = OmegaConf.to_container(config, resolve=True, throw_on_missing=True)
    except (HydraException, OmegaConfBaseException) as error:
        raise ConfigError(_told(error, overrides)) from error
    for key in REQUIRED:
        if not values.get(key):
            raise ConfigError(
                f"{key}: found nothing, needed at least one setting\n\n"
                f"hint: drop the override that empties {key}, or choose a file of that group"
            )
    return checked(values)


def checked(values: dict[str, Any]) -> Experiment:
    """An `Experiment` from plain values, such as those of a `settings.json`.

    Raises:
        ConfigError: for unknown keys and for values out of bounds, all of them at once.
    """
    try:
        return Experiment.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_refused(error)) from error


def choices(group: str) -> list[str]:
    """Names of the YAML files of a group, such as `lab/fastcurl` for `experiment`."""
    files = (FOLDER / group).rglob("*.yaml")
    return sorted(file.relative_to(FOLDER / group).with_suffix("").as_posix() for file in files)


def parsed(overrides: Iterable[str]) -> list[Override]:
    """Overrides as Hydra reads them.

    Raises:
        ConfigError: one is none.
    """
    parser = OverridesParser.create()
    found = []
    for line in overrides:
        try:
            found.append(parser.parse_override(line))
        except HydraException as error:
            raise ConfigError(
                f"{line!r} is no override, needed key=value\n\n"
                "hint: quote what the shell would split, as in 'name=\"my run\"'"
            ) from error
    return found


def _checked(override: Override) -> str:
    """The override as Hydra is to get it, or a ConfigError."""
    line, key = override.input_line, override.key_or_group
    if override.is_sweep_override():
        raise ConfigError(
            f"{key}: found several values in {line!r}, needed one\n\nhint: run once for each value"
        )
    if key in GROUPS and not override.is_delete():
        _check_choice(key, str(override.value()))
        # Hydra knows a group by its package too, as conf/config.yaml spells it.
        return line.lstrip("+").replace("experiment=", "experiment@_global_=", 1)
    fault = _unknown(key.split("."))
    if fault:
        raise ConfigError(fault)
    if override.is_delete():
        raise ConfigError(
            f"{key}: found {line!r}, which takes it away; every setting is needed\n\n"
            f"hint: give it another value, as in {key}=..."
        )
    # With "++" a knob may be set that no YAML file mentions: the schema says what exists.
    return "++" + line.lstrip("+")


def _check_choice(group: str, name: str) -> None:
    names = choices(group)
    if name not in names:
        some = (
            ", ".join(names) if len(names) <= 20 else f"the {len(names)} that --help {group} lists"
        )
        hint = _near(name, names) or f"write conf/{group}/{name}.yaml"
        raise refusal(f"{group}: found {name!r}, needed one of {some}", hint)


def _near(name: str, names: Iterable[str]) -> str:
    """A question that suggests near names, or nothing."""
    names = list(names)
    # `fastcrl` is to find `lab/fastcurl` too, hence the comparison by last part.
    last = {full: full.rsplit("/", 1)[-1] for full in names}
    matches = get_close_matches(name, names, n=3)
    for part in get_close_matches(name.rsplit("/", 1)[-1], last.values(), n=3):
        matches += [full for full in names if last[full] == part and full not in matches]
    return f"did you mean {' or '.join(matches)}?" if matches else ""


def _model_of(field: FieldInfo) -> type[BaseModel] | None:
    """The model that a field holds, or holds a list of."""
    found = [field.annotation, *get_args(field.annotation)]
    models = [kind for kind in found if isinstance(kind, type) and issubclass(kind, BaseModel)]
    return models[0] if models else None


def _walk(path: Iterable[str | int]) -> tuple[list[str], type[BaseModel] | None, FieldInfo | None]:
    """How far a path leads into the schema: what was walked, the last model, the last field."""
    walked: list[str] = []
    model: type[BaseModel] | None = Experiment
    field: FieldInfo | None = None
    for part in map(str, path):
        if part.isdigit() and field is not None:
            walked.append(part)
        elif model is not None and part in model.model_fields:
            field = model.model_fields[part]
            model = _model_of(field)
            walked.append(part)
        else:
            break
    return walked, model, field


def _unknown(path: list[str]) -> str:
    """What is wrong with a key that the schema does not have, or nothing."""
    walked, model, field = _walk(path)
    if len(walked) == len(path):
        return ""
    if len(walked) == len(path) - 1 and field and get_origin(field.annotation) is dict:
        return ""  # its keys are not the schema's to know
    key, name = ".".join(path), path[len(walked)]
    at = ".".join(walked)
    if model is None:
        return f"{key}: no such key, {at} holds a plain value\n\nhint: set {at} itself"
    names = [*model.model_fields, *(() if walked else GROUPS)]
    matches = get_close_matches(name, names, n=3)
    near = [".".join([*walked, match]) for match in matches]
    return (
        f"{key}: no such key{f' in {at}' if at else ''}, needed one of "
        f"{', '.join(dict.fromkeys(names))}\n\n"
        f"hint: {'did you mean ' + ' or '.join(near) + '?' if near else 'take it out'}"
    )


def _refused(error: ValidationError) -> str:
    """What pydantic found wrong, in sentences: facts first, then a hint for each."""
    facts: dict[str, list[str]] = {}
    hints: dict[str, str] = {}
    for fault in error.errors():
        walked, _, field = _walk(fault["loc"])
        key = ".".join(walked) or "experiment"
        if fault["type"] == "extra_forbidden":
            fact, _, hint = _unknown([str(part) for part in fault["loc"]]).partition("\n\n")
            key, fact = fact.split(": ", 1)
            hint = hint.removeprefix("hint: ")
        elif fault["type"] == "value_error":
            fact, _, hint = str(fault["ctx"]["error"]).partition("\n\n")
            hint = hint.removeprefix("hint: ")
        else:
            needed = fault["msg"].removeprefix("Input should be ")
            if fault["type"] == "string_pattern_mismatch":
                needed = "letters, digits, '.', '_' and '-' only, a letter or digit first"
            fact, hint = f"found {fault['input']!r}, needed {needed}", _meaning(key, field)
        # The members of a union each report: one fact, several needs.
        before = facts.setdefault(key, [])
        before.append(fact if not before else fact.rsplit("needed ", 1)[-1])
        hints[key] = hint
    lines = [f"{key}: {' or '.join(dict.fromkeys(fact))}" for key, fact in facts.items()]
    return "\n".join(lines) + "\n\n" + "\n".join(f"hint: {hint}" for hint in hints.values())


def _meaning(key: str, field: FieldInfo | None) -> str:
    if field is None:
        return f"look at {key} in conf/schema"
    unit = (field.json_schema_extra or {}).get("unit", "")
    return f"{key} ({unit}): {field.description}"


def _told(error: Exception, overrides: tuple[str, ...]) -> str:
    """What Hydra or OmegaConf found wrong. The cause names the key where the error does not."""
    if "You must specify 'experiment@_global_'" in str(error):
        return (
            f"experiment: found none, needed one of {', '.join(choices('experiment'))}\n\n"
            "hint: add experiment=lab/fastcurl"
        )
    # OmegaConf appends lines about its own nodes; the first says what is wrong.
    facts = dict.fromkeys(
        str(part).strip().partition("\n    full_key")[0]
        for part in (error, error.__cause__)
        if part
    )
    key = getattr(error, "full_key", None) or getattr(error.__cause__, "full_key", None)
    if any("index out of range" in fact for fact in facts):
        return f"{key}: found no such entry, the list is shorter\n\nhint: entries count from 0"
    return (
        (f"{key}: " if key else "")
        + "\n".join(facts)
        + f"\n\nhint: look at the overrides {' '.join(overrides) or '(none)'}"
    )


if __name__ == "__main__":
    try:
        print(OmegaConf.to_yaml(load(*sys.argv[1:]).model_dump(mode="json")), end="")
    except ConfigError as refusal:
        sys.exit(str(refusal))
