"""What every group of knobs is made of."""

from collections.abc import Sequence
from typing import Any, get_args

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator
from pydantic_core import PydanticCustomError

Value = bool | int | float | str  # of a setting of the user's own function
SEEDS = {"ge": 0, "le": 2**31 - 1}  # what torch, numpy and vLLM all take
# Names become folders, run names and metric names.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


def knob(default: Any, what: str, unit: str = "", **bounds: Any) -> Any:
    """A field with its default, one line on what it does, its unit, and the values it admits."""
    kind = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**kind, description=what, json_schema_extra={"unit": unit}, **bounds)


def not_read(key: str, value: Any, by: str, chosen: str, readers: Sequence[str]) -> str:
    """The refusal of a knob that only other choices than the one made read."""
    wanted = " or ".join(f"{by}={reader}" for reader in readers)
    return (
        f"found {key} {value!r}, which {by}={chosen} does not read, needed {wanted}\n\n"
        f"hint: set its {by} to {' or '.join(readers)}, or leave {key} out"
    )


def _kinds(annotation: Any) -> set[Any]:
    """The types that an annotation is made of."""
    inner = get_args(annotation)
    return {annotation}.union(*map(_kinds, inner)) if inner else {annotation}


class Knobs(BaseModel):
    """A group of knobs: refuses unknown keys, and does not change once made."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )

    @field_validator("*", mode="before")
    @classmethod
    def _a_switch_is_no_number(cls, value: Any, field: ValidationInfo) -> Any:
        # pydantic would take true for 1.
        within = value if isinstance(value, list) else [value]
        if any(isinstance(one, bool) for one in within):
            kinds = _kinds(cls.model_fields[field.field_name].annotation)
            if {int, float} & kinds and bool not in kinds:
                raise PydanticCustomError("number_type", "Input should be a number")
        return value

    def unread(self, key: str) -> str:
        """Why one of its knobs has no effect beside the others, with a hint, or "".

        Of those alone that a file under conf/ may leave over where the command line chooses
        otherwise: what the command line itself sets is to have an effect.
        """
        return ""
