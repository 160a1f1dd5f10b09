"""What an online curriculum is: five small questions, and what it remembers between them.

    draw        Which prompts next, and how many rollouts at first?
    continues   Is a screened group worth the rest of its rollouts?
    trains      Does a finished group teach anything?
    choose      Which rollouts of the step's groups have a say, and which train?
    remember    What do we keep of a step's groups?

A curriculum is pure: no clock, no model, no hidden generator. All it learns is in `state_dict`,
plain JSON that is saved with every checkpoint; what it draws at random comes from the seed and a
counter in that state. `trainer.selection.stream` asks the questions, for verl and for the
simulator alike.

Correctness decides, never the shaped reward: filtered on the reward, a length penalty alone makes
a hopeless prompt look informative (verl-recipe #125).
"""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np

from trainer.selection.cursor import Cursor


@dataclass(frozen=True)
class Prompt:
    """A prompt of the stage.

    Attributes:
        id: Its id in the prompt set, unique.
        level: Difficulty, if known: the higher, the harder.
    """

    id: str
    level: float | None = None


@dataclass(frozen=True)
class Rollout:
    """What selection knows of one graded response.

    Attributes:
        correct: 1 if the verifier found it right, else 0.
        reward: What it earns in training.
        tokens: Its length.
        policy: Step of the weights that it was sampled with.
    """

    correct: float
    reward: float
    tokens: int
    policy: int = 0


@dataclass(frozen=True)
class Draw:
    """A prompt to be sampled now.

    Attributes:
        prompt: Its position in the prompt set.
        screening: Rollouts that decide whether the others are sampled; 0 samples all at once.
        size: Rollouts of the whole group.
    """

    prompt: int
    size: int
    screening: int = 0


@dataclass
class Group:
    """A prompt group on its way: drawn, perhaps screened, finished.

    Attributes:
        number: How many groups of the stage were drawn before it.
        id: Id of its prompt.
        draw: The draw that made it.
        step: Step at which it was drawn.
        rollouts: The graded responses so far, in the order in which they were asked for.
    """

    number: int
    id: str
    draw: Draw
    step: int
    rollouts: list[Rollout] = field(default_factory=list)

    @property
    def uid(self) -> str:
        """Its name in the trainer. verl cuts keys at the first underscore, so it has none."""
        return f"{self.number:09d}"

    @property
    def finished(self) -> bool:
        """Whether all its rollouts are graded."""
        return len(self.rollouts) == self.draw.size

    @property
    def pass_rate(self) -> float:
        """Share of its rollouts that are correct, in [0, 1]."""
        return sum(rollout.correct for rollout in self.rollouts) / len(self.rollouts)

    @property
    def tokens(self) -> int:
        """Tokens generated for it so far."""
        return sum(rollout.tokens for rollout in self.rollouts)

    def state_dict(self) -> dict[str, Any]:
        """Plain JSON."""
        return asdict(self)

    @classmethod
    def from_state(cls, state: dict[str, Any]) -> "Group":
        """The group that `state_dict` described."""
        rollouts = [Rollout(**rollout) for rollout in state["rollouts"]]
        return cls(**{**state, "draw": Draw(**state["draw"]), "rollouts": rollouts})


@dataclass(frozen=True)
class Choice:
    """What of one group goes into the update.

    Attributes:
        group: The group.
        baseline: Its rollouts among which the advantage is computed.
        trained: Those of them that train; one that stands there twice counts twice.
    """

    group: Group
    baseline: tuple[int, ...]
    trained: tuple[int, ...]


class Curriculum:
    """Uniform sampling: every prompt once per epoch, every group trains. Override what differs.

    Args:
        prompts: The stage's prompts.
        group_size: Rollouts per prompt that the stage asks for.
        seed: Seed of its draws.
        steps: Training steps of the stage, for schedules.
    """

    def __init__(
        self, prompts: Sequence[Prompt], group_size: int, seed: int, steps: int, **knobs: Any
    ):
        self.prompts = prompts
        self.group_size = group_size
        self.seed = seed
        self.steps = steps
        self.drawn = 0  # random numbers come from (seed, drawn): nothing else to save
        self.skipped = 0
        self.cursor = Cursor(len(prompts), seed)
        self.configure(**knobs)

    def configure(self) -> None:
        """Take the knobs of one's own, and make what is to be remembered."""

    @property
    def rows_per_group(self) -> int:
        """Rollouts of a group that train."""
        return self.group_size

    def draw(self, count: int, step: int, busy: Collection[int]) -> list[Draw]:
        """Up to `count` prompts to be sampled now; fewer only if no other is free.

        Args:
            count: How many are wanted.
            step: The training step, from 1.
            busy: Prompts whose group is being sampled or waits to be trained on.
        """
        taken = set(busy)
        result = []
        while len(result) < count and (prompt := self.cursor.next(taken)) is not None:
            taken.add(prompt)
            result.append(self.planned(prompt, step))
        return result

    def planned(self, prompt: int, step: int) -> Draw:
        """How a prompt is sampled: all rollouts at once, or a screening first."""
        return Draw(prompt, self.group_size)

    def continues(self, group: Group) -> bool:
        """Whether a screened group is worth the rest of its rollouts.

        Looks at the group alone, so that groups may come back in any order.
        """
        return True

    def trains(self, group: Group) -> bool:
        """Whether a finished group teaches anything. Looks at the group alone."""
        return True

    def choose(self, groups: Sequence[Group], step: int) -> list[Choice]:
        """What of the step's groups goes into the update: `rows_per_group` rollouts for each."""
        everything = tuple(range(self.group_size))
        return [Choice(group, everything, everything) for group in groups]

    def remember(self, groups: Sequence[Group], step: int) -> None:
        """Learn from all that was sampled in a step, in the order in which it was drawn."""

    def random(self) -> np.random.Generator:
        """A generator for one decision: the same one after a resume."""
        self.drawn += 1
        return np.random.default_rng([self.seed, self.drawn])

    def metrics(self) -> dict[str, float]:
        """What it would show of itself, beside the ledger."""
        return {}

    def state_dict(self) -> dict[str, Any]:
        """All that it has learned, plain JSON."""
        return {
            "drawn": self.drawn,
            "skipped": self.skipped,
            "cursor": self.cursor.state_dict(),
            **self.memory(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.drawn, self.skipped = state["drawn"], state["skipped"]
        self.cursor.load_state_dict(state["cursor"])
        self.recall(state)

    def memory(self) -> dict[str, Any]:
        """What a curriculum of one's own adds to the state."""
        return {}

    def recall(self, state: dict[str, Any]) -> None:
        """Take back what `memory` gave."""


def informative(pass_rate: float, low: float = 0.0, high: float = 1.0) -> bool:
    """Whether a pass rate lies strictly between two bounds.

    >>> informative(0.0), informative(0.25), informative(1.0), informative(0.25, low=0.25)
    (False, True, False, False)
    """
    return low < pass_rate < high
