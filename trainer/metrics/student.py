"""Student's t distribution, from scipy.special: importing scipy.stats takes seconds."""

from scipy.special import stdtr, stdtrit


def quantile(share: float, freedom: float) -> float:
    """The value that a share of the distribution lies below."""
    return float(stdtrit(freedom, share))


def above(value: float, freedom: float) -> float:
    """The share of the distribution that lies above a value."""
    return float(stdtr(freedom, -value))
