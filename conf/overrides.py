"""Words of a command line, and values as Hydra's grammar of overrides reads them.

Text only: importing it costs nothing.
"""

import re
from collections.abc import Sequence
from typing import Any


def asked(words: Sequence[str]) -> str | None:
    """The part of the settings that a command line asks about; None if it asks for no help.

    >>> asked(["a=1", "--help", "stages"]), asked(["-h"]), asked(["a=1"])
    ('stages', '', None)
    """
    places = [place for place, word in enumerate(words) if word in ("-h", "--help")]
    return "".join(words[places[0] + 1 :][:1]) if places else None


def written(value: Any) -> str:
    r"""A value as the right side of an override that Hydra reads back as this value.

    Texts are quoted; a plain path stands as it is. The one text that has no such form is `???`,
    which means a missing value.

    >>> print(written("/data/out"), written("/data/R&D's"), written([1, None, {"a": True}]))
    /data/out '/data/R&D\'s' [1,null,{a:true}]
    """
    if value is None:
        return "null"
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, list):
        return "[" + ",".join(map(written, value)) + "]"
    if isinstance(value, dict):
        return "{" + ",".join(f"{key}:{written(each)}" for key, each in value.items()) + "}"
    return _quoted(value) if isinstance(value, str) else repr(value)


def _quoted(text: str) -> str:
    if re.fullmatch(r"[\w./-]*/[\w./-]*", text, re.ASCII):  # with a slash it is no number
        return text
    # OmegaConf takes ${ for a reference, unless an odd number of backslashes stands before it.
    text = re.sub(r"(\\*)\$\{", r"\1\1\\${", text)
    # Hydra takes a backslash for one of two only before a quote, its own last one included.
    return "'" + re.sub(r"(\\*)('|$)", lambda at: at[1] * 2 + ("\\'" if at[2] else ""), text) + "'"
