"""A page that is one file: a template filled in, with its style and figures inside."""

from collections.abc import Mapping
from math import isfinite
from pathlib import Path
from typing import Any

import jinja2

from tasks.drawing import COLOURS


def page(template: str, content: Mapping[str, Any]) -> str:
    """A template beside this file, filled in. A name that it needs and does not get is an error."""
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**content, colours=COLOURS)


def without_nan(value: Any) -> Any:
    """The same with null for NaN and infinity, which JSON does not know."""
    if isinstance(value, dict):
        return {key: without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [without_nan(each) for each in value]
    return None if isinstance(value, float) and not isfinite(value) else value
