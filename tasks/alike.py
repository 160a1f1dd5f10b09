"""Whether two evaluations may be compared: of the same problems, sampled and graded alike."""

from typing import Any

from tasks.arm_runs import Point
from tasks.words import things

MAY_DIFFER = ("seed", "tensor_parallel")
"""What of `sampling` says nothing about how good a model is: the luck of the draw, and the GPUs."""
_USUAL = "grading_"  # limits that are not the usual ones: such keys are there for these only


def same_evaluation(one: Point, other: Point) -> None:
    """Refuse to compare what was not evaluated alike.

    Raises:
        ValueError: problems, sampling or grading differ; which, is said.
    """
    if one.responses.ids != other.responses.ids:
        first, second = set(one.responses.ids), set(other.responses.ids)
        example = sorted(first ^ second)[0]
        raise ValueError(
            f"Not compared: {things(len(first ^ second), 'problem')} in only one of the two "
            f"evaluations, such as {example}."
        )
    if _differ("data_digest", one, other):
        raise ValueError(
            "Not compared: the problems have the same ids, but other prompts or answers."
        )
    sampling = [point.evaluation["sampling"] for point in (one, other)]
    for key in dict.fromkeys([*sampling[0], *sampling[1]]):
        values = [each.get(key) for each in sampling]
        if key not in MAY_DIFFER and values[0] != values[1]:
            said = [_said(key, value) for value in values]
            raise ValueError(f"Not compared: {key} is {said[0]} in one and {said[1]} in the other.")
    if _differ("grader", one, other):
        versions = [point.evaluation["grader"] for point in (one, other)]
        raise ValueError(
            f"Not compared: version {versions[0]} of the grader judged one and version "
            f"{versions[1]} the other. Evaluate both again: no response is sampled twice."
        )


def alike(one: Point, other: Point) -> bool:
    """Whether `same_evaluation` lets two be compared."""
    try:
        same_evaluation(one, other)
    except ValueError:
        return False
    return True


def _differ(key: str, one: Point, other: Point) -> bool:
    """Whether both recorded it, and not the same."""
    values = [point.evaluation.get(key) for point in (one, other)]
    return None not in values and values[0] != values[1]


def _said(key: str, value: Any) -> str:
    if value is None:
        return "as usual" if key.startswith(_USUAL) else "not recorded"
    return str(value)
