"""When a stage is done before its last step, and when it has collapsed: told by its records.

Both are functions of `metrics.jsonl` alone. So a stage that was interrupted decides as one that
was not, and whoever reads the records later finds the same.

Records are those of steps 1 to n, in order. Conditions are as conf/schema/transition.py has them,
as plain mappings.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

Record = Mapping[str, float]
KINDS = ("below", "above", "plateau", "drop")
WORDS = {
    "below": "is below {bound:g}",
    "above": "is above {bound:g}",
    "plateau": "exceeds that of the {window} before by less than {bound:g}",
    "drop": "is lower than the best before by more than {bound:g}",
}


@dataclass(frozen=True)
class Evidence:
    """A condition that held, and what it was seen from.

    Attributes:
        metric: What was looked at.
        kind: Which bound: below, above, plateau or drop.
        bound: Its value.
        found: What was compared with it: the mean of the window, its rise over the window before,
            or its fall from the best window before.
        first: First step of the window.
        last: Last step of the window.
    """

    metric: str
    kind: str
    bound: float
    found: float
    first: int
    last: int

    def __str__(self) -> str:
        window = self.last - self.first + 1
        words = WORDS[self.kind].format(bound=self.bound, window=window)
        number = {"plateau": "by ", "drop": "by "}.get(self.kind, "") + f"{self.found:.4g}"
        return f"{self.metric}, its mean over steps {self.first} to {self.last}, {words}: {number}"


@dataclass(frozen=True)
class Ending:
    """A stage's end before its last step.

    Attributes:
        step: The last step made.
        evidence: What held after it.
    """

    step: int
    evidence: list[Evidence]

    def as_json(self) -> list[dict[str, Any]]:
        """The evidence as plain JSON."""
        return [asdict(one) for one in self.evidence]


def told(condition: Mapping[str, Any]) -> str:
    """A condition in words.

    >>> told({"metric": "entropy", "below": 0.1, "window": 20, "min_steps": 100})
    'the mean of entropy over 20 steps is below 0.1 (from step 100)'
    """
    kind = _kind(condition)
    words = WORDS[kind].format(bound=condition[kind], window=condition["window"])
    start = f" (from step {condition['min_steps']})" if condition.get("min_steps") else ""
    return f"the mean of {condition['metric']} over {condition['window']} steps {words}{start}"


def held(records: Sequence[Record], condition: Mapping[str, Any]) -> Evidence | None:
    """What shows that a condition holds after the last of these steps; None if it does not.

        below, above   mean(m[n-W+1 .. n])
        plateau        mean(m[n-W+1 .. n]) - mean(m[n-2W+1 .. n-W])
        drop           max over k <= n-W of mean(m[k-W+1 .. k]) - mean(m[n-W+1 .. n])

    Never before `min_steps` steps, nor before the windows are full. A value that is missing or not
    finite leaves its window empty: such a window decides nothing.

    Args:
        records: [n] the steps so far.
        condition: metric, window W, min_steps, and one of the bounds.
    """
    kind, window = _kind(condition), condition["window"]
    needed = 2 * window if kind in ("plateau", "drop") else window
    if len(records) < max(needed, condition.get("min_steps", 0)):
        return None
    seen = records if kind == "drop" else records[-needed:]
    values = np.array([record.get(condition["metric"], math.nan) for record in seen], dtype=float)
    values[~np.isfinite(values)] = math.nan
    now = values[-window:].mean()
    if kind == "plateau":
        found = now - values[:window].mean()
    elif kind == "drop":
        earlier = np.lib.stride_tricks.sliding_window_view(values[:-window], window).mean(axis=-1)
        found = max(earlier[np.isfinite(earlier)], default=math.nan) - now
    else:
        found = now
    bound = condition[kind]
    if not (found > bound if kind in ("above", "drop") else found < bound):
        return None
    last = len(records)
    return Evidence(condition["metric"], kind, bound, float(found), last - window + 1, last)


def decided(records: Sequence[Record], transition: Mapping[str, Any], steps: int) -> Ending | None:
    """Whether the stage ends with the last of these steps, before it made all of them.

    Args:
        records: [n] the steps so far.
        transition: `policy`, and conditions as `when`.
        steps: Steps that the stage makes at most.
    """
    if transition["policy"] == "fixed" or not records or len(records) >= steps:
        return None
    found = [held(records, condition) for condition in transition["when"]]
    evidence = [one for one in found if one]
    wanted = len(found) if transition["policy"] == "all" else 1
    return Ending(len(records), evidence) if len(evidence) >= wanted else None


def ended(records: Sequence[Record], transition: Mapping[str, Any], steps: int) -> Ending | None:
    """Where a stage with these records ended early; None if nothing ended it before its steps.

    The arguments are those of `decided`; the first step that decides counts.
    """
    endings = (decided(records[:n], transition, steps) for n in range(1, len(records) + 1))
    return next(filter(None, endings), None)


def collapsed(records: Sequence[Record], alarm: Mapping[str, Any]) -> Ending | None:
    """Whether the last of these steps sets the alarm off, and what shows it."""
    evidence = [one for condition in alarm["when"] if (one := held(records, condition))]
    return Ending(len(records), evidence) if evidence else None


def last_good(collapse: Ending) -> int:
    """The last step before any of the windows that show a collapse."""
    return min(one.first for one in collapse.evidence) - 1


def _kind(condition: Mapping[str, Any]) -> str:
    return next(kind for kind in KINDS if condition.get(kind) is not None)
