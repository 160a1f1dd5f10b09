"""In what a stage differs from one that was trained before."""

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

from tasks.labels import flat


@dataclass(frozen=True)
class Change:
    """A field of a stage's identity that is not what it was.

    Attributes:
        field: Its name, dotted: `stage.steps`, `data`, `start`.
        before: Its value in the earlier stage; None if that had no such field.
        after: Its value now; None if there is no such field any more.
        remark: What the values stand for, where they are digests.
    """

    field: str
    before: Any
    after: Any
    remark: str = ""


def differences(
    before: Mapping[str, Any], after: Mapping[str, Any], unknown: Collection[str] = ()
) -> list[Change]:
    """The fields in which two identities differ; those in `unknown` are left out."""
    old, new = flat(before), flat(after)
    names = [*new, *(name for name in old if name not in new)]
    return [
        Change(name, old.get(name), new.get(name))
        for name in names
        if name not in unknown and old.get(name) != new.get(name)
    ]


def explained(change: Change, makers: Mapping[str, str]) -> Change:
    """A change of digests, shortened, with what they stand for."""
    if change.field not in ("data", "start"):
        return change
    if change.field == "data":
        remark = "other prompts"
    else:
        old, new = (
            makers.get(str(d), "a stage no longer here") for d in (change.before, change.after)
        )
        remark = f"changed upstream: was {old}, now {new}"
    return Change(change.field, str(change.before)[:12], str(change.after)[:12], remark)
