"""Exact arithmetic as long as it is exact, 50 digits beyond, and never more than a small operation.

Numbers are Fraction, or mpmath floats and complex numbers. What would be large, or is not defined
without doubt, is refused with `UnknownError`.
"""

from fractions import Fraction
from functools import cache
from math import comb, factorial, isqrt
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from mpmath.ctx_mp import MPContext

DIGITS = 50  # decimal digits of floats
LOST = 60  # bits that a difference of floats may lose before it is not trusted
BITS = 4096  # size of an exact number, and of the exponent of a float
LARGEST_FACTORIAL = 150


class UnknownError(ValueError):
    """An expression that is not understood here; a better parser may."""


@cache
def context() -> "MPContext":
    """mpmath with 50 digits."""
    # Imported late: most answers are integers, and a context of its own leaves sympy's alone.
    from mpmath.ctx_mp import MPContext

    context = MPContext()
    context.dps = DIGITS
    return context


def as_float(number: object):
    """A number as one of mpmath."""
    if isinstance(number, Fraction):
        return context().mpf(number.numerator) / number.denominator
    return number


def numeral(digits: str) -> Fraction:
    """The number that digits say."""
    if len(digits) > 100:
        raise UnknownError("a long number")
    return Fraction(digits)


def checked(number):
    """The number, unless it became too large to go on with."""
    if isinstance(number, Fraction):
        if max(number.numerator.bit_length(), number.denominator.bit_length()) > BITS:
            raise UnknownError("a large number")
        return number
    if not context().isfinite(number) or (number and abs(context().mag(number)) > BITS):
        raise UnknownError("a large number")
    return number


def _both(left, right):
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left, right
    return as_float(left), as_float(right)


def add(left, right, sign: int):
    """left + sign * right, unless what is left of a cancellation cannot be trusted."""
    left, right = _both(left, right)
    total = left + sign * right
    if not isinstance(total, Fraction) and left and right:
        largest = max(context().mag(left), context().mag(right))
        if not total or largest - context().mag(total) > LOST:
            raise UnknownError("what is left of a cancellation")
    return total


def multiply(left, right):
    """The product, exact where both are."""
    left, right = _both(left, right)
    return left * right


def divide(left, right):
    """The quotient; a division by zero is refused."""
    left, right = _both(left, right)
    if not right:
        raise UnknownError("a division by zero")
    return checked(left / right)


def power(base, exponent):
    """base ** exponent; refused where it is large, or where the root of a negative is in doubt."""
    if not base or abs(as_float(exponent)) > BITS:
        raise UnknownError("a power of zero, or a tower")
    size = abs(context().mag(as_float(base)))
    if size * abs(as_float(exponent)) > BITS:
        raise UnknownError("a large power")
    if isinstance(exponent, Fraction):
        if exponent.denominator == 1 and isinstance(base, Fraction):
            return checked(base ** int(exponent))
        if exponent.denominator != 1 and context().re(as_float(base)) < 0:
            raise UnknownError("which root of a negative number is meant is not sure")
        if exponent.denominator == 2 and isinstance(base, Fraction):
            return checked(power(root(base, Fraction(2)), Fraction(exponent.numerator)))
    return checked(as_float(base) ** as_float(exponent))


def root(number, degree):
    """The principal root of a small degree."""
    if degree == 2 and isinstance(number, Fraction) and number >= 0:
        up, down = _isqrt(number.numerator), _isqrt(number.denominator)
        if up is not None and down is not None:
            return Fraction(up, down)
    if degree == 2:
        return checked(context().sqrt(as_float(number)))
    if not isinstance(degree, Fraction) or degree.denominator != 1 or not 2 < degree < 100:
        raise UnknownError("a root of no small degree")
    if context().im(as_float(number)) or context().re(as_float(number)) < 0:
        raise UnknownError("which root of a negative number is meant is not sure")
    return checked(context().root(as_float(number), int(degree)))


def _isqrt(number: int) -> int | None:
    root = isqrt(number)
    return root if root * root == number else None


def factorial_of(number):
    """n! of a small integer."""
    if not isinstance(number, Fraction) or number.denominator != 1:
        raise UnknownError("a factorial of no integer")
    if not 0 <= number <= LARGEST_FACTORIAL:
        raise UnknownError("a large factorial")
    return Fraction(factorial(int(number)))


def binomial(above, below):
    """n over k of small integers."""
    if not all(isinstance(n, Fraction) and n.denominator == 1 for n in (above, below)):
        raise UnknownError("a binomial of no integers")
    if not 0 <= below <= above <= 1000:
        raise UnknownError("a large binomial")
    return checked(Fraction(comb(int(above), int(below))))
