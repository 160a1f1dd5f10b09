"""What is believed of each prompt's pass rate, from the rollouts that it has had."""

from collections.abc import Mapping
from math import comb, exp, lgamma

from trainer.selection.curriculum import Group, informative


class Posterior:
    """Beta(α, β) for each prompt, by id.

        α ← d·α + (1 − d)·α0 + (number right),    β ← d·β + (1 − d)·β0 + (number wrong)

    Source:
        Qu et al. 2025, "MoPPS", arXiv:2507.04632, equation 8. Their code counts n·s and n·(1 − s)
        for a pass rate s of n rollouts, which is the same; for n = 1 an operator precedence there
        makes both 8, ours does not.

    Args:
        decay: d in [0, 1]: 1 keeps all evidence, 0 only the last.
        prior: (α0, β0).
    """

    def __init__(self, decay: float = 1.0, prior: tuple[float, float] = (1.0, 1.0)):
        self.decay, self.prior = decay, prior
        self.counts: dict[str, list[float]] = {}

    def of(self, prompt: str) -> tuple[float, float]:
        """(α, β) of a prompt; the prior if it was never sampled."""
        alpha, beta = self.counts.get(prompt, self.prior)
        return alpha, beta

    def add(self, group: Group) -> None:
        """Learn from a group's rollouts, screened or finished."""
        right = sum(rollout.correct for rollout in group.rollouts)
        seen = (right, len(group.rollouts) - right)
        self.counts[group.id] = [
            self.decay * old + (1 - self.decay) * prior + new
            for old, prior, new in zip(self.of(group.id), self.prior, seen, strict=True)
        ]

    def state_dict(self) -> dict[str, list[float]]:
        """Plain JSON."""
        return {prompt: list(counts) for prompt, counts in self.counts.items()}

    def load_state_dict(self, state: Mapping[str, list[float]]) -> None:
        """Go on where `state_dict` was taken."""
        self.counts = {prompt: list(counts) for prompt, counts in state.items()}


def contrast(
    alpha: float, beta: float, rollouts: int, low: float = 0.0, high: float = 1.0
) -> float:
    """Probability that of a prompt's next N rollouts a share between two bounds is right.

        P = Σ_{low < k/N < high} C(N, k) B(α + k, β + N − k)/B(α, β)

    the mean of `speed.qualifies` over the posterior Beta(α, β) of the prompt's pass rate. With
    bounds 0 and 1 that the rollouts disagree.

    >>> round(contrast(1, 1, 4), 3)  # 1 − 2/(N + 1)
    0.6
    """
    start = _log_beta(alpha, beta)
    return sum(
        comb(rollouts, right) * exp(_log_beta(alpha + right, beta + rollouts - right) - start)
        for right in range(rollouts + 1)
        if informative(right / rollouts, low, high)
    )


def _log_beta(alpha: float, beta: float) -> float:
    return lgamma(alpha) + lgamma(beta) - lgamma(alpha + beta)
