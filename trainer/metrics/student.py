"""Student's t distribution, from scipy.special: importing scipy.stats takes seconds."""

from functools import lru_cache

import numpy as np
from scipy.special import chdtri, ndtr, stdtr, stdtrit

_MIDDLES = (np.arange(4000) + 0.5) / 4000


def quantile(share: float, freedom: float) -> float:
    """The value that a share of the distribution lies below."""
    return float(stdtrit(freedom, share))


def above(value: float, freedom: float) -> float:
    """The share of the distribution that lies above a value."""
    return float(stdtr(freedom, -value))


@lru_cache(maxsize=1024)  # the comparisons of a study mostly ask for the same
def shift(value: float, share: float, freedom: float) -> float:
    """How far to move the true mean, in standard errors, so that a share lies above a value.

    That of the non-central distribution, by halving: scipy's own inverse does not always end.
    """
    spread = np.sqrt(chdtri(freedom, _MIDDLES) / freedom) if np.isfinite(freedom) else np.ones(1)
    low, high = 0.0, 4 * abs(value) + 10
    for _ in range(60):
        middle = (low + high) / 2
        above_it = ndtr(middle - value * spread).mean()
        low, high = (middle, high) if above_it < share else (low, middle)
    return high
