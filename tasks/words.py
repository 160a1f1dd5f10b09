"""How numbers are written for people: the same way on the page, in tables and in the terminal."""

import math
from collections.abc import Sequence
from typing import Any

ABSENT = "\N{EN DASH}"
MINUS = "\N{MINUS SIGN}"


def number(value: Any, digits: int = 3) -> str:
    """A number with `digits` significant digits; NaN says so, and what is missing is a dash.

    >>> number(0.012345), number(1234567), number(float("nan")), number(999.6)
    ('0.0123', '1,234,567', 'NaN', '1,000')
    """
    if value is None:
        return ABSENT
    if math.isnan(value):
        return "NaN"
    if math.isinf(value):
        return "∞" if value > 0 else f"{MINUS}∞"
    if value == int(value) or abs(value) >= 10**digits - 0.5:
        return f"{value:,.0f}".replace("-", MINUS)
    return f"{value:.{digits}g}".replace("-", MINUS)


def percent(share: float | None) -> str:
    """A share in [0, 1] in per cent.

    >>> percent(0.3414)
    '34.1 %'
    """
    if share is None or math.isnan(share):
        return number(share)
    return f"{100 * share:.1f}".replace("-", MINUS) + " %"


def points(change: float | None) -> str:
    """A change of a share, in percentage points with its sign.

    >>> points(0.182), points(0.0)
    ('+18.2', '0.0')
    """
    if change is None or math.isnan(change):
        return number(change)
    text = f"{100 * change:+.1f}"
    return text.replace("-", MINUS) if float(text) else "0.0"


def magnitude(change: float) -> str:
    """How large a change of a share is, in percentage points without its sign.

    >>> magnitude(-0.182), magnitude(0.0004)
    ('18.2', '0.0')
    """
    return points(abs(change)).removeprefix("+")


def span(bounds: Any, write: Any = points) -> str:
    """An interval, its ends written by `write`.

    >>> span((0.1, 0.2)), span((0.1, 0.2), percent)
    ('+10.0 to +20.0', '10.0 to 20.0 %')
    """
    if not bounds:
        return ABSENT
    low, high = (write(end) for end in bounds)
    return f"{low.removesuffix(' %')} to {high}"


def p_value(value: float | None) -> str:
    """A p-value, never smaller than its resolution allows to say.

    >>> p_value(0.00009), p_value(0.0312)
    ('p < 0.001', 'p = 0.031')
    """
    if value is None or math.isnan(value):
        return ABSENT
    return "p < 0.001" if value < 0.001 else f"p = {value:.3f}"


def count(value: float | None) -> str:
    """A count, with thousands separated; large ones in millions.

    >>> count(1920), count(19_234_567), count(999_990_000)
    ('1,920', '19.2 million', '1.0 billion')
    """
    if value is None or math.isnan(value):
        return number(value)
    if value >= 9.9995e8:
        return f"{value / 1e9:.1f} billion"
    return f"{value / 1e6:.1f} million" if value >= 1e7 else f"{value:,.0f}"


def brief(value: float) -> str:
    """A number for the mark of an axis.

    >>> brief(250_000), brief(1_500_000), brief(4_000)
    ('250k', '1.5M', '4,000')
    """
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:,g}"


def duration(seconds: float | None) -> str:
    """A stretch of time.

    >>> duration(8.26), duration(59.97), duration(492), duration(7380), duration(200_000)
    ('8.3 s', '1 min 0 s', '8 min 12 s', '2 h 3 min', '2 d 7 h')
    """
    if seconds is None or math.isnan(seconds):
        return number(seconds)
    if seconds < 59.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    for big, small, big_name, small_name in (
        (86_400, 3_600, "d", "h"),
        (3_600, 60, "h", "min"),
        (60, 1, "min", "s"),
    ):
        if whole >= big:
            return f"{whole // big} {big_name} {whole % big // small} {small_name}"
    return f"{whole} s"


def things(amount: int, one: str, many: str = "") -> str:
    """An amount with its noun.

    >>> things(1, "stage"), things(2, "stage")
    ('1 stage', '2 stages')
    """
    return f"{count(amount)} {one if amount == 1 else many or one + 's'}"


def table(rows: Sequence[Sequence[str]], left: int) -> list[str]:
    """Rows as lines: the first is the heading, the first `left` columns start at their left.

    >>> table([["stage", "steps"], ["1-L1", "160"]], left=1)
    ['stage  steps', '-----  -----', '1-L1     160']
    """
    widths = [max(len(row[place]) for row in rows) for place in range(len(rows[0]))]

    def line(row: Sequence[str]) -> str:
        cells = [
            cell.ljust(width) if place < left else cell.rjust(width)
            for place, (cell, width) in enumerate(zip(row, widths, strict=True))
        ]
        return "  ".join(cells).rstrip()

    return [line(rows[0]), line(["-" * width for width in widths]), *map(line, rows[1:])]


def plain(text: str) -> str:
    """The same text in ASCII, for terminals that know nothing else.

    >>> plain(f"{MINUS}0.4 · {ABSENT}")
    '-0.4 | -'
    """
    replaced = text.translate({ord(MINUS): "-", ord(ABSENT): "-", ord("·"): "|", ord("∞"): "inf"})
    return replaced.encode("ascii", "replace").decode()
