r"""The value of a closed mathematical expression, without a computer algebra system.

A recursive descent over LaTeX that knows numbers, fractions, roots, powers and a few functions,
and refuses everything else. It cannot execute anything, and every operation is bounded, so it may
read what a model wrote: a text of n characters costs at most n small operations.

Values are exact (Fraction) as long as they can be, else 50-digit floats. e and i are
the constants; any other letter stands for a fixed irrational-looking number, so two expressions
that differ there are different.
"""

import re
from dataclasses import dataclass
from fractions import Fraction
from functools import lru_cache
from hashlib import sha256

from trainer.grading import arithmetic
from trainer.grading.arithmetic import UnknownError

LONGEST = 400  # characters
DEEPEST = 24  # levels of brackets
SAME, DIFFERENT = 1e-30, 1e-20  # relative differences that count as none, and as one


@dataclass(frozen=True)
class Value:
    """A number, and the letters it was computed with.

    Attributes:
        number: Fraction where exact, else an mpmath float or complex number.
        letters: Unknowns in the expression.
    """

    number: object
    letters: frozenset[str]


def value(text: str) -> Value:
    r"""The value of an expression.

    Raises:
        UnknownError: it is no expression, or one that is too large or not understood.

    >>> value(r"1\frac{1}{2} + \sqrt{4}").number
    Fraction(7, 2)
    >>> sorted(value(r"2x^2y").letters)
    ['x', 'y']
    """
    if len(text) > LONGEST:
        raise UnknownError("too long")
    reader = _Reader(_tokens(text))
    number = reader.sum()
    if reader.peek():
        raise UnknownError(f"{reader.peek()!r} is left over")
    return Value(number, frozenset(reader.letters))


def same(left: Value, right: Value) -> bool | None:
    """Whether two values are equal; None where that is not sure.

    Unequal is sure when both are in the same letters, equal when there are none: two expressions
    in letters may also agree by chance of the domain, as sqrt(x^2) and x do for positive x.
    """
    if left.letters != right.letters:
        return None
    equal = _close(left.number, right.number)
    return None if equal and left.letters else equal


def _close(left: object, right: object) -> bool | None:
    if isinstance(left, Fraction) and isinstance(right, Fraction):
        return left == right
    a, b = arithmetic.as_float(left), arithmetic.as_float(right)
    difference, scale = abs(a - b), max(abs(a), abs(b))
    if difference <= SAME * scale:
        return True
    return False if difference > DIFFERENT * scale else None


@lru_cache(256)
def _letter(name: str) -> object:
    digits = int.from_bytes(sha256(name.encode()).digest()[:16], "big")
    return (
        arithmetic.context().mpf(2) + arithmetic.context().mpf(digits) / 2**128
    )  # between 2 and 3, and never a short fraction


_TOKEN = re.compile(
    r"\s+|\\[A-Za-z]+|\\[ ,;:!]|\d+(?:\.\d+)?|\.\d+|[A-Za-z]|[-+*/^!(){}\[\]|]", re.ASCII
)
_SKIPPED = {"\\left", "\\right", "\\,", "\\;", "\\:", "\\!", "\\ ", "\\displaystyle"}
_OPEN = {"(": ")", "[": "]", "{": "}"}
_TIMES = {"*", "\\cdot", "\\times"}
_FRACTIONS = {"\\frac", "\\dfrac", "\\tfrac", "\\cfrac"}
_NAMED = {"\\pi", "\\alpha", "\\beta", "\\theta", "\\phi", "\\omega", "\\lambda", "\\mu"}
_FUNCTIONS = {
    f"\\{name}": name
    for name in ("sin", "cos", "tan", "cot", "sec", "csc", "sinh", "cosh", "tanh", "ln", "exp")
} | {"\\arctan": "atan", "\\arcsin": "asin", "\\arccos": "acos"}


def _tokens(text: str) -> list[str]:
    tokens, place = [], 0
    while place < len(text):
        found = _TOKEN.match(text, place)
        if not found:
            raise UnknownError(f"{text[place]!r} is not understood")
        place = found.end()
        token = found.group()
        if not token.isspace() and token not in _SKIPPED:
            tokens.append(token)
    return tokens


class _Reader:
    """One pass over the tokens, from left to right; each method reads one level of the grammar."""

    def __init__(self, tokens: list[str]) -> None:
        self.tokens, self.at, self.depth = tokens, 0, 0
        self.letters: set[str] = set()

    def peek(self) -> str:
        return self.tokens[self.at] if self.at < len(self.tokens) else ""

    def take(self, expected: str = "") -> str:
        token = self.peek()
        if not token or (expected and token != expected):
            raise UnknownError(f"{expected or 'something'} was expected, found {token!r}")
        self.at += 1
        return token

    def sum(self):
        self.depth += 1
        if self.depth > DEEPEST:
            raise UnknownError("nested too deeply")
        total = self.product()
        while self.peek() in ("+", "-"):
            sign = self.take()
            total = arithmetic.checked(
                arithmetic.add(total, self.product(), -1 if sign == "-" else 1)
            )
        self.depth -= 1
        return total

    def product(self):
        sign = 1
        while self.peek() in ("+", "-"):
            sign = -sign if self.take() == "-" else sign
        total = self.mixed()
        divided = False
        while self.peek():
            if self.peek() in _TIMES:
                self.take()
                total = arithmetic.checked(arithmetic.multiply(total, self.factor()))
            elif self.peek() in ("/", "\\div"):
                self.take()
                total = arithmetic.divide(total, self.factor())
                divided = True
            elif self._starts_factor():
                if divided or self.peek()[0] in ".0123456789":
                    raise UnknownError("1/2x can be read in two ways, and 2 3 in three")
                total = arithmetic.checked(arithmetic.multiply(total, self.power()))
            else:
                break
        return arithmetic.multiply(Fraction(sign), total)

    def mixed(self):
        """A product's first factor, or a mixed number such as 1\\frac{1}{2}."""
        token = self.peek()
        if token.isdigit() and self.tokens[self.at + 1 : self.at + 2] == ["\\frac"]:
            plain = re.match(r"\\frac\{(\d+)\}\{(\d+)\}", "".join(self.tokens[self.at + 1 :]))
            if plain and 0 < int(plain[1]) < int(plain[2]):
                self.take()
                return arithmetic.add(arithmetic.numeral(token), self.power(), 1)
        return self.power()

    def factor(self):
        """What may follow a sign of multiplication: it may have a sign of its own."""
        if self.peek() == "-":
            self.take()
            return arithmetic.multiply(Fraction(-1), self.power())
        return self.power()

    def _starts_factor(self) -> bool:
        token = self.peek() or "end"
        known = _FRACTIONS | _NAMED | _FUNCTIONS.keys() | {"\\sqrt", "\\binom"}
        return token in ("(", "{", "[", *known) or (token != "end" and token[0].isalnum())

    def power(self):
        base = self.atom()
        while self.peek() in ("^", "!"):
            if self.take() == "!":
                base = arithmetic.factorial_of(base)
            elif self.peek() == "{":
                base = arithmetic.power(base, self.bracket())
            else:
                token = self.peek()
                if len(token) > 1 and token.isdigit():
                    raise UnknownError("x^10 is x^1 0 in TeX and x^{10} to most who write it")
                base = arithmetic.power(base, self.atom())
                if self.peek() == "^":
                    raise UnknownError("a double exponent")
        return base

    def bracket(self):
        opening = self.take()
        inside = self.sum()
        self.take(_OPEN[opening])
        return inside

    def argument(self):
        r"""What follows \frac or \sqrt: {...}, or one digit or letter."""
        token = self.peek()
        if token == "{":
            return self.bracket()
        if len(token) == 1 and token.isalnum():
            return self.atom()
        raise UnknownError(f"no argument, but {token!r}")

    def atom(self):
        token = self.take()
        if token[0] in ".0123456789":
            return arithmetic.numeral(token)
        if token in _OPEN:
            self.at -= 1
            return self.bracket()
        if token == "|":
            inside = self.sum()
            self.take("|")
            return abs(inside)
        if token in _FRACTIONS:
            return arithmetic.divide(self.argument(), self.argument())
        if token == "\\sqrt":
            degree = Fraction(2)
            if self.peek() == "[":
                degree = self.bracket()
            return arithmetic.root(self.argument(), degree)
        if token == "\\binom":
            return arithmetic.binomial(self.argument(), self.argument())
        if token in _FUNCTIONS:
            return self.call(_FUNCTIONS[token])
        if token == "\\pi":
            return arithmetic.context().pi()
        if (len(token) == 1 and token.isalpha()) or token in _NAMED:
            if token in ("e", "i"):
                return arithmetic.context().e() if token == "e" else arithmetic.context().mpc(0, 1)
            self.letters.add(token)
            return _letter(token)
        raise UnknownError(f"{token!r} is not understood")

    def call(self, name: str):
        square = False
        if self.peek() == "^":
            self.take()
            if self.argument() != 2:
                raise UnknownError("only squares are written so without doubt")
            square = True
        argument = arithmetic.as_float(self.power())
        if self._starts_factor():
            raise UnknownError("where the argument ends is not sure")
        if abs(argument) > 1e4:
            raise UnknownError("a large argument")
        try:
            result = getattr(arithmetic.context(), name)(argument)
        except (ValueError, ZeroDivisionError) as error:
            raise UnknownError(str(error)) from error
        if abs(result) < 1e-18:
            raise UnknownError("a zero of a function, or nearly one")
        return arithmetic.checked(result * result if square else result)
