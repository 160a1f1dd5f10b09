"""What selection cost and what came of it, step by step: counted as it happens, never derived."""

from collections import Counter
from collections.abc import Sequence
from typing import Any

from trainer.selection.curriculum import Choice, Curriculum, Group, Rollout, informative

# "Step" means four things where prompts are selected: each is counted by itself (verl #991, #5299).
COUNTERS = ("generation_calls", "steps", "updates", "prompts")
FATES = ("solved", "hopeless", "out of bounds", "surplus", "failed")


class Ledger:
    """The account of one step, and the totals of the stage.

    Attributes:
        totals: `COUNTERS` since the stage began: orders to the engine, training steps, optimizer
            updates, prompts drawn.
        groups: Every group whose fate was sealed in the step, in that order.
    """

    def __init__(self) -> None:
        self.totals = dict.fromkeys(COUNTERS, 0)
        self.begin(0)

    def begin(self, step: int) -> None:
        """A new page."""
        self.step = step
        self.counts: Counter[str] = Counter()
        self.groups: list[dict[str, Any]] = []
        self.measures: dict[str, float] = {}

    def count(self, name: str, number: int = 1) -> None:
        """Add to a count of the step."""
        self.counts[name] += number

    def generated(self, rollouts: Sequence[Rollout], *, late: bool) -> None:
        """Rollouts came back; `late` if nobody waited for them any more."""
        self.counts["rollouts"] += len(rollouts)
        self.counts["tokens"] += sum(rollout.tokens for rollout in rollouts)
        self.counts["late"] += late

    def left(self, group: Group, fate: str) -> None:
        """A group will not train: one of `FATES`, a failure with its reason."""
        self.counts[fate.partition(":")[0]] += 1
        self._seal(group, fate)

    def trained(self, choices: Sequence[Choice], short: int) -> None:
        """The step's groups; `short` of the batch size by so many."""
        ages = [self.step - choice.group.step for choice in choices]
        rows = [choice.group.rollouts[i] for choice in choices for i in choice.trained]
        flat = [not informative(choice.group.pass_rate) for choice in choices]
        self.counts["trained"], self.counts["short"] = len(choices), short
        self.measures = {
            "rollouts/trained": len(rows),
            "tokens/trained": sum(rollout.tokens for rollout in rows),
            "zero_variance_share": sum(flat) / len(flat),
            "age/mean": sum(ages) / len(ages),
            "age/max": max(ages),
            "stale_share": sum(age > 0 for age in ages) / len(ages),
        }
        for choice in choices:
            self._seal(choice.group, "trained", len(choice.trained))

    def end(self, waiting: Sequence[Group], curriculum: Curriculum) -> None:
        """The step's groups are known."""
        self.counts["waiting"] = len(waiting)
        self.measures |= {f"selection/{k}": float(v) for k, v in curriculum.metrics().items()}
        self.totals["generation_calls"] += self.counts["generation_calls"]
        self.totals["prompts"] += self.counts["drawn"]
        self.totals["steps"] += 1
        self.measures["epochs"] = self.totals["prompts"] / len(curriculum.prompts)

    def updated(self, updates: int) -> None:
        """The optimizer was called so many times."""
        self.counts["updates"] += updates
        self.totals["updates"] += updates

    def fates(self) -> dict[str, int]:
        """How many groups of the step met which end, without those that trained."""
        return {fate: self.counts[fate] for fate in FATES if self.counts[fate]}

    def record(self) -> dict[str, float]:
        """The page, as metrics of the step.

        `counters/*` are totals since the stage began; everything else is of this step.
        """
        told = ("drawn", "skipped", "screened", "continued", "trained", "short", "waiting", "late")
        counts = {f"selection/{name}": self.counts[name] for name in told}
        fates = {f"selection/{name.replace(' ', '_')}": self.counts[name] for name in FATES}
        result = {
            **counts,
            **fates,
            **self.measures,
            "generation_calls": self.counts["generation_calls"],
            "updates": self.counts["updates"],
            "prompts": self.counts["drawn"],
            "rollouts": self.counts["rollouts"],
            "tokens/generated": self.counts["tokens"],
            **{f"counters/{name}": total for name, total in self.totals.items()},
        }
        return {name: float(value) for name, value in result.items()}

    def state_dict(self) -> dict[str, Any]:
        """The totals; a page is never saved half."""
        return dict(self.totals)

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on where `state_dict` was taken."""
        self.totals = {name: state[name] for name in COUNTERS}

    def _seal(self, group: Group, fate: str, rows: int = 0) -> None:
        self.groups.append(told(group, fate, rows))


def told(group: Group, fate: str, rows: int = 0) -> dict[str, Any]:
    """What the record of groups says of one: how it was sampled, its fate, `rows` that trained."""
    return {
        "number": group.number,
        "id": group.id,
        "drawn": group.step,
        "fate": fate,
        "screening": group.draw.screening,
        "rollouts": len(group.rollouts),
        "correct": sum(rollout.correct for rollout in group.rollouts),
        "tokens": group.tokens,
        "trained": rows,
    }
