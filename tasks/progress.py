"""The lines that a person watches while a stage trains and while a checkpoint is sampled."""

import time
from collections.abc import Mapping
from pathlib import Path
from threading import Lock

import pyarrow.parquet as pq

from trainer.generate import parts

QUIET = 10.0  # seconds between lines about sampling


class StageProgress:
    """The line that a person watches while a stage trains."""

    def __init__(self, label: str, steps: int):
        """Of a stage called `label` that makes so many steps."""
        self.label, self.steps = label, steps
        self.durations: list[float] = []

    def after(self, record: Mapping[str, float]) -> str:
        """The line after a step: step, reward, cut-off share, length, tokens/s, time left."""
        self.durations.append(record["seconds/step"])
        # The first step loads what later ones find loaded: it says little about the rest.
        usual = self.durations[1:][-10:] or self.durations
        left = (self.steps - record["step"]) * sum(usual) / len(usual)
        return (
            f"{self.label}  step {record['step']}/{self.steps}  "
            f"reward {record['reward/mean']:.2f}  cut off {record['truncated_share']:.0%}  "
            f"length {record['response_length/mean']:.0f}  "
            f"{record['tokens_per_second']:,.0f} tokens/s  left {clock(left)}"
        )


class SamplingProgress:
    """A line now and then while a checkpoint is sampled: problems done, their pace, time left."""

    def __init__(self, label: str, folder: Path, problems: int, samples: int, left: int) -> None:
        """Of what is to be shown.

        Args:
            label: Whose responses, to what.
            folder: Where parts appear.
            problems: How many the benchmark has.
            samples: Responses to each.
            left: Responses still to make.
        """
        self.label, self._folder = label, folder
        self._total, self._samples, self._left = problems * samples, samples, left
        self._begun = self._shown = time.monotonic()
        self._before: Mapping[Path, int] = {path: 0 for path in parts(folder)}
        self._seen: dict[Path, tuple[int, int]] = {}
        self._lock = Lock()

    def look(self) -> bool:
        """Whether there is a new part; shows a line if the last one is long enough ago.

        Every sampling process's thread may ask: whichever ends first, the others' lines come.
        """
        with self._lock:
            return self._look()

    def _look(self) -> bool:
        new = [
            path for path in parts(self._folder)
            if path not in self._before and path not in self._seen
        ]  # fmt: skip
        for path in new:
            tokens = pq.read_table(path, columns=["tokens"])["tokens"]
            self._seen[path] = (len(tokens), sum(tokens.to_pylist()))
        now = time.monotonic()
        if self._seen and now - self._shown >= QUIET and self.made < self._left:
            self._shown = now
            print(self.line(now - self._begun))
        return bool(new)

    @property
    def made(self) -> int:
        """Responses that came since the beginning."""
        return sum(count for count, _ in self._seen.values())

    def line(self, seconds: float) -> str:
        """What is done after so many seconds."""
        done = self._total - self._left + self.made
        rate = self.made / seconds / self._samples
        tokens = sum(tokens for _, tokens in self._seen.values()) / seconds
        left = (self._left - self.made) / self.made * seconds
        return (
            f"{self.label}  {done / self._samples:,.0f}/{self._total // self._samples:,} problems"
            f"  {rate:,.2f} problems/s  {tokens:,.0f} tokens/s  left {clock(left)}"
        )


def clock(seconds: float) -> str:
    """A duration as people read it.

    >>> clock(75), clock(3_725)
    ('1:15', '1:02:05')
    """
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"
