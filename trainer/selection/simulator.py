"""Selection without a model: the pass rate of each prompt is known, rollouts come in any order.

Drives the same `Stream` as the trainer does, event by event.
"""

from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np

from trainer.selection.curriculum import Choice, Rollout
from trainer.selection.stream import Order, Stream

PassRates = Callable[[int, int], float]  # (prompt, step) -> pass rate


def constant(rates: Sequence[float]) -> PassRates:
    """Pass rates of a policy that does not learn."""
    return lambda prompt, step: rates[prompt]


class Simulator:
    """Plays engine and grader for a stream.

    A rollout's outcome follows from the seed, its group and its position in it: whatever the order
    in which orders come back, the same rollouts are right.

    Args:
        stream: The stream to drive.
        pass_rate: What the policy can do.
        seed: Of outcomes.
        order_seed: Of the order in which orders come back; None gives them back as asked.
        tokens: Length of a rollout of a prompt.
        fault: Share of orders that fail.
        lost: Share of orders that never come back: given up when nothing else is on its way.
    """

    def __init__(
        self,
        stream: Stream,
        pass_rate: PassRates,
        *,
        seed: int = 0,
        order_seed: int | None = 0,
        tokens: Callable[[int], int] = lambda prompt: 1,
        fault: float = 0.0,
        lost: float = 0.0,
    ):
        self.stream, self.pass_rate, self.seed = stream, pass_rate, seed
        self.arrivals = None if order_seed is None else np.random.default_rng(order_seed)
        self.tokens, self.fault, self.lost = tokens, fault, lost
        self.largest = 0  # most groups that were ever kept at once

    def steps(self, count: int) -> Iterator[tuple[list[Choice], dict[str, Any], list[dict]]]:
        """Each step's choices, its account, and the groups whose fate it sealed."""
        for step in range(self.stream.step + 1, self.stream.step + 1 + count):
            choices = self.step(step)
            self.stream.ledger.updated(1)
            yield choices, self.stream.ledger.record(), self.stream.ledger.groups

    def step(self, step: int) -> list[Choice]:
        """One step, to the groups that train."""
        stream = self.stream
        stream.begin(step)
        pending: list[Order] = []
        while not stream.ready:
            pending += stream.orders()
            kept = len(stream.unsettled) + len(stream.places) + len(stream.waiting)
            self.largest = max(self.largest, kept)
            pick = 0 if self.arrivals is None else int(self.arrivals.integers(len(pending)))
            self._finish(pending.pop(pick), step)
        return stream.take()

    def _finish(self, order: Order, step: int) -> None:
        group = order.group
        random = np.random.default_rng([self.seed, group.number, order.first])
        chance = random.random()
        if chance < self.fault + self.lost:
            reason = "rollout" if chance < self.fault else "timeout"
            self.stream.failed(group.uid, reason)
            return
        rate = self.pass_rate(group.draw.prompt, step)
        right = random.random(order.count) < rate
        tokens = self.tokens(group.draw.prompt)
        rollouts = [Rollout(float(r), float(r), tokens, step - 1) for r in right]
        self.stream.graded(group.uid, rollouts)
