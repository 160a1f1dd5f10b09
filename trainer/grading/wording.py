"""What answers say in words and marks: units, currencies, plain words, choices, bases."""

import re

from trainer.answers import normalized, number, plain

# A model may write thousands of spaces: here and below, `\s*+` gives none of them back, and
# `(?<!\s)` tries a run of them once.
# Of two letters at least, and set apart: 7 cm, 7\text{ cm}^2; but not 7n, 7 n or 7 pi.
_UNIT = re.compile(
    r"(?<!\s)(?:\s*\\(?:text|mathrm|mbox|textrm|rm)\s*\{(?P<text>[^{}A-Za-z]*[A-Za-z][^{}]*)\}"
    r"|\s+(?P<word>(?!pi\b|and\b|or\b|mod\b)[A-Za-z]{2,}+(?: ++(?:[A-Za-z]++|/))*+\.?"
    r"|(?<=\d )[a-zA-Z]+/[a-zA-Z]+))"
    r"(?:\^\{?(?P<power>-?\d)\}?)?\s*$"
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
        "morning": "am",
        "afternoon": "pm",
        "degree": "degree degrees deg",
        "radian": "radian radians rad",
    }.items()
    for word in words.split()
}


def without_unit(text: str) -> str:
    """A text without its currency, and without the unit behind a number."""
    found = _UNIT.search(_CURRENCY.sub("", text))
    bare = _CURRENCY.sub("", text)
    return bare[: found.start()] if found and _DIGIT.search(bare[: found.start()]) else bare


_IN_PARTS = re.compile(r"\}\s*+/\s*+\\(?:text|mathrm|mbox|textrm)\s*+\{")  # \text{m}/\text{s}
_PER = re.compile(r"/|\b(?:per|an?|each)\b")
_POWERS = {"square": "2", "sq": "2", "cubic": "3", "cu": "3"}


def _unit(text: str) -> list[str]:
    r"""The unit that a text ends in, a/b as two; "" stands for what is not known.

    >>> _unit("7 miles per hour"), _unit(r"7\text{ cm}^2"), _unit("7 apples"), _unit("7")
    (['mile', 'hour'], ['centimetre^2'], [''], [])
    """
    if "\\$" in text:
        return ["dollar"]
    found = _UNIT.search(_IN_PARTS.sub("/", text))
    if not found:
        return []
    said = re.sub(r"\b([ap])\.\s?m\b", r"\1m", (found["text"] or found["word"]).lower())
    *parts, last = _PER.split(said)
    return [*(_power_of(part, None) for part in parts), _power_of(last, found["power"])]


def _power_of(part: str, power: str | None) -> str:
    """A unit by its one name, and its power behind it where that is not 1; "" if not known."""
    words = re.findall(r"[a-z]+", part)
    inside = re.search(r"\^(-?\d)", part)
    power = power or (inside[1] if inside else _POWERS.get(words[0], "1") if words else "1")
    name = _SAME_UNIT.get(words[-1]) if words else None
    if name is None or (power.startswith("-") and len(words) > 1):
        return ""
    return name if power == "1" else f"{name}^{power}"


def conflict(answer: str, truth: str) -> bool:
    """Whether both have a known unit, and not the same: cm is neither m nor cm^2, m/s not s."""
    left, right = _unit(plain(answer)), _unit(plain(truth))
    if not left or not right:
        return False
    if len(left) != len(right) and all(left) and all(right):
        return True
    ends = zip(reversed(left), reversed(right), strict=False)
    return any(one and other and one != other for one, other in ends)


_TEXT_ONLY = re.compile(r"\\(?:text|mathrm|textbf|mbox|textit|textrm)\s*\{([^{}\\$]*)\}")
_WORDS = re.compile(r"[A-Za-z][A-Za-z '.,!?-]*[A-Za-z.!?)]")


def words(text: str) -> str | None:
    """An answer in words in lower case, letters and digits alone; None for anything else.

    Letters without \\text count as words when there are three of them, or "no": ab is a product.
    """
    stripped = plain(text)
    bare = _TEXT_ONLY.sub(r"\1", stripped).strip(" .$*")
    product = bare == stripped.strip(" .$*") and len(bare) < 3 and bare.lower() != "no"
    if product or not _WORDS.fullmatch(bare):
        return None
    return re.sub(r"[^a-z]", "", re.sub(r"^(?:the|an|a) ", "", bare.lower()))


def same_words(answer: str, truth: str) -> bool | None:
    """Whether two answers in words are the same; None where they are not words, or unsure."""
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
    r"\(?\s*+(?:\\(?:text|textbf|mathrm|mathbf)\s*+\{\s*+)?\(?(?P<letter>[A-Ja-j])\)?\s*+[.:)]?\s*+\}?"
    r"\s*+\)?\s*+[.:)]?"
)
_LABEL = re.compile(
    r"(?:\\(?:text|textbf|mathrm|mathbf)\s*\{\s*)?(?:\((?P<a>[A-J])\)|(?P<b>[A-J])[.:)])\s*[.:]?\s*\}?"
    r"(?:\\[ ,;:!]|\\quad|\s|~)*(?P<rest>.+)",
    re.DOTALL,
)


def same_choice(answer: str, truth: str) -> bool | None:
    """Whether an answer names the choice that is asked for; None where none is, or by chance."""
    left, right = plain(answer), plain(truth)
    wanted, given = _CHOICE.fullmatch(right), _CHOICE.fullmatch(left)
    if wanted and given:
        return wanted["letter"].upper() == given["letter"].upper() or None
    labelled = _LABEL.fullmatch(left)
    if labelled and wanted:
        return (labelled["a"] or labelled["b"]) == wanted["letter"].upper()
    return None


def without_label(answer: str, truth: str) -> str | None:
    """What stands behind the letters of a choice, where the truth is no choice; else None.

    >>> without_label("(B) 12", "12")
    '12'
    """
    labelled, right = _LABEL.fullmatch(plain(answer)), plain(truth)
    if not labelled or _CHOICE.fullmatch(right) or _LABEL.fullmatch(right):
        return None
    rest = labelled["rest"]
    while labelled := _LABEL.fullmatch(rest):  # here, and not by a call for each of a thousand
        rest = labelled["rest"]
    return rest


_NUMERAL = re.compile(r"\{?(-?[0-9A-F]+)\}?_\{?\(?(\d{1,2})\)?\}?")


def same_numerals(answer: str, truth: str) -> bool | None:
    """Numerals with a base, 101_2; the base may be left out."""
    left, right = normalized(answer), normalized(truth)
    found = [_NUMERAL.fullmatch(text) for text in (left, right)]
    digits = [m[1] if m else text for m, text in zip(found, (left, right), strict=True)]
    if not any(found) or not all(re.fullmatch("-?[0-9A-F]+", text) for text in digits):
        return None
    same_base = not all(found) or found[0][2] == found[1][2]
    return digits[0] == digits[1] and same_base
