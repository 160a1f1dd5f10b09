"""What a comparison can show: power before and after it was made, and many of them at once."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from trainer.metrics import student

POWER = 0.8
"""Chance to find a difference that is there, by which designs are judged."""
WITHIN = 0.11
"""Mean over problems of p(1 - p), p a problem's chance of a correct response: that of a 1.5B model
of 43 % on AIME, and what figures of `smallest_difference_of_design` are made with."""


def smallest_difference(
    error: float, freedom: float = np.inf, *, level: float = 0.95, power: float = POWER
) -> float:
    """The smallest true difference that a two-sided t-test finds with a chance of `power`.

        P(T' > t_{(1 + level)/2}) = power,  T' non-central t about delta / error

    With many degrees of freedom that is delta = (z_{(1 + level)/2} + z_{power}) * error.

    Args:
        error: Standard error of the estimated difference.
        freedom: Degrees of freedom of that error.
        level: 1 - the chance to see a difference that is not there.
        power: The chance to see the one that is.

    Returns:
        In units of the error: 0.06 is six points of avg@k.

    Source:
        Cohen 1988, "Statistical Power Analysis", section 2.4.
    """
    freedom = max(freedom, 1.0)
    critical = student.quantile((1 + level) / 2, freedom)
    return float(error * student.shift(critical, power, freedom))


def error_of_design(
    problems: int,
    samples: int,
    *,
    seeds: int = 1,
    within: float = WITHIN,
    effects: float = 0.0,
    training: float = 0.0,
) -> float:
    """The standard error that a paired difference of a design would have, before anything is run.

        error^2 = effects^2 / N + 2 training^2 / S + 2 within / (N K S)

    Args:
        problems: N.
        samples: K, responses to each problem.
        seeds: S, training runs of each arm.
        within: Mean over problems of p(1 - p).
        effects: Standard deviation over problems of the true difference; 0: these problems are
            all that is asked about.
        training: Standard deviation of an arm's accuracy from one training seed to the next.

    Returns:
        A fraction.
    """
    variance = effects**2 / problems + 2 * training**2 / seeds
    variance += 2 * within / (problems * samples * seeds)
    return variance**0.5


def smallest_difference_of_design(
    problems: int, samples: int, *, level: float = 0.95, power: float = POWER, **design: Any
) -> float:
    """The smallest paired difference that a design would find, before anything is run.

    Args:
        problems: N.
        samples: K.
        level: As in `smallest_difference`.
        power: As in `smallest_difference`.
        **design: `seeds`, `within`, `effects` and `training`, as in `error_of_design`.

    Returns:
        A fraction: 0.06 is six points.

    >>> round(100 * smallest_difference_of_design(30, 16), 1)  # AIME, avg@16
    6.0
    """
    error = error_of_design(problems, samples, **design)
    return smallest_difference(error, level=level, power=power)


def holm(p_values: Sequence[float]) -> NDArray[np.float64]:
    """p-values adjusted for being several: the chance that any is below by luck is kept.

        p'_(i) = max_{j <= i} min(1, (m - j + 1) p_(j)),  p_(1) <= ... <= p_(m)

    Args:
        p_values: One for each comparison; NaN for one that could not be made, which stays NaN and
            counts for nothing.

    Returns:
        As many, in the same order.

    Source:
        Holm 1979, "A Simple Sequentially Rejective Multiple Test Procedure".

    >>> holm([0.01, 0.04, 0.03]).round(2).tolist()
    [0.03, 0.06, 0.06]
    """
    given = np.asarray(p_values, dtype=float)
    adjusted = np.full(len(given), np.nan)
    order = [index for index in np.argsort(given, kind="stable") if not np.isnan(given[index])]
    most = 0.0
    for place, index in enumerate(order):
        most = max(most, min(1.0, (len(order) - place) * given[index]))
        adjusted[index] = most
    return adjusted
