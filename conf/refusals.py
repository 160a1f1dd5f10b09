"""The error of settings, and how it suggests a name that was meant."""

from collections.abc import Iterable
from difflib import get_close_matches


class ConfigError(ValueError):
    """Settings that cannot be used: which key, what was found, what was needed, and a hint."""


def refusal(fact: str, hint: str) -> ConfigError:
    """The error of a setting: what was found and needed, and the knob to turn."""
    return ConfigError(f"{fact}\n\nhint: {hint}")


def near(name: str, names: Iterable[str]) -> str:
    """A question that suggests near names, or nothing.

    >>> near("fastcrl", ["lab/fastcurl", "grpo"])
    'did you mean lab/fastcurl?'
    """
    names = list(names)
    # `fastcrl` is to find `lab/fastcurl` too, hence the comparison by last part.
    last = {full: full.rsplit("/", 1)[-1] for full in names}
    matches = get_close_matches(name, names, n=3)
    for part in get_close_matches(name.rsplit("/", 1)[-1], last.values(), n=3):
        matches += [full for full in names if last[full] == part and full not in matches]
    return f"did you mean {' or '.join(matches)}?" if matches else ""
