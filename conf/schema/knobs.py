"""What every group of knobs is made of."""

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

Value = bool | int | float | str  # of a setting of the user's own function
SEEDS = {"ge": 0, "le": 2**31 - 1}  # what torch, numpy and vLLM all take
# Names become folders, run names and metric names.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def knob(default: Any, what: str, unit: str = "", **bounds: Any) -> Any:
    """A field with its default, one line on what it does, its unit, and the values it admits."""
    kind = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**kind, description=what, json_schema_extra={"unit": unit}, **bounds)


class Knobs(BaseModel):
    """A group of knobs: refuses unknown keys, and does not change once made."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )
