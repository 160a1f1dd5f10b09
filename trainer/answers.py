"""Answers as text and as numbers: taken out of a box, and made comparable."""

import re
from fractions import Fraction
from functools import lru_cache

LONGEST_ANSWER = 2000  # characters; the longest truth of the public sets has fewer than 400
BOXES = 8  # of boxes that state one answer together


def last_boxed(text: str) -> str | None:
    r"""What stands in the last \boxed{...} or \fbox{...}, with braces paired; None without one.

    >>> last_boxed(r"\boxed{1} or \boxed{\frac{1}{2}}")
    '\\frac{1}{2}'
    """
    start = _last_box(text, len(text))
    return None if start < 0 else boxed_at(text, start)[0]


def final_boxes(text: str) -> list[str]:
    r"""The last box, with those before it that are joined to it by a comma, "and" or "or".

    Empty without a box, or where the last one is not closed. A box that is repeated counts once.
    Behind the last there may be one without braces, \boxed 5, if it holds a number alone.

    >>> final_boxes(r"\boxed{9}. So $\boxed{2}$ and $\boxed{3}$.")
    ['2', '3']
    """
    start = _last_box(text, len(text))
    if bare := _BARE_BOX.findall(text, max(start, 0)):
        return [bare[-1].rstrip(".,")]
    found, end = boxed_at(text, start) if start >= 0 else (None, 0)
    boxes = []
    while found is not None and found not in boxes and len(boxes) < BOXES:
        boxes.insert(0, found)
        before = _last_box(text, start)
        if before < 0 or start - before > LONGEST_ANSWER:
            break
        found, end = boxed_at(text, before)
        if found is None or end > start or not _JOINED.fullmatch(text[end:start]):
            break
        start = before
    return boxes


def boxed_answer(text: str) -> str | None:
    r"""What the final boxes of a text state, several as a list; None without a box.

    >>> boxed_answer(r"\boxed{9}. So $\boxed{2}$ and $\boxed{3}$."), boxed_answer("2")
    ('2, 3', None)
    """
    boxes = final_boxes(text)
    return ", ".join(boxes) if boxes else None


def boxed_at(text: str, start: int) -> tuple[str | None, int]:
    """What stands in the box that starts there, None if it is not closed; and where it ends.

    Only some 4,000 characters are looked at, so that a megabyte of braces costs no time.
    """
    opened = text.index("{", start) + 1
    stop = min(len(text), opened + 2 * LONGEST_ANSWER)
    depth, place = 1, opened
    while place < stop:
        character = text[place]
        if character == "\\":
            place += 1  # \{ and \} are braces of a set, not of the box
        elif character == "{":
            depth += 1
        elif character == "}":
            depth -= 1
            if not depth:
                return text[opened:place].strip(), place + 1
        place += 1
    return None, stop


_BARE_BOX = re.compile(r"\\boxed\s{0,3}(-?\d[\d.,]{0,40})(?=[\s$.,;)\]]|\\[)\]]|$)")
_LAST_BOX = re.compile(r".*(\\(?:boxed|fbox)\s{0,3}\{)", re.DOTALL)
# Nothing is given back (`*+`): between two boxes there may be a thousand new lines.
_JOINED = re.compile(r"[\s$.]*+(?:,|;|,?\s*+\\?(?:text\{)?\s*+(?:and|or)\s*+\}?)[\s$]*+")


def _last_box(text: str, end: int) -> int:
    found = _LAST_BOX.match(text, 0, end)
    return found.start(1) if found else -1


# What typesetting adds and meaning does not.
_REMOVED = re.compile(
    r"\\(?:left|right|[bB]igg?[lrm]?|displaystyle|limits|quad|qquad|degree"
    r"|tiny|small|large|Large|LARGE|huge|Huge|bf|rm|it)(?![A-Za-z])"
    r"|\\[!,;:> %$]|\^\{?\\circ\}?|[%$~]|(?<!\d)\s+|\s+(?!\d)|\\[()\[\]](?![A-Za-z0-9])"
)
_COMMAND = re.compile(
    r"\\\\(?=(?:[dtc]?frac|sqrt|pi|text|left|right|cdot|times|infty|begin|end|log|ln|sin|cos|boxed)"
    r"(?![A-Za-z]))"
)
_FRACTION_NAME = re.compile(r"\\[dtc]frac(?![A-Za-z])")
_COLON = re.compile(r"\\(?:text|mathrm)\{:\}")  # 5\text{:}30
_SPACED = re.compile(r"\\(frac|sqrt)\s+(?=[{\[])")
_BARE_FRACTION = re.compile(r"\\frac(?:(\d)(\d)|\{(\d+)\}(\d)|(\d)\{(\d+)\})")
_BARE_ROOT = re.compile(r"\\sqrt(\d)(?!\d)")
_TEXT = re.compile(
    r"\\(?:text|mathrm|textbf|mathbf|mbox|textit|textrm|mathit|mathsf|boldsymbol|operatorname)\s*\{([^{}]*)\}"
)
_THOUSANDS = re.compile(r"(?<=\d)(?:\\?,(?:\\!)?|\{,\}|\\? )(?=\d{3}(?!\d))")
_SAME_SIGN = {
    "−": "-", "–": "-", "—": "-", "×": "\\times ", "·": "\\cdot ", "÷": "/", "π": "\\pi ",
    "∞": "\\infty ", "°": "^\\circ", "±": "\\pm ", "≤": "\\le ", "≥": "\\ge ", "\u222a": "\\cup ",
    "½": "\\frac{1}{2}", "²": "^2", "³": "^3", "∅": "\\emptyset ",
    "\uff0c": ",", "\uff08": "(", "\uff09": ")",
    "€": "\\$", "£": "\\$", "¥": "\\$", "θ": "\\theta ", "\u00a0": " ", "\u202f": " ",
    "\u2009": " ", "\u200b": "", "≠": "\\ne ", "∈": "\\in ",
}  # fmt: skip
_SIGN = str.maketrans(_SAME_SIGN)
_UNICODE_ROOT = re.compile(r"√\s*(?:\(([^()]*)\)|(\d+|[a-z]))")
_PLAIN_ROOT = re.compile(r"(?<![\\A-Za-z])sqrt\s*(?:\(([^()]*)\)|(?=\{))")


def plain(answer: str) -> str:
    r"""An answer in ASCII LaTeX, one name for each thing, without the delimiters of a formula.

    >>> plain("$√3 × ½$"), plain(r"\dfrac {1}{2}")
    ('\\sqrt{3} \\times  \\frac{1}{2}', '\\frac{1}{2}')
    """
    text = _UNICODE_ROOT.sub(lambda m: f"\\sqrt{{{m[1] or m[2]}}}", answer)
    if "sqrt" in text:
        text = _PLAIN_ROOT.sub(lambda m: "\\sqrt" + (f"{{{m[1]}}}" if m[1] else ""), text)
    text = text.translate(_SIGN).strip().removesuffix("\\").strip()
    if "\\boxed" in text:  # as some truths are written
        text = last_boxed(text) or text
    if "matrix}" not in text:  # where \\ ends a row
        text = _COMMAND.sub(r"\\", text)
    text = _COLON.sub(":", text)
    text = _SPACED.sub(r"\\\1", _FRACTION_NAME.sub(r"\\frac", text))
    for opening, closing in (("$$", "$$"), ("$", "$"), ("\\(", "\\)"), ("\\[", "\\]")):
        if len(text) > 2 * len(opening) and text.startswith(opening) and text.endswith(closing):
            inside = text[len(opening) : -len(closing)]
            if opening not in inside:
                text = inside.strip()
    text = _BARE_FRACTION.sub(
        lambda m: "\\frac{{{}}}{{{}}}".format(*filter(None, m.groups())), text
    )
    return _BARE_ROOT.sub(r"\\sqrt{\1}", text)


@lru_cache(maxsize=4096)
def normalized(answer: str) -> str:
    r"""An answer without what typesetting adds, to compare as text.

    >>> normalized(r"$\dfrac12\!$"), normalized(r"\text{Evelyn}."), normalized("90^\\circ")
    ('\\frac{1}{2}', 'Evelyn', '90')
    """
    text = _REMOVED.sub("", _TEXT.sub(r"\1", plain(answer)))
    text = (
        text.replace("\\leq", "\\le").replace("\\geq", "\\ge").replace("\\varnothing", "\\emptyset")
    )
    return text.rstrip(".")


_NUMBER = re.compile(
    r"(?P<sign>[-+]?)(?:"
    r"(?P<whole>\d+)(?:\.(?P<part>\d*))?"
    r"|\.(?P<only>\d+)"
    r")(?:(?:[eE]|(?:\\times|\\cdot|\*|x)10\^)\{?(?P<power>[-+]?\d{1,3})\}?)?",
    re.ASCII,
)
_QUOTIENT = re.compile(
    r"(?P<sign>[-+]?)(?:\\frac\{(?P<up>[-+]?\d+)\}\{(?P<down>[-+]?\d+)\}|(?P<a>\d+)/(?P<b>\d+))",
    re.ASCII,
)


def number(text: str) -> Fraction | None:
    r"""The exact value of an integer, decimal, fraction or power of ten; None for all else.

    >>> number("1,000"), number("-\\frac{6}{4}"), number("7 \\times 10^{-2}"), number("2^3")
    (Fraction(1000, 1), Fraction(-3, 2), Fraction(7, 100), None)
    """
    if len(text) > 400:
        return None
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
