"""DAPO's dynamic sampling: whole groups; those without contrast give way to others."""

from trainer.selection.curriculum import Curriculum, Group, informative


class Dapo(Curriculum):
    """Trains on groups whose pass rate is strictly between `low` and `high`.

    A prompt of pass rate p qualifies with probability 1 − p^G − (1 − p)^G under bounds 0 and 1.

    Source:
        Yu et al. 2025, "DAPO", arXiv:2503.14476, section 3.2. Theirs samples three batches at a
        time and drops the surplus with each step; ours draws as many as the yield of late asks
        for, and what to do with the surplus is `selection.max_age`.
    """

    def configure(self, low: float = 0.0, high: float = 1.0) -> None:
        """Bounds on correctness, both exclusive."""
        self.low, self.high = low, high

    def trains(self, group: Group) -> bool:
        """Whether its rollouts disagree enough."""
        return informative(group.pass_rate, self.low, self.high)
