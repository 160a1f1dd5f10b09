"""SPEED, its screening left out where the MoPPS posterior is already sure."""

from collections.abc import Collection, Sequence
from typing import Any

from trainer.selection.curriculum import Draw, Group, informative
from trainer.selection.posterior import Posterior, contrast
from trainer.selection.speed import Speed, qualifies


class SpeedMopps(Speed):
    """Three ways to take a prompt, by the believed probability P that a screening lets it through.

        P ≥ sure · (what a pass rate of ½ gives)           whole group at once: nothing to find out
        P ≤ hopeless · (what an unknown prompt gives)      skipped: the screening would be lost
        in between                                         screened

    A whole group may come back without contrast all the same: then it gives way to another, as
    under DAPO, by the same bounds.

    What is believed fades: with every step that a prompt is not sampled, α and β move towards the
    prior by a factor `decay`, so that a prompt skipped today is screened again some steps on. The
    policy moves, and what was hopeless need not stay so. The prior is U-shaped, as pass rates are
    (35 to 46 % of DAPO's prompts lie below .05, the website of SPEED says): under a flat one four
    wrong answers out of four would leave P at .44.

    Source:
        Ours, from Zhang et al. 2025 (SPEED, arXiv:2506.09016) and Qu et al. 2025 (MoPPS,
        arXiv:2507.04632); P is `posterior.contrast`.
    """

    def configure(
        self,
        screening: int,
        low: float = 0.0,
        high: float = 1.0,
        rows: str = "all",
        sure: float = 0.8,
        hopeless: float = 0.7,
        prior: float = 0.3,
        decay: float = 0.95,
    ) -> None:
        """SPEED's knobs, the bounds on P, α0 = β0, and the evidence kept per step."""
        super().configure(screening, low, high, rows)
        self.sure, self.hopeless, self.prior, self.decay = sure, hopeless, prior, decay
        self.posterior = Posterior(1.0, (prior, prior))
        self.best = qualifies(0.5, screening, low, high)
        self.unknown = contrast(prior, prior, screening, low, high)
        self.seen: dict[str, int] = {}  # id -> step of its last rollouts
        self.unscreened = 0

    def believed(self, prompt: str, step: int) -> list[float]:
        """[α, β] of a prompt, faded by the steps since it was sampled."""
        kept = self.decay ** (step - self.seen.get(prompt, step))
        return [self.prior + (count - self.prior) * kept for count in self.posterior.of(prompt)]

    def chance(self, prompt: str, step: int) -> float:
        """Believed probability that a screening of a prompt lets it through, at a step."""
        return contrast(*self.believed(prompt, step), self.screening, self.low, self.high)

    def draw(self, count: int, step: int, busy: Collection[int]) -> list[Draw]:
        """The next prompts that are not hopeless; after one pass over the set, the next ones."""
        taken, result, turns = set(busy), [], 0
        while len(result) < count and (prompt := self.cursor.next(taken)) is not None:
            turns += 1
            chance = self.chance(self.prompts[prompt].id, step)
            if chance <= self.hopeless * self.unknown and turns <= len(self.prompts):
                self.skipped += 1
                continue
            taken.add(prompt)
            result.append(self.planned(prompt, step))
        return result

    def planned(self, prompt: int, step: int) -> Draw:
        """The whole group where a screening would tell nothing new, else a screening first."""
        # Without a screening there are no rows that chose the group: all could train, but then
        # groups would differ in size.
        chance = self.chance(self.prompts[prompt].id, step)
        if self.rows == "all" and chance >= self.sure * self.best:
            self.unscreened += 1
            return Draw(prompt, self.group_size)
        return super().planned(prompt, step)

    def trains(self, group: Group) -> bool:
        """Whether a group without a screening disagrees enough; the screening told of others."""
        return informative(group.pass_rate, self.low, self.high)

    def remember(self, groups: Sequence[Group], step: int) -> None:
        """Let old evidence fade, and count what was right and wrong."""
        for group in groups:
            self.posterior.counts[group.id] = self.believed(group.id, step)
            self.posterior.add(group)
            self.seen[group.id] = step

    def metrics(self) -> dict[str, float]:
        """How many groups went without a screening, in the stage so far."""
        return {"unscreened": self.unscreened}

    def memory(self) -> dict[str, Any]:
        """Posterior, when each prompt was seen last, and the count."""
        return {
            "posterior": self.posterior.state_dict(),
            "seen": dict(self.seen),
            "unscreened": self.unscreened,
        }

    def recall(self, state: dict[str, Any]) -> None:
        """What `memory` gave."""
        self.posterior.load_state_dict(state["posterior"])
        self.seen = dict(state["seen"])
        self.unscreened = state["unscreened"]
