"""Whether two single expressions are the same: by their values, or by what one of them lacks."""

import re
from fractions import Fraction
from functools import lru_cache

from trainer.answers import normalized, number
from trainer.grading.arithmetic import UnknownError
from trainer.grading.shapes import Shape
from trainer.grading.values import Value, same, value
from trainer.grading.wording import conflict, without_unit

PLACES = 6  # decimal places from which on a decimal may stand for what it rounds


def same_number(answer: str, left: Fraction, truth: str, right: Fraction) -> bool:
    """Whether two numbers are the same as written: exactly, rounded, or as a percentage."""
    if left == right or _rounds(answer, left, right) or _rounds(truth, right, left):
        return True
    if ("%" in answer) != ("%" in truth):  # 50 % is 50, and 0.5
        return left == right * 100 if "%" in answer else left * 100 == right
    return False


def _rounds(text: str, rounded: Fraction, exact: Fraction) -> bool:
    """Whether a decimal of six or more places is the other number, rounded."""
    found = re.search(r"\.(\d+)\D*$", text, re.ASCII)
    if not found or len(found[1]) < PLACES:
        return False
    if round(exact, len(found[1])) == rounded:
        return True
    # More places than are right, as 0.3333333334: the sixth must be, and must be a leading one.
    close = abs(exact - rounded) * 200_000 < abs(exact)
    return close and round(exact, PLACES) == round(rounded, PLACES)


_LETTER = re.compile(r"(?<![\\A-Za-z])[A-Za-z]")
_WORKED_OUT = re.compile(r"\\[a-zA-Z]|sqrt|log|ln|sin|cos|tan|gcd|lcm|max|min|mod|pi|exp|choose|!")

_IRRATIONAL = re.compile(r"\\[a-zA-Z]|[ei^!√]|root|log|ln|pi")
_MAYBE_UNIT = re.compile(r"(?:.*[\d.}]\s*)?[A-Za-z]{1,3}(?:\^\{?\d\}?)?", re.DOTALL)
_ROUNDED = re.compile(r"\.\d{5}")


def _lacks(text: str, known: Value, written: str) -> bool:
    """Whether a text that makes no expression lacks what the value would have to be read from.

    A parser finds a number, or a part that makes sense, in most texts. But it finds no letter that
    is not there and nothing irrational among integers, and a free letter does not cancel in what
    is no expression.
    """
    if known.letters:
        there = {*re.findall(r"\\[A-Za-z]+", text), *text}
        return not known.letters <= there and not _MAYBE_UNIT.fullmatch(written)
    unsolved = re.search(r"[A-DF-HJ-Za-df-hj-z]", text) and not _WORKED_OUT.search(text)
    numerals = re.findall(r"\d+(?:\.\d+)?(?:/\d+)?", text, re.ASCII)
    if len(numerals) > 40:
        return False
    if not isinstance(known.number, Fraction):
        return bool(unsolved) or not _IRRATIONAL.search(text)
    if not unsolved:
        return False
    found = [number(one) for one in numerals] + [number(f".{one}") for one in numerals]
    return not any(one is not None and abs(one) == abs(known.number) for one in found)


def _sides(text: str, known: Value) -> list[bool | None]:
    """For each side of a chain a = b = c, whether it is a value; None where that is not sure."""
    found = []
    for side in re.split(r"(?<![<>!=])=(?!=)", text):
        one = value_of(side)
        if one is None or one.letters:
            found.append(False if one and len(side.strip()) == 1 else None)
        else:
            found.append(same(one, known))
    return found


_INFINITE = re.compile(r"[+-]?\\infty|[+-]?\\?infinity")


def same_expression(left: Shape, right: Shape, answer: str, truth: str) -> bool | None:
    """Whether two answers that are one expression each are the same; None where not sure.

    Args:
        left: The answer, taken apart.
        right: The truth, taken apart.
        answer: As it was written.
        truth: As it was written.
    """
    if conflict(answer, truth):
        return False
    if left.names[0] and right.names[0] and left.names != right.names:
        return None  # y = 2x against x = 2y: whole equations
    a, b = (normalized(without_unit(one.items[0])) for one in (left, right))
    if a == b:
        return True
    if re.sub(r"^\+", "", a) == re.sub(r"^\+", "", b):
        return True
    x, y = value_of(without_unit(left.items[0])), value_of(without_unit(right.items[0]))
    if x is None or y is None:
        known = x or y
        other, written = (a, b) if x is None else (b, a)
        if known is None or _ROUNDED.search(other):
            return None
        if not known.letters:
            if _INFINITE.fullmatch(other):
                return False
            sides = _sides((left if x is None else right).items[0], known)
            if True in sides or None not in sides:
                return None if True in sides else False
        return False if _lacks(other, known, written) else None
    decided = same(x, y)
    if decided is None and bool(x.letters) != bool(y.letters):
        lettered, number_side = (left, y) if x.letters else (right, x)
        before = _LETTER.split(lettered.items[0], maxsplit=1)[
            0
        ]  # 5 of 5m: the letter may be a unit
        bare = value_of(before)
        if bare is None or same(bare, number_side) is False:
            unequal = same(Value(x.number, frozenset()), Value(y.number, frozenset())) is False
            return False if unequal else None
    if decided is False and not (x.letters or y.letters):
        for text, one, another in ((a, x, y), (b, y, x)):
            if re.fullmatch(r"-?\d*\.\d{6,}", text) and _rounds_value(text, one, another):
                return True
    return decided


def _rounds_value(text: str, decimal: Value, exact: Value) -> bool:
    if isinstance(exact.number, Fraction):
        return _rounds(text, decimal.number, exact.number)
    if getattr(exact.number, "imag", 0):
        return False
    # The real part: i^2 is a complex number, though its other part is 0.
    return _rounds(text, decimal.number, Fraction(str(exact.number.real)))


_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,40})\.(\d{0,40})\\(?:overline|bar|dot)\{(\d{1,40})\}", re.ASCII
)


def _fraction(found: re.Match[str]) -> str:
    r"""0.1\overline{6} is (16 - 1) / 90."""
    whole, part, repeated = found.groups()
    up = int(whole + part + repeated) - int(whole + part or 0)
    return f"{{\\frac{{{up}}}{{{10 ** len(part) * (10 ** len(repeated) - 1)}}}}}"


_ANGLE = re.compile(r"(?<!\d)(\d+(?:\.\d+)?)\s*\^\{?\\circ\}?")


@lru_cache(maxsize=4096)
def value_of(text: str) -> Value | None:
    """The value of an answer as it is written, None where it is not understood."""
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text = _ANGLE.sub(r"{\\frac{\1\\pi}{180}}", text)
    text = re.sub(
        r"\^\{?\\circ\}?|\\%|%|\\degree(?![A-Za-z])|(?<=\d)(?:\{,\}|,\\!)(?=\d{3})", "", text
    )
    try:
        return value(_REPEATING.sub(_fraction, text).strip())
    except UnknownError:
        return None
