"""Answers as text and as numbers: taken out of a response, and made comparable."""

import re
from fractions import Fraction


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} or \fbox{...}, with braces paired; None without one.

    >>> last_boxed(r"\boxed{1} or \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    start = max(text.rfind("\\boxed{"), text.rfind("\\fbox{"))
    if start < 0:
        return None
    start = text.index("{", start) + 1
    depth = 1
    for place in range(start, len(text)):
        if text[place - 1] == "\\" and text[place - 2 : place] != "\\\\":
            continue  # \{ and \} are braces of a set, not of the box
        depth += {"{": 1, "}": -1}.get(text[place], 0)
        if not depth:
            return text[start:place].strip()
    return None


# What typesetting adds and meaning does not.
_REMOVED = re.compile(
    r"\\(?:left|right|displaystyle|limits|quad|qquad|degree)(?![A-Za-z])"
    r"|\\[!,;: %$]|\^\{?\\circ\}?|[%$~\s]"
)
_FRACTION_NAME = re.compile(r"\\[dt]frac(?![A-Za-z])")
_BARE_FRACTION = re.compile(r"\\frac(?:(\d)(\d)|\{(\d+)\}(\d)|(\d)\{(\d+)\})")
_TEXT = re.compile(r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|operatorname)\s*\{([^{}]*)\}")
_THOUSANDS = re.compile(r"(?<=\d)(?:,(?:\\!)?|\{,\})(?=\d{3}(?!\d))")


def normalized(answer: str) -> str:
    r"""An answer without what typesetting adds, to compare as text.

    >>> normalized(r"$\dfrac12\!$"), normalized(r"\text{Evelyn}."), normalized("90^\\circ")
    ('\\frac{1}{2}', 'Evelyn', '90')
    """
    text = _TEXT.sub(r"\1", answer.strip())
    text = _REMOVED.sub("", _FRACTION_NAME.sub(r"\\frac", text))
    text = _BARE_FRACTION.sub(
        lambda m: "\\frac{{{}}}{{{}}}".format(*filter(None, m.groups())), text
    )
    return text.rstrip(".")


_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:"
    r"(?P<whole>\d+)(?:\.(?P<part>\d*))?"
    r"|\.(?P<only>\d+)"
    r")(?:(?:[eE]|(?:\\times|\\cdot|\*|x)10\^)\{?(?P<power>[-+]?\d{1,3})\}?)?"
)
_QUOTIENT = re.compile(
    r"(?P<sign>[-+]?)(?:\\frac\{(?P<up>[-+]?\d+)\}\{(?P<down>[-+]?\d+)\}|(?P<a>\d+)/(?P<b>\d+))"
)


def number(text: str) -> Fraction | None:
    r"""The exact value of an integer, decimal, fraction or power of ten; None for all else.

    >>> number("1,000"), number("-\\frac{6}{4}"), number("7 \\times 10^{-2}"), number("2^3")
    (Fraction(1000, 1), Fraction(-3, 2), Fraction(7, 100), None)
    """
    text = normalized(_THOUSANDS.sub("", text))
    if len(text) > 300:
        return None
    if found := _NUMBER.fullmatch(text):
        part = found["part"] or found["only"] or ""
        value = Fraction(int((found["whole"] or "") + part), 10 ** len(part))
        value *= Fraction(10) ** int(found["power"] or 0)
    elif found := _QUOTIENT.fullmatch(text):
        up, down = int(found["up"] or found["a"]), int(found["down"] or found["b"])
        if not down:
            return None
        value = Fraction(up, down)
    else:
        return None
    return -value if found["sign"] == "-" else value
