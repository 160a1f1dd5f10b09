"""Servers of this machine are asked directly: through a proxy they can't be reached."""

from collections.abc import Mapping

HERE = ("127.0.0.1", "localhost")


def exempted(environment: Mapping[str, str]) -> dict[str, str]:
    """What exempts this machine from a proxy, beside what is exempted already.

    In both spellings: where both are set, some programs look at one alone, some at the other.

    Args:
        environment: Where a proxy and its exemptions may be set.

    Returns:
        Variables to add to it.
    """
    upper, lower = environment.get("NO_PROXY", ""), environment.get("no_proxy", "")
    return {"NO_PROXY": _with_here(upper or lower), "no_proxy": _with_here(lower or upper)}


def _with_here(given: str) -> str:
    if given.strip() == "*":  # everything is, and beside other names it would not be understood
        return given
    names = [name.strip() for name in given.split(",") if name.strip()]
    return ",".join([*names, *(name for name in HERE if name not in names)])
