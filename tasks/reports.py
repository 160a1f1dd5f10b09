"""Reports on disk: one for each name and seed, and those of before that it would have lost.

Imports nothing that draws, so that looking for reports costs no time.
"""

import os
from collections.abc import Iterable, Mapping
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks.artifacts import digest_of, read_json
from tasks.differences import differences

PAGE, SUMMARY = "report.html", "summary.json"
BEFORE = ".before-"  # `<folder>.before-<time>`: a report that was kept aside
MOST = 8  # lines on what two reports differ in


def folder_of(output: Path | str, name: str, seed: int | None) -> Path:
    """Where the report of an experiment with a seed lies."""
    return Path(output) / "reports" / f"{name}-seed{seed}"


def reports(output: Path) -> list[Path]:
    """The folders of all reports below an output folder, those kept aside left out."""
    found = sorted(page.parent for page in output.glob(f"reports/[!.]*/{PAGE}"))
    return [folder for folder in found if BEFORE not in folder.name]


def kept_aside(folder: Path) -> list[Path]:
    """The reports that were moved out of a folder's place, latest first."""
    if not folder.parent.is_dir():
        return []
    there = folder.parent.iterdir()
    return sorted((f for f in there if f.name.startswith(f"{folder.name}{BEFORE}")), reverse=True)


def read_summary(folder: Path) -> dict[str, Any]:
    """What a report's `summary.json` says; nothing where there is none, or none to be read."""
    with suppress(OSError, ValueError):
        found = read_json(folder / SUMMARY)
        return found if isinstance(found, dict) else {}
    return {}


def of_settings(folder: Path, digest: str) -> Path:
    """The report of settings with a digest: the one in a folder, or one kept aside from there.

    Where none says that it is of these, the one in the folder.
    """
    for each in (folder, *kept_aside(folder)):
        with suppress(ValueError):  # settings with a NaN have no digest
            if digest_of(read_summary(each).get("settings")) == digest:
                return each
    return folder


def keep_aside(folder: Path, summary: Mapping[str, Any]) -> str:
    """Move a report to `<folder>.before-<time>` if it shows what the one after it does not.

    Args:
        folder: Where the next report is about to go.
        summary: What the next one's `summary.json` will say.

    Returns:
        Where it is kept and why, in lines; "" if nothing would be lost. What was kept before is
        not kept twice.
    """
    before = read_summary(folder)
    shown, new = _shown(before), _shown(summary) or set()
    if not before or (shown is not None and shown <= new):
        return ""
    same = [each for each in kept_aside(folder) if shown is not None and shown == _shown_in(each)]
    aside = same[0] if same else _moved(folder)
    said = f"the report that was there is kept: {aside / PAGE}"
    if changed := changes(before, summary):
        hint = "hint: a run with a name of its own (name=...) has a report of its own"
        return "\n".join([f"{said}; its settings differ:", *changed, hint])
    lost = ["it does not say what"] if shown is None else sorted(shown - new)
    return "\n".join([f"{said}; it alone shows:", *_first(f"  {each}" for each in lost)])


def _moved(folder: Path) -> Path:
    aside = folder.with_name(f"{folder.name}{BEFORE}{datetime.now():%Y%m%dT%H%M%S.%f}")
    os.replace(folder, aside)
    return aside


def changes(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    """The settings in which two reports differ, a line each; wherever they were written to."""
    old, new = before.get("settings") or {}, after.get("settings") or {}
    found = differences(old, new, unknown=("output",))
    return _first(f"  {each.field}: {each.before} -> {each.after}" for each in found)


def _first(lines: Iterable[str]) -> list[str]:
    found = list(lines)
    more = len(found) - MOST
    return [*found[:MOST], f"  and {more} more"] if more > 0 else found


def _shown_in(folder: Path) -> set[str] | None:
    return _shown(read_summary(folder))


def _shown(summary: Mapping[str, Any]) -> set[str] | None:
    """The folders of stages and scores that a report is made of; None where it does not say."""
    with suppress(AttributeError, KeyError, TypeError):
        kept = summary["kept"]
        return {one["folder"] for kind in ("stages", "evaluations") for one in kept[kind]}
    return None
