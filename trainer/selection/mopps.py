"""MoPPS: sample the prompts whose pass rate, as past rollouts tell it, is nearest to the target."""

from collections.abc import Collection, Sequence
from typing import Any

from trainer.selection.curriculum import Curriculum, Draw, Group
from trainer.selection.posterior import Posterior


class Mopps(Curriculum):
    """Draws a pool of candidates, one γ ~ Beta(α, β) for each, and keeps those nearest to γ*.

    No rollout is spent on choosing: the posterior learns from those that train.

    Source:
        Qu et al. 2025, "MoPPS", arXiv:2507.04632, algorithm 1 (`topk`). A candidate that is not
        kept goes back to where it came from: theirs loses its turn in the epoch.
    """

    def configure(self, target: float = 0.5, pool: float = 2.0, decay: float = 1.0) -> None:
        """γ*, candidates per prompt that is wanted, and the posterior's decay."""
        self.target, self.pool = target, pool
        self.posterior = Posterior(decay)

    def draw(self, count: int, step: int, busy: Collection[int]) -> list[Draw]:
        """The `count` of `pool`·`count` random candidates whose sampled pass rate suits best."""
        free = [prompt for prompt in range(len(self.prompts)) if prompt not in busy]
        if not free:
            return []
        random = self.random()
        size = min(len(free), max(count, round(self.pool * count)))
        candidates = random.choice(free, size=size, replace=False).tolist()
        believed = [self.posterior.of(self.prompts[prompt].id) for prompt in candidates]
        rates = random.beta(*zip(*believed, strict=True))
        nearest = sorted(zip(abs(rates - self.target), candidates, strict=True))
        self.skipped += size - min(count, size)
        return [self.planned(prompt, step) for _, prompt in nearest[:count]]

    def remember(self, groups: Sequence[Group], step: int) -> None:
        """Count what was right and wrong."""
        for group in groups:
            self.posterior.add(group)

    def metrics(self) -> dict[str, float]:
        """Share of the prompts of which something is known."""
        return {"known_share": len(self.posterior.counts) / max(1, len(self.prompts))}

    def memory(self) -> dict[str, Any]:
        """The posterior."""
        return {"posterior": self.posterior.state_dict()}

    def recall(self, state: dict[str, Any]) -> None:
        """The posterior."""
        self.posterior.load_state_dict(state["posterior"])
