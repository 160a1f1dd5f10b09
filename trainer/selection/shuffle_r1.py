"""Shuffle-R1: sample more than is trained on, keep the pairs that differ most, repeat the best."""

from collections.abc import Sequence

import numpy as np

from trainer.selection.curriculum import Choice, Curriculum, Draw, Group


def contrast_pairs(advantages: Sequence[float], pairs: int) -> list[tuple[int, int]]:
    """The best with the worst, the second best with the second worst, and so on.

    Args:
        advantages: One per rollout; ties go by position.
        pairs: How many, at most half of the rollouts.

    Returns:
        Positions of (better, worse), the widest contrast first.

    Source:
        Zhu et al. 2025, "Shuffle-R1", arXiv:2508.05612, pairwise trajectory sampling.

    >>> contrast_pairs([0.0, 3.0, -2.0, 1.0], 2)
    [(1, 2), (3, 0)]
    """
    order = np.argsort(-np.asarray(advantages, dtype=float), kind="stable").tolist()
    return [(order[i], order[-1 - i]) for i in range(pairs)]


class ShuffleR1(Curriculum):
    """Samples `oversample`·G rollouts per prompt and trains on G: its G/2 widest pairs.

    Then `replay` times a `replay`-th of the batch's pairs is drawn, each time without repetition,
    with probability proportional to |A| of the pair: a telling pair trains several times, a flat
    one not at all. The baseline stays that of all rollouts.

    It saves training, not inference, and it changes what the gradient estimates: biased.

    Source:
        Zhu et al. 2025, "Shuffle-R1", arXiv:2508.05612, with the published 16 rollouts of which 8
        train, and 8 shuffles. |A| here is r − mean, of the reward, in every estimator.
    """

    def configure(self, oversample: int = 2, replay: int = 8) -> None:
        """Rollouts sampled per rollout trained, and how many times the batch is drawn from."""
        self.oversample, self.replay = oversample, replay

    def planned(self, prompt: int, step: int) -> Draw:
        """More rollouts than will train."""
        return Draw(prompt, self.oversample * self.group_size)

    def choose(self, groups: Sequence[Group], step: int) -> list[Choice]:
        """The batch's pairs, drawn again by how much they tell."""
        pairs: list[tuple[int, int, int]] = []  # group, better, worse
        weights: list[float] = []
        for position, group in enumerate(groups):
            rewards = np.array([rollout.reward for rollout in group.rollouts])
            advantages = rewards - rewards.mean()
            for better, worse in contrast_pairs(advantages, self.group_size // 2):
                pairs.append((position, better, worse))
                weights.append(abs(advantages[better]) + abs(advantages[worse]))
        drawn = sorted(pairs[i] for i in self._drawn(np.array(weights)))
        rows: list[list[int]] = [[] for _ in groups]
        for position, better, worse in drawn:
            rows[position] += [better, worse]
        return [
            Choice(group, tuple(range(len(group.rollouts))), tuple(trained))
            for group, trained in zip(groups, rows, strict=True)
        ]

    def _drawn(self, weights: np.ndarray) -> list[int]:
        """As many pairs as there are, by weight; all of them once where all are flat."""
        if not weights.any():
            return list(range(len(weights)))
        random = self.random()
        # A pair of no weight is drawn only where a shuffle asks for more than have some.
        weights = np.maximum(weights, 1e-9)
        parts = np.array_split(np.arange(len(weights)), min(self.replay, len(weights)))
        return [
            int(pair)
            for part in parts
            for pair in random.choice(
                len(weights), size=len(part), replace=False, p=weights / weights.sum()
            )
        ]
