"""What is wrong with keys and values, by the schema."""

from collections.abc import Iterable, Iterator, Mapping
from difflib import get_close_matches
from typing import Any, get_args, get_origin

from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from conf.files import GROUPS
from conf.schema import Experiment
from conf.schema.knobs import Knobs


def unknown(path: list[str]) -> str:
    """What is wrong with a key that the schema does not have, or nothing."""
    walked, model, field = _walk(path)
    if len(walked) == len(path):
        return ""
    if len(walked) == len(path) - 1 and field and get_origin(field.annotation) is dict:
        return ""  # its keys are not the schema's to know
    key, name = ".".join(path), path[len(walked)]
    at = ".".join(walked)
    if _is_list(field) and not walked[-1].isdigit():
        # Either the place was left out, or the entry's name given for it.
        inside = model is not None and name in model.model_fields
        meant = ".".join([*walked, "0", *path[len(walked) + (not inside) :]])
        return (
            f"{key}: {at} is a list, needed a place in it, counted from 0\n\n"
            f"hint: did you mean {meant}?"
        )
    if model is None:
        return f"{key}: no such key, {at} holds a plain value\n\nhint: set {at} itself"
    groups = () if walked else GROUPS
    names = list(dict.fromkeys([*model.model_fields, *groups]))
    if name in groups:  # as a key of a file, or with a part behind it
        hint = _of_a_group(name, path[1:])
    else:
        matches = get_close_matches(name, names, n=3)
        near = _elsewhere(name) or [".".join([*walked, match]) for match in matches]
        hint = f"did you mean {' or '.join(near)}?" if near else "take it out"
    return (
        f"{key}: no such key{f' in {at}' if at else ''}, needed one of {', '.join(names)}\n\n"
        f"hint: {hint}"
    )


def _of_a_group(group: str, rest: list[str]) -> str:
    if group == "curriculum" and rest:  # its files are read as the experiment's `stages`
        inside = rest[1:] if rest[0] == "stages" else rest
        return f"did you mean {'.'.join(['stages', *inside])}?"
    within = "" if group == "experiment" else f", - override /{group}: ... in a file's defaults,"
    return f"{group}=... on the command line{within} chooses a file"


def _elsewhere(name: str) -> list[str]:
    """Keys of the knobs of that name which stand a part deeper."""
    found = []
    for part, field in Experiment.model_fields.items():
        model = _model_of(field)
        if model and name in model.model_fields and name != "name":
            found.append(f"{part}.0.{name}" if _is_list(field) else f"{part}.{name}")
    return found


def unread(experiment: Experiment, given: Mapping[str, Any]) -> str:
    """What is wrong with a knob that the command line sets and nothing reads, or nothing.

    Args:
        experiment: The settings as they came out.
        given: Overrides by key; a value may hold further keys.
    """
    for key, value in given.items():
        for path in _leaves(key, value):
            part: Any = experiment
            walked: list[str] = []
            for step in path.split("."):
                is_set = isinstance(part, Knobs) and step in part.model_dump(exclude_defaults=True)
                if is_set and (fault := part.unread(step)):
                    return f"{'.'.join(walked)}: {fault}"
                part = part[int(step)] if isinstance(part, list) else getattr(part, step, None)
                walked.append(step)
    return ""


def _leaves(key: str, value: Any) -> Iterator[str]:
    if isinstance(value, dict | list):
        inner = value.items() if isinstance(value, dict) else enumerate(value)
        for name, one in inner:
            yield from _leaves(f"{key}.{name}", one)
    else:
        yield key


def refused(error: ValidationError) -> str:
    """What pydantic found wrong, in sentences: facts first, then a hint for each."""
    facts: dict[str, list[str]] = {}
    hints: dict[str, str] = {}
    for fault in error.errors():
        walked, _, field = _walk(fault["loc"])
        key = ".".join(walked)
        if fault["type"] == "extra_forbidden":
            fact, _, hint = unknown([str(part) for part in fault["loc"]]).partition("\n\n")
            key, fact = fact.split(": ", 1)
            hint = hint.removeprefix("hint: ")
        elif fault["type"] == "value_error":
            fact, _, hint = str(fault["ctx"]["error"]).partition("\n\n")
            hint = hint.removeprefix("hint: ")
        else:
            fact, hint = f"found {fault['input']!r}, needed {needed(fault)}", _meaning(key, field)
            if fault["type"] == "string_type" and isinstance(fault["input"], bool | int | float):
                text = f"'{fault['input']}'"
                hint = f'a text is quoted: {key}: {text} in a file, "{key}={text}" in a shell'
            if key in GROUPS and isinstance(fault["input"], str):  # in a file, beside its defaults
                hint = f"to choose a file write - override /{key}: {fault['input']} in defaults"
        # The members of a union each report: one fact, several needs.
        before = facts.setdefault(key, [])
        before.append(fact if not before else fact.rsplit("needed ", 1)[-1])
        hints[key] = hint
    # What is wrong with settings beside each other belongs to no key: the fact names them.
    lines = [
        f"{key}: {' or '.join(dict.fromkeys(fact))}".removeprefix(": ")
        for key, fact in facts.items()
    ]
    return "\n".join(lines) + "\n\n" + "\n".join(f"hint: {hint}" for hint in hints.values())


def needed(fault: Mapping[str, Any]) -> str:
    """What pydantic wanted in place of what it found, to stand behind "needed"."""
    kind, bounds = fault["type"], fault.get("ctx", {})
    if kind == "string_pattern_mismatch":
        return "letters, digits, '.', '_' and '-' only, a letter or digit first"
    if kind == "invalid_key":
        return "a text as a key"
    if kind in ("too_short", "string_too_short"):
        return f"{bounds['min_length']} at least" if kind == "too_short" else "a text"
    return fault["msg"].removeprefix("Input should be ")


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
        elif _is_list(field) and not walked[-1].isdigit():
            break
        elif model is not None and part in model.model_fields:
            field = model.model_fields[part]
            model = _model_of(field)
            walked.append(part)
        else:
            break
    return walked, model, field


def _is_list(field: FieldInfo | None) -> bool:
    return field is not None and get_origin(field.annotation) is list


def _meaning(key: str, field: FieldInfo | None) -> str:
    if field is None:
        return f"look at {key or 'the settings'} in conf/schema"
    unit = (field.json_schema_extra or {}).get("unit", "")
    return f"{key} ({unit}): {field.description}"
