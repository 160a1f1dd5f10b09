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
                numeral; a different unit or base is wrong. 90 degrees is not pi/2.
    equations   x = 7 is 7 and y = 2x is 2x, whatever the letter; two equations are compared whole.
    words       without regard to case, spaces and punctuation.
    choices     (B), B. and B are the same, and so is "B. 12"; "B. 12" is 12, too.
    unreduced   2/4 is 1/2, and 3+4 is 7: equal by value.
"""

import re
from fractions import Fraction
from functools import lru_cache

from trainer.answers import LONGEST_ANSWER, normalized, number, plain
from trainer.grading.shapes import Shape, shape
from trainer.grading.values import UnknownError, Value, same, value

PLACES = 6  # decimal places from which on a decimal may stand for what it rounds
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
    for decide in (_numbers, _words, _choices, _numerals):
        decided = decide(answer, truth)
        if decided is not None:
            return decided, decide in (_words, _choices)
    return _shapes(answer, truth, depth), False


def _numbers(answer: str, truth: str) -> bool | None:
    left, right = number(answer), number(truth)
    if left is None and right is None:
        return None
    if left is None:
        left = number(_without_unit(answer.rpartition("=")[2]))  # "x = 7" and "7 cm" are 7
    if right is None:
        right = number(_without_unit(truth.rpartition("=")[2]))
    if left is None or right is None:
        return None
    if _conflict(answer, truth):
        return False
    return same_number(answer, left, truth, right)


def same_number(answer: str, left: Fraction, truth: str, right: Fraction) -> bool:
    """Whether two numbers are the same as written: exactly, rounded, or as a percentage."""
    if left == right or _rounds(answer, left, right) or _rounds(truth, right, left):
        return True
    if ("%" in answer) != ("%" in truth):  # 50 % is 50, and 0.5
        return left == right * 100 if "%" in answer else left * 100 == right
    return False


def _rounds(text: str, rounded: Fraction, exact: Fraction) -> bool:
    """Whether a decimal of six or more places is the other number, rounded."""
    found = re.search(r"\d*\.(\d+)\D*$", text, re.ASCII)
    if not found or len(found[1]) < PLACES:
        return False
    if round(exact, len(found[1])) == rounded:
        return True
    # More places than are right, as 0.3333333334: the sixth must be, and must be a leading one.
    close = abs(exact - rounded) * 200_000 < abs(exact)
    return close and round(exact, PLACES) == round(rounded, PLACES)


# Of two letters at least, and set apart: 7 cm, 7\text{ cm}^2; but not 7n, 7 n or 7 pi.
_UNIT = re.compile(
    r"(?:\s*\\(?:text|mathrm|mbox|textrm|rm)\s*\{(?P<text>[^{}]*[A-Za-z]{1,}[^{}]*)\}"
    r"|\s+(?P<word>(?!pi\b|and\b|or\b|mod\b)[A-Za-z]{2,}(?: +(?:[A-Za-z]+|/))*\.?"
    r"|(?<=\d )[a-zA-Z]+/[a-zA-Z]+))"
    r"(?:\^\{?-?\d\}?)?\s*$"
)
_CURRENCY = re.compile(r"\\\$|\\(?:text|mathrm)\{\s*\\?\$\s*\}|^\$(?=\d)")
_DIGIT = re.compile(r"\d|\\pi|\\sqrt|\\frac")
_SAME_UNIT = {
    word: name
    for name, words in {
        "millimetre": "mm millimeter millimeters millimetre millimetres",
        "centimetre": "cm centimeter centimeters centimetre centimetres",
        "metre": "m meter meters metre metres",
        "kilometre": "km kilometer kilometers kilometre kilometres",
        "inch": "in inch inches",
        "foot": "ft foot feet",
        "yard": "yd yard yards",
        "mile": "mi mile miles",
        "second": "s sec second seconds",
        "minute": "min minute minutes",
        "hour": "h hr hrs hour hours",
        "day": "day days",
        "week": "week weeks",
        "year": "yr year years",
        "gram": "g gram grams",
        "kilogram": "kg kilogram kilograms",
        "pound": "lb lbs pound pounds",
        "litre": "l liter liters litre litres",
        "dollar": "dollar dollars usd",
        "cent": "cent cents",
        "degree": "degree degrees deg",
        "radian": "radian radians rad",
    }.items()
    for word in words.split()
}


def _without_unit(text: str) -> str:
    found = _UNIT.search(_CURRENCY.sub("", text))
    bare = _CURRENCY.sub("", text)
    return bare[: found.start()] if found and _DIGIT.search(bare[: found.start()]) else bare


def _unit(text: str) -> str:
    """The known unit that a text ends in, "" where none is known."""
    if "\\$" in text:
        return "dollar"
    found = _UNIT.search(text)
    words = re.findall(r"[a-z]+", (found["text"] or found["word"] or "").lower()) if found else []
    return _SAME_UNIT.get(words[-1], "") if words and words[0] != "square" else ""


def _conflict(answer: str, truth: str) -> bool:
    left, right = _unit(answer), _unit(truth)
    return bool(left and right and left != right)


_TEXT_ONLY = re.compile(r"\\(?:text|mathrm|textbf|mbox|textit|textrm)\s*\{([^{}\\$]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z '.,!?-]*[A-Za-z.!?)]")


def words(text: str) -> str | None:
    """An answer in words in lower case, letters and digits alone; None for anything else.

    Letters without \\text count as words when there are three of them: ab is a product.
    """
    stripped = plain(text)
    bare = _TEXT_ONLY.sub(r"\1", stripped).strip(" .$*")
    if not _WORDS.fullmatch(bare) or (bare == stripped.strip(" .$*") and len(bare) < 3):
        return None
    if len(bare) < 2:
        return None
    return re.sub(r"[^a-z]", "", re.sub(r"^(?:the|an|a) ", "", bare.lower()))


def _words(answer: str, truth: str) -> bool | None:
    left, right = words(answer), words(truth)
    if left is None or right is None:
        other = truth if right is None else answer
        return False if (left or right) and number(other) is not None else None
    if left == right:
        return True
    short = max(len(left), len(right)) <= 4 and "\\" not in answer + truth
    if short or re.search(r"\b(?:and|or)\b|,", f"{answer} {truth}"):
        return None  # a product of letters, or a list of words
    return False


_CHOICE = re.compile(
    r"\(?\s*(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?\(?(?P<letter>[A-Ja-j])\)?\s*[.:)]?\s*\}?\s*\)?"
    r"\s*[.:)]?"
)
_LABEL = re.compile(
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?(?:\((?P<a>[A-J])\)|(?P<b>[A-J])[.:)])\s*[.:]?\s*\}?"
    r"(?:\\[ ,;:!]|\\quad|\s|~)*(?P<rest>.+)",
    re.DOTALL,
)


def _choices(answer: str, truth: str) -> bool | None:
    left, right = plain(answer), plain(truth)
    wanted, given = _CHOICE.fullmatch(right), _CHOICE.fullmatch(left)
    if wanted and given:
        return wanted["letter"].upper() == given["letter"].upper() or None
    labelled = _LABEL.fullmatch(left)
    if labelled and wanted:
        return (labelled["a"] or labelled["b"]) == wanted["letter"].upper()
    if labelled and not _LABEL.fullmatch(right):
        return equal(labelled["rest"], truth, DEEPEST)[0]
    return None


_NUMERAL = re.compile(r"([0-9A-F]+)_\{?(\d{1,2})\}?")


def _numerals(answer: str, truth: str) -> bool | None:
    """Numerals with a base, 101_2; the base may be left out."""
    left, right = normalized(answer), normalized(truth)
    found = [_NUMERAL.fullmatch(text) for text in (left, right)]
    digits = [m[1] if m else text for m, text in zip(found, (left, right), strict=True)]
    if not any(found) or not all(re.fullmatch("[0-9A-F]+", text) for text in digits):
        return None
    same_base = not all(found) or found[0][2] == found[1][2]
    return digits[0] == digits[1] and same_base


def _shapes(answer: str, truth: str, depth: int) -> bool | None:
    left, right = shape(plain(answer)), shape(plain(truth))
    if left.kind == right.kind == "one":
        return _ones(left, right, answer, truth)
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
    known = _value(one.items[0])
    if known is None:
        # Where there is nothing between two elements, no parser finds the two.
        values = [_value(item) for item in many.items]
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
    # Equality is transitive up to rounding, so classes of equal elements need only be counted.
    if unique:
        return all(map(any, table)) and all(map(any, columns))
    return all(sum(row) == sum(columns[row.index(True)]) for row in table)


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
        one = _value(side)
        if one is None or one.letters:
            found.append(False if one and len(side.strip()) == 1 else None)
        else:
            found.append(same(one, known))
    return found


_INFINITE = re.compile(r"[+-]?\\infty|[+-]?\\?infinity")


def _ones(left: Shape, right: Shape, answer: str, truth: str) -> bool | None:
    if _conflict(answer, truth):
        return False
    if left.names[0] and right.names[0] and left.names != right.names:
        return None  # y = 2x against x = 2y: whole equations
    a, b = (normalized(_without_unit(one.items[0])) for one in (left, right))
    if a == b:
        return True
    if re.sub(r"^\+", "", a) == re.sub(r"^\+", "", b):
        return True
    x, y = _value(_without_unit(left.items[0])), _value(_without_unit(right.items[0]))
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
        bare = _value(before)
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
    return _rounds(text, decimal.number, Fraction(str(exact.number)))


_REPEATING = re.compile(
    r"(?<![\d.])(\d{0,40})\.(\d{0,40})\\(?:overline|bar|dot)\{(\d{1,40})\}", re.ASCII
)


def _fraction(found: re.Match[str]) -> str:
    r"""0.1\overline{6} is (16 - 1) / 90."""
    whole, part, repeated = found.groups()
    up = int(whole + part + repeated) - int(whole + part or 0)
    return f"{{\\frac{{{up}}}{{{10 ** len(part) * (10 ** len(repeated) - 1)}}}}}"


_ANGLE = re.compile(r"(\d+(?:\.\d+)?)\s*\^\{?\\circ\}?")


@lru_cache(maxsize=4096)
def _value(text: str) -> Value | None:
    if re.search(r"\\(?:sin|cos|tan|cot|sec|csc)", text):
        text = _ANGLE.sub(r"{\\frac{\1\\pi}{180}}", text)
    text = re.sub(
        r"\^\{?\\circ\}?|\\%|%|\\degree(?![A-Za-z])|(?<=\d)(?:\{,\}|,\\!)(?=\d{3})", "", text
    )
    try:
        return value(_REPEATING.sub(_fraction, text).strip())
    except UnknownError:
        return None
