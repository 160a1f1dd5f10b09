"""Graded samples as matrices, checked."""

import numpy as np
from numpy.typing import ArrayLike, NDArray


def graded_matrix(correct: ArrayLike) -> NDArray[np.float64]:
    """Correctness as a matrix [problems, samples] of 0 and 1.

    Raises:
        ValueError: it is empty, ragged, of other dimensions, or holds anything but 0 and 1.
    """
    graded = zeros_and_ones(correct, "correct")
    if graded.ndim != 2:
        raise ValueError(
            f"correctness must be [problems, samples], got shape {graded.shape}\n\n"
            "hint: give every problem a row with the same number of samples"
        )
    return graded


def zeros_and_ones(values: ArrayLike, what: str) -> NDArray[np.float64]:
    """Values as an array of 0 and 1; `what` is what they are called in a refusal.

    Raises:
        ValueError: they are none, ragged, or hold anything but 0 and 1.
    """
    try:
        array = np.asarray(values, dtype=float)
    except ValueError as ragged:
        raise ValueError(
            f"`{what}` has rows of different lengths or values that are no numbers\n\n"
            "hint: check that every problem got all its samples"
        ) from ragged
    if array.size == 0:
        raise ValueError(f"`{what}` is empty\n\nhint: check that the evaluation wrote responses")
    if not np.isin(array, (0, 1)).all():
        strange = array[~np.isin(array, (0, 1))].flat[0]
        raise ValueError(
            f"`{what}` must hold 0 and 1 only, found {strange}\n\n"
            "hint: pass correctness, which is not the reward"
        )
    return array
