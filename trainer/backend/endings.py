"""A stage that ends before its last step, or collapses: what the trainer does about it.

`trainer.transitions` decides, from the records alone; this leaves on disk what must outlive the
trainer.
"""

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from trainer.backend.metrics import check_finite
from trainer.records import read_records
from trainer.transitions import Ending, collapsed, decided, ended, last_good

ALARM = "alarm.json"  # in the stage's folder: what the last attempt saw collapse


class CollapsedError(RuntimeError):
    """A stage's alarm went off."""


class Endings:
    """What a stage's records say of its end, as they come."""

    def __init__(self, file: Path, settings: Mapping[str, Any], steps: int):
        """Make it for the stage whose records are in `file`.

        Args:
            file: Its `metrics.jsonl`.
            settings: `transition` and `alarm`, as plain mappings.
            steps: Steps that it makes at most.
        """
        self.file, self.steps = file, steps
        self.transition, self.alarm = settings["transition"], settings["alarm"]
        self.records: list[dict] = []

    def resume(self) -> int | None:
        """Take up the records of steps that are kept; the last step, if they ended the stage."""
        self.file.with_name(ALARM).unlink(missing_ok=True)
        self.records = read_records(self.file)
        ending = ended(self.records, self.transition, self.steps)
        return ending and ending.step

    def check(self, record: dict) -> None:
        """Refuse a step that is no number, before it is recorded: nothing resumes after it.

        Raises:
            FloatingPointError: a metric is NaN or infinite.
        """
        if self.alarm["not_finite"]:
            check_finite(record, record["step"])
        self.records.append(record)

    def collapse(self) -> Ending | None:
        """What shows a collapse, on the disk before this returns; None if all is well."""
        found = collapsed(self.records, self.alarm)
        if found:
            content = {"step": found.step, "good": last_good(found), "evidence": found.as_json()}
            path = self.file.with_name(ALARM)
            aside = path.with_suffix(".part")
            aside.write_text(json.dumps(content, indent=2))
            os.replace(aside, path)
        return found

    def done(self) -> Ending | None:
        """What ends the stage with the last step, before it made all of them."""
        return decided(self.records, self.transition, self.steps)


def refuse(collapse: Ending, resumes_after: int) -> None:
    """Stop a stage that has collapsed.

    Args:
        collapse: What shows it.
        resumes_after: Step of the last checkpoint of before.

    Raises:
        CollapsedError: always.
    """
    kept = f"the checkpoint of step {resumes_after}" if resumes_after else "its start"
    raise CollapsedError(
        f"step {collapse.step}: collapsed. {'; '.join(map(str, collapse.evidence))}\n\n"
        f"hint: the stage is back at {kept}, before the collapse; run again, it goes on from "
        "there, but as it did unless something is changed: lower stages.N.learning_rate, raise "
        "kl_coefficient or entropy_coefficient, or widen stages.N.alarm if this is no collapse"
    )


def alarm_of(folder: Path) -> dict[str, Any] | None:
    """What `alarm.json` of a stage's folder says: step, last good step, evidence; None without."""
    path = folder / ALARM
    return json.loads(path.read_text()) if path.exists() else None
