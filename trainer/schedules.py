r"""E2H's schedules: from which level of difficulty a step draws its prompts.

A schedule gives, for a share t of training done (0 to 1) and K levels from easy to hard, the
probability of each level. Level 0 is the easiest.

Source:
    Parashar et al. 2025, "Curriculum Reinforcement Learning from Easy to Hard Tasks Improves LLM
    Reasoning", arXiv:2506.06632, section 3, and the authors' sampler.
"""

import math
from typing import Literal

import numpy as np

Schedule = Literal["balanced", "classic", "cosine", "gaussian"]


def level_probabilities(
    schedule: Schedule,
    progress: float,
    levels: int,
    *,
    exponent: float = 0.5,
    width: float = 0.5,
    floor: bool = False,
) -> np.ndarray:
    """Probability of each level at one moment of training.

        balanced   p_k = 1 / K
        classic    p_k = 1 for k = floor(t K), else 0: each level in turn, equally long
        cosine     p_k = (w (K - k) + (1 - w) (k + 1)) / (K (K + 1) / 2),  w = (1 + cos(pi t)) / 2
        gaussian   p_k ~ exp(-(k - c)^2 / (2 width^2)),  c = t^exponent (K - 1)

    With `floor`, gaussian gives no level less than 2 / (K (K + 1)) before it is normalised again,
    which is what the hardest level has at the start of cosine.

    Args:
        schedule: One of the four.
        progress: t, the share of training steps that are done, 0 to 1.
        levels: K, how many levels there are.
        exponent: gaussian: below 1 the easy levels are left sooner.
        width: gaussian: standard deviation, in levels.
        floor: gaussian: keep every level in play.

    Returns:
        [K] probabilities that sum to 1, the easiest level first.

    Raises:
        ValueError: progress is outside 0 to 1, or another argument is not positive.

    >>> level_probabilities("cosine", 0.0, 3).round(3).tolist()
    [0.5, 0.333, 0.167]
    """
    if not 0 <= progress <= 1:
        raise ValueError(f"progress is {progress}, needed 0 to 1\n\nhint: divide the step by steps")
    if levels < 1 or exponent <= 0 or width <= 0:
        raise ValueError(
            f"found levels {levels}, exponent {exponent}, width {width}, needed all above 0\n\n"
            "hint: a schedule needs one level at least"
        )
    k = np.arange(levels)
    if schedule == "balanced":
        weights = np.ones(levels)
    elif schedule == "classic":
        weights = (k == min(levels - 1, math.floor(progress * levels))).astype(float)
    elif schedule == "cosine":
        easy = (1 + math.cos(math.pi * progress)) / 2
        weights = easy * (levels - k) + (1 - easy) * (k + 1)
    elif schedule == "gaussian":
        centre = progress**exponent * (levels - 1)
        distance = (k - centre) ** 2 / (2 * width**2)
        weights = np.exp(distance.min() - distance)  # the nearest level never underflows
        if floor:
            weights = np.maximum(weights / weights.sum(), 2 / (levels * (levels + 1)))
    else:
        raise ValueError(
            f"found schedule {schedule!r}, needed balanced, classic, cosine or gaussian\n\n"
            "hint: look at its spelling"
        )
    return weights / weights.sum()
