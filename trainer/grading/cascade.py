r"""Whether two answers are the same, decided without a computer algebra system where that is sure.

What is not sure is left to math-verify. Beside it these decisions differ on purpose: words in sets
and lists are in any order, an interval is never the list of its ends, degenerate intervals such as
(2, 2] are compared by their ends and not as empty sets (benchmarks/results/grader_agreement.json).

Conventions, where the field is of two minds:
    lists       elements in ( ), [ ] or < > are in order, and so are named values (x = 1, y = 2);
                elements in { } or separated by commas alone are in any order. A tuple given for
                a bare list must be in the list's order.
    repetition  counts in lists and tuples (1, 1, 2 is not 1, 2), not in sets.
    percent     50 % is 50, and 0.5; 75 is not 0.75.
    rounding    a decimal counts as an exact value only to six decimal places or more.
    units       may be left out, and so may the sign of a currency, of degrees, and the base of a
                numeral; a different unit, power of it or base is wrong. 90 degrees is not pi/2.
    equations   x = 7 is 7 and y = 2x is 2x, whatever the letter; two equations are compared whole.
                3x + y = 10, a = 3, b = 5 and x >= 5 are not their last number.
    words       without regard to case, spaces and punctuation.
    choices     (B), B. and B are the same, and so is "B. 12"; "B. 12" is 12, too.
    unreduced   2/4 is 1/2, and 3+4 is 7: equal by value.
"""

import re

from trainer.answers import LONGEST_ANSWER, normalized, number, plain
from trainer.grading.expressions import same_expression, same_number, value_of
from trainer.grading.shapes import NAME, Shape, shape
from trainer.grading.wording import (
    conflict,
    same_choice,
    same_numerals,
    same_words,
    without_label,
    without_unit,
)

DEEPEST = 3  # lists in lists


def equal(answer: str, truth: str, depth: int = 0) -> tuple[bool | None, bool]:
    r"""Whether two answers are the same, None where that is not sure; and whether as text alone.

    >>> equal("0.5", r"\frac{1}{2}"), equal("(2, 1)", "(1, 2)"), equal(r"\int f", "2")
    ((True, False), (False, False), (None, False))
    """
    if max(len(answer), len(truth)) > LONGEST_ANSWER:
        return None, False
    left, right = normalized(answer), normalized(truth)
    if left == right:
        return True, True
    if not left or not right:
        return False, False
    for decide in (_numbers, same_words, _choices, same_numerals):
        decided = decide(answer, truth)
        if decided is not None:
            return decided, decide in (same_words, _choices)
    return _shapes(answer, truth, depth), False


def _numbers(answer: str, truth: str) -> bool | None:
    left, right = number(answer), number(truth)
    if left is None and right is None:
        return None
    if left is None:
        left = number(without_unit(_behind_name(answer)))  # "x = 7" and "7 cm" are 7
    if right is None:
        right = number(without_unit(_behind_name(truth)))
    if left is None or right is None:
        return None
    if conflict(answer, truth):
        return False
    return same_number(answer, left, truth, right)


# Beside names: f(2), \text{Area}, and what only has to be worked out, 2 \cdot 3 = 6.
_CALLED = re.compile(
    r"\s*+(?:[A-Za-z]\(-?\d{1,4}\)|\\text\{[A-Za-z ]+\}"
    r"|(?:[\d\s.+*/^(){}!%-]|\\(?:cdot|times|binom|frac|sqrt|left|right)(?![A-Za-z]))*+(?<=[\d)}%\s]))?+\s*+="
)


def _behind_name(text: str) -> str:
    """What a name is said to be; "" of any other equation, of which no one side is the answer."""
    *before, rest = (text if "=" not in text else plain(text)).split("=")
    named = all(NAME.fullmatch(f"{one}=") or _CALLED.fullmatch(f"{one}=") for one in before)
    return rest if named else ""


def _choices(answer: str, truth: str) -> bool | None:
    decided = same_choice(answer, truth)
    if decided is None and (rest := without_label(answer, truth)):
        return equal(rest, truth, DEEPEST)[0]
    return decided


def _shapes(answer: str, truth: str, depth: int) -> bool | None:
    left, right = shape(plain(answer)), shape(plain(truth))
    if left.kind == right.kind == "one":
        return same_expression(left, right, answer, truth)
    if depth >= DEEPEST:
        return None
    if left.kind == right.kind == "ordered" and left.brackets != right.brackets:
        return None if len(left.items) == len(right.items) else False
    if (left.kind == "matrix") != (right.kind == "matrix"):
        return None
    if "one" in (left.kind, right.kind):
        return _one_against_many(left, right)
    if left.kind != right.kind:
        for one in (left, right):
            if one.kind == "ordered" and one.brackets not in ("()", "<>") and len(one.items) == 2:
                return None if one.brackets == "[]" else False  # an interval is no list of its ends
    if left.kind == "matrix" and left.brackets != right.brackets:
        return False
    names = _names(left, right)
    if names is not None:
        left, right = names
    elif right.kind == "set" or {left.kind, right.kind} <= {"list", "set"}:
        return _any_order(left, right, depth)
    return _in_order(left.items, right.items, depth)


def _names(left: Shape, right: Shape) -> tuple[Shape, Shape] | None:
    """Two lists whose order is that of their names; None where no names set an order."""
    if all(len(set(one.names)) == len(one.names) and "" not in one.names for one in (left, right)):
        if set(left.names) != set(right.names):
            return None
        order = [left.names.index(name) for name in right.names]
        return Shape("list", "", tuple(left.items[i] for i in order), right.names), right
    for one, other in ((left, right), (right, left)):
        named = len(set(one.names)) == len(one.names) > 1 and "" not in one.names
        if named and not any(other.names) and other.kind != "set":
            return left, right
    return None


_SEVERAL = re.compile(r"[,;&|<>]|\\[A-Za-z{]|and|or|to")


def _one_against_many(left: Shape, right: Shape) -> bool | None:
    one, many = (left, right) if left.kind == "one" else (right, left)
    if len(many.items) == 1:
        return equal(left.items[0], right.items[0], DEEPEST)[0]
    if many.kind == "matrix":
        return None
    known = value_of(one.items[0])
    if known is None:
        # Where there is nothing between two elements, no parser finds the two.
        values = [value_of(item) for item in many.items]
        several = all(values) and not any(v.letters for v in values) and len(set(values)) > 1
        return False if several and not _SEVERAL.search(one.items[0]) else None
    found = [equal(one.items[0], item, DEEPEST)[0] for item in many.items]
    # A number is no tuple, interval or set of several, unless all of them are that number.
    if False in found or (not known.letters and many.kind != "list" and True not in found):
        return False
    return None


def _in_order(left: tuple[str, ...], right: tuple[str, ...], depth: int) -> bool | None:
    if len(left) != len(right):
        return False
    found = [equal(a, b, depth + 1)[0] for a, b in zip(left, right, strict=True)]
    if False in found:
        return False
    return None if None in found else True


def _any_order(left: Shape, right: Shape, depth: int) -> bool | None:
    """Whether each element of one can be paired with one of the other's."""
    if not left.items or not right.items:
        return left.items == right.items  # an empty set is no other
    unique = "set" in (left.kind, right.kind)
    if not unique and len(left.items) != len(right.items):
        return False
    if len(left.items) * len(right.items) > 400:
        return None
    table = [[equal(a, b, depth + 1)[0] for b in right.items] for a in left.items]
    columns = list(zip(*table, strict=True))
    if any(all(cell is False for cell in line) for line in (*table, *columns)):
        return False
    if any(None in row for row in table):
        return None
    # By now each has a partner. Equality is transitive up to rounding, so that classes of equal
    # elements need only be counted.
    return unique or all(sum(row) == sum(columns[row.index(True)]) for row in table)
