"""The order in which prompts are taken: a new permutation each epoch, none lost, none repeated."""

from collections.abc import Collection
from typing import Any

import numpy as np


class Cursor:
    """Goes through N prompts, epoch after epoch.

    A prompt that is busy when its turn comes (its group of the epoch before is not trained yet) is
    put off and given as soon as it is free, so that an epoch gives every prompt once. One that is
    busy for a whole epoch loses a turn.

    Args:
        size: N.
        seed: Of the permutations; each follows from the seed and the epoch alone.
    """

    def __init__(self, size: int, seed: int):
        self.size, self.seed = size, seed
        self.epoch = self.position = 0
        self.deferred: list[int] = []
        self.order = self._order()

    def _order(self) -> list[int]:
        return np.random.default_rng([self.seed, self.epoch]).permutation(self.size).tolist()

    def next(self, busy: Collection[int] = ()) -> int | None:
        """The next prompt that is not busy, or None if all are.

        Args:
            busy: Prompts that are not to be given, each once.
        """
        if len(busy) >= self.size:
            return None
        for prompt in self.deferred:
            if prompt not in busy:
                self.deferred.remove(prompt)
                return prompt
        # One that is free may have had its turn in this epoch and come last in the next.
        for _ in range(2 * self.size - self.position):
            if self.position == self.size:
                self.epoch, self.position = self.epoch + 1, 0
                self.order = self._order()
            prompt = self.order[self.position]
            self.position += 1
            if prompt not in busy:
                return prompt
            if prompt not in self.deferred:
                self.deferred.append(prompt)
        return None

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON; the permutation is made again."""
        return {"epoch": self.epoch, "position": self.position, "deferred": list(self.deferred)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.epoch, self.position = state["epoch"], state["position"]
        self.deferred = list(state["deferred"])
        self.order = self._order()
