"""E2H: from easy to hard, each slot of the batch drawing its level from a moving distribution."""

from collections.abc import Collection
from typing import Any

import numpy as np

from trainer.schedules import level_probabilities
from trainer.selection.curriculum import Curriculum, Draw
from trainer.selection.cursor import Cursor


def levels_of(values: list[float], most: int) -> list[int]:
    """Levels 0 to K − 1 of prompts, K at most `most`.

    As many distinct values as levels: each is a level. More: cut into `most` parts of about equal
    size, equal values in one part.

    >>> levels_of([2, 4, 4, 9], 4), levels_of([1, 2, 3, 4, 5, 6], 3)
    ([0, 1, 1, 2], [0, 0, 1, 1, 2, 2])
    """
    distinct = sorted(set(values))
    if len(distinct) <= most:
        return [distinct.index(value) for value in values]
    edges = np.quantile(values, np.arange(1, most) / most)
    parts = np.searchsorted(edges, values, side="left")
    used = sorted(set(parts.tolist()))
    return [used.index(part) for part in parts.tolist()]


class E2H(Curriculum):
    """At step t of T each slot draws a level from the schedule, then that level's next prompt.

    Source:
        Parashar et al. 2025, "E2H Reasoner", arXiv:2506.06632; the schedules are in
        `trainer.schedules`. A level whose prompts are all busy gives its slot to the nearest.
    """

    def configure(
        self,
        schedule: str = "gaussian",
        levels: int = 4,
        exponent: float = 0.5,
        width: float = 0.5,
        floor: bool = False,
    ) -> None:
        """Schedule, most levels, and what shapes the Gaussian."""
        values = [prompt.level for prompt in self.prompts]
        if None in values:
            raise ValueError(
                f"{values.count(None)} of {len(values)} prompts have no level, needed one for "
                "each\n\nhint: selection=e2h wants a prompt set with levels, or choose another"
            )
        self.schedule = schedule
        self.shape = {"exponent": exponent, "width": width, "floor": floor}
        found = levels_of(values, levels)
        self.members = [
            [prompt for prompt, level in enumerate(found) if level == wanted]
            for wanted in range(max(found, default=-1) + 1)
        ]
        self.cursors = [
            Cursor(len(members), self.seed + level) for level, members in enumerate(self.members)
        ]

    def probabilities(self, step: int) -> np.ndarray:
        """[K] probability of each level at a step, counted from 1."""
        progress = (step - 1) / max(1, self.steps - 1)
        return level_probabilities(self.schedule, progress, len(self.members), **self.shape)

    def draw(self, count: int, step: int, busy: Collection[int]) -> list[Draw]:
        """For each slot a level, for each level its next prompt."""
        taken, result = set(busy), []
        random, chances = self.random(), self.probabilities(step)
        for wanted in random.choice(len(chances), size=count, p=chances).tolist():
            prompt = self._next(wanted, taken)
            if prompt is None:
                break
            taken.add(prompt)
            result.append(self.planned(prompt, step))
        return result

    def _next(self, wanted: int, taken: set[int]) -> int | None:
        for level in sorted(range(len(self.members)), key=lambda level: abs(level - wanted)):
            members = self.members[level]
            busy = {place for place, prompt in enumerate(members) if prompt in taken}
            place = self.cursors[level].next(busy)
            if place is not None:
                return members[place]
        return None

    def memory(self) -> dict[str, Any]:
        """Where each level's cursor stands."""
        return {"levels": [cursor.state_dict() for cursor in self.cursors]}

    def recall(self, state: dict[str, Any]) -> None:
        """Where each level's cursor stands."""
        for cursor, saved in zip(self.cursors, state["levels"], strict=True):
            cursor.load_state_dict(saved)
