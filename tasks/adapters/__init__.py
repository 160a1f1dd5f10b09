"""One adapter for each schema in which the published sets come.

An adapter says whether a row is of its schema, checks that the row holds what its columns should,
and turns it into the fields of `tasks.artifacts.COLUMNS` (all but `id`, which the set numbers).
"""

from collections.abc import Mapping
from typing import Any, Protocol

from tasks.adapters import (
    areal,
    capitals,
    chat,
    conversation,
    dapo,
    knights,
    math,
    numina,
    olympiad,
    plain,
)


class Adapter(Protocol):
    """What each module of this package has."""

    COLUMNS: frozenset[str]
    """Columns that it reads, those that may be missing included."""

    def fits(self, row: Mapping[str, Any]) -> bool:
        """Whether a row has the columns of this schema and no other."""

    def check(self, row: Mapping[str, Any]) -> None:
        """Raise `row.UnfitError` for a row whose columns hold something else than they should."""

    def convert(self, row: Mapping[str, Any], instruction: str) -> dict[str, Any]:
        """The row in our fields; `copy_of` in it names rows that upstream repeats."""


ADAPTERS: dict[str, Adapter] = {
    "areal": areal,
    "chat": chat,
    "conversation": conversation,
    "dapo": dapo,
    "capitals": capitals,
    "olympiad": olympiad,
    "knights": knights,
    "numina": numina,
    "math": math,
    "plain": plain,
}
"""By name, as `data.train.format` gives it. What is more particular comes first: `auto` takes the
first that fits, and the last where none does."""


def adapter_of(row: Mapping[str, Any], name: str = "auto") -> Adapter:
    """The adapter of a name, or with `auto` the first that fits the row."""
    if name != "auto":
        return ADAPTERS[name]
    return next((one for one in ADAPTERS.values() if one.fits(row)), plain)


def columns(name: str = "auto") -> frozenset[str]:
    """The columns that an adapter may read: no other is taken from a file."""
    if name != "auto":
        return ADAPTERS[name].COLUMNS
    return frozenset().union(*(one.COLUMNS for one in ADAPTERS.values()))
