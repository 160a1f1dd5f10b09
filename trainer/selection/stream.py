"""The stream of prompt groups: what is sampled now, what is dropped, what trains.

One state machine for verl and for the simulator. It is told what came back (`graded`, `failed`)
and says what is to be sampled next (`orders`), until `ready`; then `take` gives the step's groups.
It knows no clock, no engine and no model.

A screened group that qualifies goes on at once if it is sure of a place in the step: if it would
have one even though every group drawn before it, and not yet known, qualified too. The others wait
until those are known. So what trains follows from the rewards alone, in whatever order they come
back, and a resumed stage decides as the interrupted one would have.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from trainer.selection.curriculum import Choice, Curriculum, Draw, Group, Rollout
from trainer.selection.ledger import Ledger, told

YIELD_MEMORY = 0.8  # per step: a policy that learns makes old yields a bad guide
VERSION = 1


class NothingToTrainOnError(RuntimeError):
    """Not one prompt group of a whole pass over the prompt set teaches anything."""


@dataclass(frozen=True)
class Bounds:
    """What a stream keeps within.

    Attributes:
        batch_size: Groups that a step trains on.
        in_flight: Groups drawn whose fate is not settled, at most.
        max_age: Steps that a surplus group may wait for its turn; 0 drops it with its step.
        max_draws: Prompts that a step draws at most, unless it would have none to train on: then
            all, or, where most fail, four times `in_flight`.
        ahead: Groups to be drawn for the next step beside what this one samples; they wait for it,
            so they are an update older and need a `max_age` of 1 or more.
    """

    batch_size: int
    in_flight: int
    max_age: int
    max_draws: int
    ahead: int = 0


@dataclass(frozen=True)
class Order:
    """Rollouts to be sampled now.

    Attributes:
        group: Of which group.
        first: Position in the group of the first of them: each rollout has a seed of its own.
        count: How many.
    """

    group: Group
    first: int
    count: int


class Stream:
    """Groups on their way from the prompt set to the update.

    Args:
        curriculum: Who answers the questions.
        bounds: What to keep within.

    Attributes:
        released: Uids whose rollouts nobody will ask for again; the caller empties it.

    Raises:
        NothingToTrainOnError: the prompt set is empty.
    """

    def __init__(self, curriculum: Curriculum, bounds: Bounds):
        if not curriculum.prompts:
            raise NothingToTrainOnError(
                "the stage has no prompts\n\nhint: look at stages.N.prompts and data.segmentation"
            )
        self.curriculum, self.bounds = curriculum, bounds
        self.ledger = Ledger()
        self.number = 0  # groups drawn so far
        self.step = 0
        self.tried, self.kept = 0.0, 0.0  # settled of late, and those of them that qualified
        self.waiting: list[Group] = []  # qualified, but there was no place for them
        self.released: list[str] = []
        self._orders: list[Order] = []
        self._clear()

    def _clear(self) -> None:
        self.unsettled: list[Group] = []  # in the order of their draws
        self.verdicts: dict[str, bool] = {}  # unsettled and known: does it qualify?
        self.sampling: dict[str, Group] = {}
        self.places: list[Group] = []  # groups of this step, finished or being continued
        self.gone: list[Group] = []  # sampled in this step or before, and left out
        self.draws = 0
        self.failure = ""  # why a rollout failed last

    def begin(self, step: int) -> None:
        """Start a step: groups that waited get their places first, then prompts are drawn."""
        self.step = step
        self.ledger.begin(step)
        self.tried, self.kept = self.tried * YIELD_MEMORY, self.kept * YIELD_MEMORY
        self._place_waiting()
        # Once a step, beside what is sampled anyway: a batch that falls short is filled up later.
        self._draw(self.bounds.ahead if step < self.curriculum.steps else 0)

    def orders(self) -> list[Order]:
        """What is to be sampled and was not told before."""
        orders, self._orders = self._orders, []
        return orders

    def graded(self, uid: str, rollouts: Sequence[Rollout]) -> bool:
        """An order came back, its rollouts in the order in which they were asked for.

        Returns:
            False if nobody waits for it any more: its group was given up.
        """
        group = self.sampling.pop(uid, None)
        self.ledger.generated(rollouts, late=group is None)
        if group is None:
            self.released.append(uid)
            return False
        if not group.rollouts:
            group.rollouts += rollouts
            asked = self.curriculum.trains if group.finished else self.curriculum.continues
            self.verdicts[uid] = asked(group)
        else:
            # The bounds are on the screening: what it let through trains, as published.
            group.rollouts += rollouts
        self._settle()
        return True

    def failed(self, uid: str, reason: str) -> bool:
        """An order will not come back: its group is given up, and another prompt takes its place.

        Returns:
            False if it was given up before.
        """
        group = self.sampling.pop(uid, None)
        if group is None:
            return False
        self.failure = reason
        self._leave(group, f"failed: {reason}")
        if group in self.places:
            self.places.remove(group)
            self._place_waiting()
        if group in self.unsettled:
            self.unsettled.remove(group)
            self.verdicts.pop(uid, None)
        self._draw()
        self._settle()
        return True

    @property
    def ready(self) -> bool:
        """Whether the step has all that it will get. Nothing is being sampled then: on-policy."""
        return not self.sampling

    def take(self) -> list[Choice]:
        """The step's groups, in the order of their draws.

        Fewer than the batch size where too few qualified: the ledger says by how many.

        Raises:
            NothingToTrainOnError: none qualified in a whole pass over the prompt set, or of as many
                prompts as are tried where most fail.
        """
        assert self.ready and not self.unsettled, "the step is not ready"
        groups = sorted(self.places, key=lambda group: group.number)
        if not groups:
            raise NothingToTrainOnError(self._exhausted())
        choices = self.curriculum.choose(groups, self.step)
        self.ledger.trained(choices, self.bounds.batch_size - len(groups))
        for group in list(self.waiting):
            if self.step + 1 - group.step > self.bounds.max_age:
                self.waiting.remove(group)
                self._leave(group, "surplus")
        known = sorted([*groups, *self.gone], key=lambda group: group.number)
        self.curriculum.remember([group for group in known if group.rollouts], self.step)
        self.ledger.end(self.waiting, self.curriculum)
        self._clear()
        return choices

    def sealed(self, *, last: bool) -> list[dict[str, Any]]:
        """Groups whose fate the step sealed; after the `last` one, those that wait in vain, too."""
        waiting = [told(group, "waiting") for group in self.waiting] if last else []
        return self.ledger.groups + waiting

    def state_dict(self) -> dict[str, Any]:
        """Everything that later decisions depend on, plain JSON. Between two steps only."""
        assert not self.sampling and not self.places, "in the middle of a step"
        return {
            "version": VERSION,
            "prompts": len(self.curriculum.prompts),
            "number": self.number,
            "step": self.step,
            "yield": [self.tried, self.kept],
            "waiting": [group.state_dict() for group in self.waiting],
            "curriculum": self.curriculum.state_dict(),
            "ledger": self.ledger.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken.

        Raises:
            ValueError: it was taken by another version, or on another prompt set.
        """
        found = (state.get("version"), state.get("prompts"))
        needed = (VERSION, len(self.curriculum.prompts))
        if found != needed:
            raise ValueError(
                f"the saved selection is of (version, prompts) {found}, needed {needed}\n\n"
                "hint: move the stage's folder away and run it again"
            )
        self.number, self.step = state["number"], state["step"]
        self.tried, self.kept = state["yield"]
        self.waiting = [Group.from_state(group) for group in state["waiting"]]
        self.curriculum.load_state_dict(state["curriculum"])
        self.ledger.load_state_dict(state["ledger"])

    def _settle(self) -> None:
        """Settle what is known, in the order of the draws; start what is sure of its place."""
        while self.unsettled and self.unsettled[0].uid in self.verdicts:
            group = self.unsettled.pop(0)
            qualifies = self.verdicts.pop(group.uid)
            self.tried, self.kept = self.tried + 1, self.kept + qualifies
            if not qualifies:
                self._leave(group, _why(group))
            elif len(self.places) < self.bounds.batch_size:
                self._place(group)
            else:
                self.waiting.append(group)
            self._draw()
        before = len(self.places)  # places that may be taken before the group looked at
        for group in self.unsettled:
            qualifies = self.verdicts.get(group.uid, True)
            if group.uid in self.verdicts and qualifies and before < self.bounds.batch_size:
                self._continue(group)
            before += qualifies

    def _place(self, group: Group) -> None:
        self.places.append(group)
        self._continue(group)

    def _continue(self, group: Group) -> None:
        """Ask for the rest of a group, unless that was done or there is none."""
        if not group.finished and group.uid not in self.sampling:
            self.ledger.count("continued")
            self._sample(group, group.draw.size - len(group.rollouts))

    def _place_waiting(self) -> None:
        while self.waiting and len(self.places) < self.bounds.batch_size:
            self._place(self.waiting.pop(0))

    def _draw(self, ahead: int = 0) -> None:
        """Draw as many prompts as the yield of late asks for."""
        while (count := self._wanted(ahead)) > 0:
            # Those that left in this step too: this policy was asked about them already.
            busy = {
                group.draw.prompt
                for group in (*self.unsettled, *self.places, *self.waiting, *self.gone)
            }
            skipped = self.curriculum.skipped
            draws = self.curriculum.draw(count, self.step, busy)
            self.ledger.count("skipped", self.curriculum.skipped - skipped)
            for draw in draws:
                self._start(draw)
            if not draws:  # every prompt had its turn in this step, or waits
                return

    def _wanted(self, ahead: int) -> int:
        bounds = self.bounds
        rate = (self.kept + 1) / (self.tried + 1)
        there = len(self.places) + len(self.waiting) + rate * len(self.unsettled)
        missing = bounds.batch_size + ahead - there
        limit = bounds.max_draws
        if not self.places and not self.unsettled:  # better late than none
            most = len(self.curriculum.prompts)
            limit = max(limit, min(most, 4 * bounds.in_flight) if self._fails else most)
        room = bounds.in_flight - len(self.unsettled)
        return min(math.ceil(missing / rate - 1e-9), room, limit - self.draws)

    def _start(self, draw: Draw) -> None:
        group = Group(self.number, self.curriculum.prompts[draw.prompt].id, draw, self.step)
        self.number, self.draws = self.number + 1, self.draws + 1
        self.unsettled.append(group)
        self.ledger.count("drawn")
        self.ledger.count("screened", bool(draw.screening))
        self._sample(group, draw.screening or draw.size)

    def _sample(self, group: Group, count: int) -> None:
        self.sampling[group.uid] = group
        self.ledger.count("generation_calls")
        self._orders.append(Order(group, len(group.rollouts), count))

    def _leave(self, group: Group, fate: str) -> None:
        self.released.append(group.uid)
        self.gone.append(group)
        self.ledger.left(group, fate)

    @property
    def _fails(self) -> bool:
        """Whether most of what was drawn failed. To go through the whole set would waste days."""
        return self.ledger.counts["failed"] > self.draws / 2

    def _exhausted(self) -> str:
        fates = self.ledger.fates()
        what = ", ".join(f"{count} {fate}" for fate, count in sorted(fates.items())) or "none free"
        failed = fates.get("failed", 0)
        what += f" (the last by {self.failure})" if failed else ""
        among = " of" if self._fails else ", a whole pass over the"
        hint = (
            "`grep -A20 failed: trainer.log` shows why the rollouts failed"
            if self._fails
            else "where most are solved the stage has taught what it can, where most are hopeless "
            "start from another checkpoint or choose easier prompts; `failed` is told of in "
            "trainer.log; selection.bounds are the bounds"
        )
        return (
            f"step {self.step}: of {self.draws} prompt groups drawn{among} "
            f"{len(self.curriculum.prompts)} prompts, none can be trained on: {what}"
            f"\n\nhint: {hint}"
        )


def _why(group: Group) -> str:
    rate = group.pass_rate
    return "solved" if rate == 1 else "hopeless" if rate == 0 else "out of bounds"
