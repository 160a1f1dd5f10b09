"""A function by its name in the settings: one that ships with Stagecraft, or one of the user's.

`module:function` is imported, `path/file.py:function` is read from that file. There is no registry:
the name is the registration.
"""

import hashlib
import inspect
import os
import sys
from collections.abc import Callable, Collection, Mapping
from difflib import get_close_matches
from importlib import import_module
from importlib.metadata import packages_distributions, version
from importlib.util import module_from_spec, spec_from_file_location
from pathlib import Path
from types import ModuleType


def find(name: str, ours: Mapping[str, Callable]) -> Callable:
    """The function of that name.

    Args:
        name: A key of `ours`, or `module:function`, or `file.py:function`.
        ours: Those that ship with Stagecraft.

    Raises:
        ValueError: there is none, or its module or file cannot be loaded.

    >>> find("math:hypot", {})(3, 4)
    5.0
    """
    place, _, attribute = name.rpartition(":")
    if not place:
        if name not in ours:
            near = get_close_matches(name, ours, n=1)
            shipped = f"one of {', '.join(ours)}, or " if ours else ""
            raise ValueError(
                f"found {name!r}, needed {shipped}module:function, or file.py:function\n\n"
                + (f"hint: did you mean {near[0]}?" if near else "hint: see docs/method.md")
            )
        return ours[name]
    try:
        module = (
            _read(Path(os.path.expanduser(place)))
            if place.endswith(".py")
            else import_module(place)
        )
    except Exception as error:  # the user's own code: whatever it raises is told
        raise ValueError(
            f"{place} cannot be loaded: {type(error).__name__}: {error}\n\n"
            "hint: the part before the colon is a module on the path, or a file that ends in .py"
        ) from error
    function = getattr(module, attribute, None)
    if not callable(function):
        raise ValueError(
            f"{place} has no function {attribute!r}\n\nhint: look at the part after the colon"
        )
    return function


def absolute(name: str) -> str:
    """The name with its file, if it has one, as an absolute path: for another folder's process.

    >>> absolute("grpo"), absolute("math:hypot")
    ('grpo', 'math:hypot')
    """
    place, _, attribute = name.rpartition(":")
    return (
        f"{Path(os.path.expanduser(place)).resolve()}:{attribute}"
        if place.endswith(".py")
        else name
    )


def source(name: str) -> str:
    """A name that says what is computed: a file's contents in place of its path.

    A module of the user's is looked for and not imported: it counts by its name and its file's
    contents, or by the version it was installed in where it has no source. What such a file
    imports does not count. Our own modules keep their names, as the functions that ship do: a
    change of theirs raises `tasks.stages.TRAINER_VERSION`.

    >>> source("grpo"), source("trainer.losses:clip"), source("math:hypot")
    ('grpo', 'trainer.losses:clip', 'math:hypot')
    """
    place, _, attribute = name.rpartition(":")
    if place.endswith(".py"):
        file = Path(os.path.expanduser(place))
        return f"{_contents(file)}:{attribute}" if file.is_file() else name
    if not place:
        return name
    file = _file_of(place)
    if file and file.is_relative_to(Path(__file__).parent):
        return name
    if file and file.suffix == ".py" and file.is_file():
        return f"{_contents(file)}:{name}"
    return f"{found}:{name}" if (found := _installed(place)) else name


def check_arguments(
    function: Callable, settings: Mapping[str, object], given: Collection[str], knob: str
) -> None:
    """Refuse settings that a function does not take, and missing ones that it needs.

    Args:
        function: What they are for.
        settings: By name of argument.
        given: Names of arguments that are not the user's to set.
        knob: Where they were set, for the message.

    Raises:
        ValueError: for the first that is wrong.

    >>> check_arguments(round, {"digits": 2}, ["number"], "rounding")
    Traceback (most recent call last):
    ValueError: rounding: found digits, which round does not take; needed one of ndigits
    <BLANKLINE>
    hint: did you mean ndigits?
    """
    name = getattr(function, "__name__", "the function")
    arguments = inspect.signature(function).parameters
    own = {
        key: argument
        for key, argument in arguments.items()
        if key not in given and argument.kind not in (argument.VAR_KEYWORD, argument.VAR_POSITIONAL)
    }
    for key in settings:
        if key not in own:
            near = get_close_matches(key, own, n=1)
            raise ValueError(
                f"{knob}: found {key}, which {name} does not take; needed "
                + (f"one of {', '.join(own)}" if own else "none")
                + "\n\n"
                + (f"hint: did you mean {near[0]}?" if near else f"hint: take {key} out")
            )
    for key, argument in own.items():
        if argument.default is argument.empty and key not in settings:
            raise ValueError(
                f"{knob}: found no {key}, which {name} needs\n\nhint: set {knob}.{key}"
            )


def _contents(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()[:16]


def _file_of(module: str) -> Path | None:
    """Where a module comes from. The packages that it lies in are not imported either."""
    found, where = None, None
    for part in module.split("."):
        name = f"{found.name}.{part}" if found else part
        looks = (finder.find_spec(name, where) for finder in sys.meta_path if part)
        found = next(filter(None, looks), None)
        where = found and found.submodule_search_locations
        if where is None:
            break
    return Path(found.origin) if found and found.name == module and found.origin else None


def _installed(module: str) -> str:
    """The distributions that a module is installed by, with their versions; or ""."""
    names = packages_distributions().get(module.partition(".")[0], ())
    return " ".join(f"{name}=={version(name)}" for name in sorted(set(names)))


def _read(path: Path) -> ModuleType:
    key = f"stagecraft_user_{hashlib.sha256(str(path.resolve()).encode()).hexdigest()[:16]}"
    specification = spec_from_file_location(key, path)
    module = module_from_spec(specification)
    sys.modules[key] = module  # before it runs: dataclasses look themselves up there
    try:
        specification.loader.exec_module(module)
    except BaseException:
        del sys.modules[key]
        raise
    return module
