"""SPEED: a few rollouts tell whether a prompt is worth the rest."""

from collections.abc import Sequence
from math import comb

from trainer.selection.curriculum import Choice, Curriculum, Draw, Group, informative


def qualifies(pass_rate: float, rollouts: int, low: float = 0.0, high: float = 1.0) -> float:
    """Probability that the share of N rollouts that is right lies between two bounds.

        P = Σ_{low < k/N < high} C(N, k) p^k (1 − p)^(N − k)

    With bounds 0 and 1 that they are neither all right nor all wrong: 1 − p^N − (1 − p)^N.

    Args:
        pass_rate: p, in [0, 1].
        rollouts: N.
        low: Lower bound, exclusive.
        high: Upper bound, exclusive.

    Source:
        Follows from the screening of Zhang et al. 2025, arXiv:2506.09016.

    >>> [round(qualifies(p, 4), 2) for p in (0.1, 0.25, 0.5)]
    [0.34, 0.68, 0.88]
    """
    return sum(
        comb(rollouts, right) * pass_rate**right * (1 - pass_rate) ** (rollouts - right)
        for right in range(rollouts + 1)
        if informative(right / rollouts, low, high)
    )


class Speed(Curriculum):
    """Screens with N_init rollouts; samples N_cont more where 0 < pass rate < 1; trains on both.

    A prompt costs N_init rollouts, and N_cont more with probability P, so that a trained group
    costs N_init / P + N_cont rollouts, where dynamic sampling pays about (N_init + N_cont) / P.

    `rows="continuation"` trains on the N_cont rollouts alone. The others chose the group: given
    that it was chosen, their mean is pulled towards ½ (for p = .1 and N_init = 4 from .1 to .29),
    and with them in it so is the baseline.

    Source:
        Zhang et al. 2025, "SPEED-RL", arXiv:2506.09016 (its third version is reported as
        withdrawn). Theirs screens the next batch beside the continuation of the last: see
        `selection.speed.ahead`; ours does so only if asked to, and else continues a group in the
        step that screened it, by the same policy. Theirs recomputes the old log-probabilities of
        what waited, where ours keeps those of the policy that sampled, and sizes the mini-batch by
        N_init: see `selection.speed.updates`.
    """

    def configure(
        self, screening: int, low: float = 0.0, high: float = 1.0, rows: str = "all"
    ) -> None:
        """N_init, the bounds on correctness (exclusive), and which rows train."""
        self.screening, self.low, self.high, self.rows = screening, low, high, rows

    @property
    def rows_per_group(self) -> int:
        """All rollouts of a group, or those of its continuation."""
        return self.group_size - (self.screening if self.rows == "continuation" else 0)

    def planned(self, prompt: int, step: int) -> Draw:
        """A screening first."""
        return Draw(prompt, self.group_size, self.screening)

    def continues(self, group: Group) -> bool:
        """Whether its screening disagrees."""
        return informative(group.pass_rate, self.low, self.high)

    def choose(self, groups: Sequence[Group], step: int) -> list[Choice]:
        """All rows of each group, or those of its continuation, baseline included."""
        rows = tuple(range(self.group_size - self.rows_per_group, self.group_size))
        return [Choice(group, rows, rows) for group in groups]
