"""What can be set, told from the schema: `python -m flows.pipeline --help [PART]`."""

import re
import textwrap
from collections import Counter
from collections.abc import Iterator
from difflib import get_close_matches
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, Union, get_args, get_origin

from pydantic import BaseModel
from pydantic.fields import FieldInfo

from conf.load import GROUPS, choices, refusal
from conf.schema import Experiment


def told(part: str, root: type[BaseModel] = Experiment) -> str:
    """The knobs of a part of the settings: key, type, default, unit, and a line on what it does.

    Args:
        part: Start of their keys, such as `stages` or `hardware.rollout`; "": the parts there are,
            and the files to choose from.
        root: What holds the settings.

    Raises:
        ConfigError: no key starts so.

    >>> print(told("hardware.threads"))
    hardware.threads  int, threads, default 1
        OpenMP threads of each trainer process on a CPU.
    """
    if not part:
        return _parts(root)
    wanted = re.sub(r"\.(N|\d+)(?=\.|$)", ".0", part)  # a place in a list: one is as another
    lines = []
    if part in GROUPS:
        lines += [*_named(f"{part}=", choices(part)), ""]
    for key, field in _knobs(root, ""):
        if f"{key.replace('.N', '.0')}.".startswith(f"{wanted}."):
            unit = (field.json_schema_extra or {}).get("unit", "")
            about = ", ".join(filter(None, [_type(field.annotation), unit, _default(field)]))
            lines += [f"{key}  {about}", f"    {field.description}"]
    if not lines:
        named = [*root.model_fields, *GROUPS, *(key for key, _ in _knobs(root, ""))]
        near = get_close_matches(wanted.replace(".0", ".N"), dict.fromkeys(named))
        hint = f"did you mean {' or '.join(near)}?" if near else "--help alone lists what there is"
        raise refusal(f"no setting is called {part!r}", hint)
    return "\n".join(lines).strip()


def _parts(root: type[BaseModel]) -> str:
    lines = ["parts, and --help PART lists their knobs:"]
    for name, field in root.model_fields.items():
        lines.append(f"  {name:<12} {field.description}")
    lines += ["", "files under conf/ to choose from, and --help GROUP lists all of a group:"]
    for group in GROUPS:
        folders = Counter(name.rpartition("/")[0] for name in choices(group))
        names = [name for name in choices(group) if "/" not in name]
        names += [f"{folder}/... ({count})" for folder, count in folders.items() if folder]
        lines += _named(f"  {group}=", names)
    return "\n".join(lines)


def _named(start: str, names: list[str]) -> list[str]:
    return textwrap.wrap(
        start + ", ".join(names), 100, subsequent_indent=" " * 6, break_on_hyphens=False
    )


def _knobs(model: type[BaseModel], prefix: str) -> Iterator[tuple[str, FieldInfo]]:
    """Every knob under a model, by its key; N stands for a place in a list."""
    for name, field in model.model_fields.items():
        inner = _models(field.annotation)
        if not inner:
            yield prefix + name, field
        for part, place in inner:
            yield from _knobs(part, f"{prefix}{name}.{place}")


def _models(annotation: Any) -> list[tuple[type[BaseModel], str]]:
    """The models in a type, and what comes before their keys: `N.` in a list."""
    if isinstance(annotation, type) and issubclass(annotation, BaseModel):
        return [(annotation, "")]
    listed = getattr(annotation, "__origin__", None) is list
    found = [one for argument in get_args(annotation) for one in _models(argument)]
    return [(model, "N." + place if listed else place) for model, place in found]


def _type(annotation: Any, between: str = ", ") -> str:
    """A type in words: what it may be, without the bounds that it may have."""
    origin, inner = get_origin(annotation), get_args(annotation)
    if origin is Annotated:
        return _type(inner[0], between)
    if origin is Literal:
        return between.join(map(repr, inner))
    parts = [_type(one, " or ") for one in inner]
    if origin in (Union, UnionType):
        return " or ".join(parts)
    if parts:
        return f"{origin.__name__}[{', '.join(parts)}]"
    return "null" if annotation is NoneType else annotation.__name__


def _default(field: FieldInfo) -> str:
    value = field.get_default(call_default_factory=True)
    if isinstance(value, BaseModel):
        return ""
    return f"default {'null' if value is None else repr(value)}"
