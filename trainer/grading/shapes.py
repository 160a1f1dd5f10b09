r"""What kind of thing an answer is: one expression, a list, a tuple, a set, or a matrix."""

import re
from dataclasses import dataclass
from typing import Literal

MOST = 64  # elements of an answer that is taken apart

Kind = Literal["one", "list", "ordered", "set", "matrix"]


@dataclass(frozen=True)
class Shape:
    """An answer taken apart.

    Attributes:
        kind: `ordered` for what stands in ( ), [ ] or < >, `list` for what is separated by commas
            or "and" and nothing more.
        brackets: Opening and closing bracket; rows and columns of a matrix.
        items: The elements as text.
        names: What stood before "=" in each element, "" where nothing did.
    """

    kind: Kind
    brackets: str
    items: tuple[str, ...]
    names: tuple[str, ...]


_MATRIX = re.compile(r"\\begin\{([pbB]?matrix|array)\}(?:\{[lcr| ]*\})?(.*)\\end\{\1\}", re.DOTALL)
_AND = re.compile(
    r"(?:,|(?<!\s))\s*+(?:\\(?:text|mathrm|mbox)\s*+\{\s*+,?\s*+(?:and|or)\s*+\}|(?<=\s)(?:and|or)(?=\s)),?"
)
NAME = re.compile(
    r"\s*([A-Za-z](?:_\{?\w{1,3}\}?|'|\([a-z]\))?|[A-Z]{2,3}|\\[a-z]{2,7}|\((?:[A-Za-z]\s*,\s*)+[A-Za-z]\))\s*(?:=|\\in(?![A-Za-z]))(?!=)"
)
_OPENING, _CLOSING = "([{", ")]}"
_PAIRS = {"\\{": "\\}", "\\lbrace": "\\rbrace", "\\langle": "\\rangle", "(": ")", "[": "]"}


def shape(text: str) -> Shape:
    r"""Take an answer apart, without spaces and sizes of brackets.

    >>> shape(r"x=1 \text{ or } x=2").names, shape("(1, 2]").brackets
    (('x', 'x'), '(]')
    """
    text = re.sub(r"\\(?:left|right|[bB]igg?[lrm]?)(?![A-Za-z])", "", text).strip()
    text = text.rstrip(".,;").strip()
    if found := _MATRIX.fullmatch(text):
        rows = [row.split("&") for row in re.split(r"\\\\(?:\[[^\]]*\])?", found[2]) if row.strip()]
        if len({len(row) for row in rows}) == 1:
            cells = tuple(cell.strip() for row in rows for cell in row)[:MOST]
            return Shape("matrix", f"{len(rows)}x{len(rows[0])}", cells, ("",) * len(cells))
    name, text = _named(text)
    if text.count("\\pm") == 1 and "," not in text:
        both = (text.replace("\\pm", "+").lstrip("+ "), text.replace("\\pm", "-"))
        return Shape("list", "", both, (name, name))
    if inside := _enclosed(text):
        opening, closing, inside = inside
        items = _split(inside)
        if opening == "\\{":
            return _of("set", "", items)
        if len(items) > 1:
            return _of("ordered", _flat(opening) + _flat(closing), items)
    items = [text] if name else _split(_AND.sub(",", text))
    if len(items) > 1:
        return _of("list", "", items)
    return Shape("one", "", (text,), (name,))


def _of(kind: Kind, brackets: str, items: list[str]) -> Shape:
    pairs = [_named(item) for item in items]
    names, values = zip(*pairs, strict=True) if pairs else ((), ())
    return Shape(kind, brackets, values, names)


def _flat(bracket: str) -> str:
    return {"\\langle": "<", "\\rangle": ">"}.get(bracket, bracket)


def _named(text: str) -> tuple[str, str]:
    found = NAME.match(text)
    if not found or "=" in text[found.end() :]:
        return "", text.strip()
    return found[1], text[found.end() :].strip()


def _enclosed(text: str) -> tuple[str, str, str] | None:
    """The brackets that hold all of a text, and what they hold."""
    for opening in _PAIRS:
        if text.startswith(opening):
            closings = (")", "]") if opening in "([" else (_PAIRS[opening],)
            for closing in closings:
                if text.endswith(closing):
                    inside = text[len(opening) : -len(closing)]
                    whole = _balanced(inside)
                    kind = "\\{" if opening in ("\\{", "\\lbrace") else opening
                    return (kind, closing, inside) if whole else None
    return None


def _balanced(text: str) -> bool:
    depth = 0
    for character in text:
        depth += (character in _OPENING) - (character in _CLOSING)
        if depth < 0:
            return False
    return depth == 0


def _split(text: str) -> list[str]:
    """The elements between commas and semicolons that stand in no brackets."""
    items, depth, start = [], 0, 0
    for place, character in enumerate(text):
        depth += (character in _OPENING) - (character in _CLOSING)
        if character in ",;" and depth == 0 and text[place - 1 : place] != "\\":
            items.append(text[start:place].strip())
            start = place + 1
    items.append(text[start:].strip())
    return [item for item in items if item][:MOST]
