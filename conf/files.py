"""The YAML files under conf/: their names, and what is wrong in one."""

import re
from pathlib import Path

import yaml

from conf.refusals import ConfigError, near, refusal

FOLDER = Path(__file__).parent
GROUPS = (
    "experiment", "curriculum", "method", "reward", "selection", "data", "gates", "model",
    "hardware", "evaluation", "notes",
)  # fmt: skip
PACKAGE = "# @package _global_"
# A name that is none of a file here, but of a file elsewhere, a function or a model.
ELSEWHERE = re.compile(r"[./~].*|.*:\w+|.*\.(py|parquet|jsonl?|csv)")
INSTEAD = {
    "data": "data.train.kind=file data.train.path={}",
    "model": "model.path={}",
    "reward": "reward.function={}",
    "method": "method.advantage={}",
    "evaluation": "'evaluation.benchmarks=[{{name:mine,kind:file,path:{}}}]'",
}


def choices(group: str) -> list[str]:
    """Names of the YAML files of a group, such as `lab/fastcurl` for `experiment`."""
    files = (FOLDER / group).rglob("*.yaml")
    return sorted(file.relative_to(FOLDER / group).with_suffix("").as_posix() for file in files)


def check_choice(group: str, name: str, where: str = "") -> None:
    """Refuse the name of a file that the group does not have.

    Args:
        group: A folder under conf/.
        name: What was chosen of it.
        where: The file that chose it; none: the command line did.

    Raises:
        ConfigError: with near names, or with what would name the file or model that was meant.
    """
    names = choices(group)
    if name in names:
        return
    bare = name.removeprefix("conf/").removeprefix(f"{group}/").removesuffix(".yaml")
    outside = ELSEWHERE.fullmatch(name) or (group == "model" and "/" in name)
    if bare in names:
        hint = f"did you mean {bare}?"
    elif not name or name == "None":
        hint = "name one of them"
    elif name[0] in "{[":
        hint = f"{group}= names a file under conf/{group}; a knob is set as in {group}.KEY=VALUE"
    elif inside := [one for one in names if one.startswith(f"{bare.rstrip('/')}/")]:
        hint = f"{bare} is a folder: did you mean {' or '.join(inside[:3])}?"
    elif outside and group in INSTEAD and not name.endswith(".yaml"):
        hint = f"{INSTEAD[group].format(name)}; {group}= names a file under conf/{group}"
    elif outside:
        hint = f"{group}= names a file under conf/{group}, without its .yaml"
    else:
        hint = near(bare, names) or f"write conf/{group}/{bare}.yaml"
    at = f"{where}: " if where else ""
    raise refusal(f"{at}{group}: found {name!r}, needed {some(group)}", hint)


def some(group: str) -> str:
    """What may be chosen of a group: its names, or how many there are and what lists them."""
    names = choices(group)
    if len(names) <= 20 or group not in GROUPS:
        return f"one of {', '.join(names)}"
    return f"one of the {len(names)} that python -m conf.load --help {group} lists"


def check_defaults(message: str, chosen: str = "...") -> None:
    """Refuse what Hydra found wrong in the `defaults` of a file.

    Args:
        message: Hydra's.
        chosen: The experiment, whose file it is where Hydra names none.

    Raises:
        ConfigError: which file, which line of it, and what was needed. Other messages pass.
    """
    if merged := re.match(r"In '(.+?)': .*\s*Cannot merge DictConfig with ListConfig", message):
        raise refusal(
            f"conf/{merged[1]}.yaml: found keys for a part of a list, needed the whole list",
            "a file gives all stages or benchmarks, an override one: stages.0.steps=20",
        )
    if unread := re.match(r"In '(.+?)': Could not load '(.+?)'\.", message):
        raise refusal(
            f"conf/{unread[1]}.yaml: found {Path(unread[2]).name!r} in its defaults, needed the "
            "name of a file",
            "write - override /group: file, with a colon",
        )
    place = re.match(r"In '(.+?)': Could not (?:find|override) '(.+?)'", message)
    twice = re.match(r"Multiple values for (\w+)\. .*'override \w+: (.+)'", message)
    if not (place or twice):
        return
    within, found = place.groups() if place else ("config", "/".join(twice.groups()))
    where = f"conf/{within if within != 'config' else f'experiment/{chosen}'}.yaml"
    # Without a slash before it, Hydra looks for a group beside the file.
    beside = f"{within.rpartition('/')[0]}/"
    group, _, name = found.removeprefix(beside).partition("@")[0].partition("/")
    if group not in GROUPS:
        hint = near(group, GROUPS) or f"the groups are {', '.join(GROUPS)}"
        raise refusal(f"{where}: found {group!r} in its defaults, needed a folder of conf/", hint)
    if "@" in found and within not in ("config", f"experiment/{chosen}"):
        raise refusal(
            f"conf/experiment/{chosen}.yaml: its defaults take {within} in under a key of its own, "
            "needed at the top, where an experiment's settings are",
            f"write - /{within}@_global_",
        )
    if place and name and not found.startswith(beside):
        check_choice(group, name, where)
    raise refusal(
        f"{where}: its defaults choose {group} beside the one of conf/config.yaml, needed "
        "`override` and a slash",
        f"write - override /{group}: {name or '...'}",
    )


def broken(
    error: yaml.MarkedYAMLError | yaml.reader.ReaderError | UnicodeDecodeError,
) -> ConfigError:
    """The refusal of a file that is no YAML, with the line at which reading it ended."""
    if isinstance(error, UnicodeDecodeError):
        return _no_utf_8(error)
    if isinstance(error, yaml.reader.ReaderError):
        return refusal(
            f"{_named(Path(error.name))}: found a character of code {error.character}, which no "
            "YAML has, needed text",
            "write the file anew, or take the character out",
        )
    mark = error.problem_mark
    return refusal(
        f"{_named(Path(mark.name))}, line {mark.line + 1}: {error.problem}, needed YAML",
        "look at colons, brackets and indentation in that line and the one before",
    )


def unreadable(error: ValueError) -> ConfigError:
    """The refusal of a file whose first lines or `defaults` Hydra cannot take."""
    message = str(error)
    if header := re.search(r"'(@package.*)'", message):
        line = re.compile(rf"^\s*#\s*{re.escape(header[1])}\s*$", re.M)
        found = (
            file for file in sorted(FOLDER.rglob("*.yaml")) if line.search(file.read_text("utf-8"))
        )
        where = " or ".join(str(_named(file)) for file in found)
        return refusal(f"{where}: found {header[1]!r}, needed {PACKAGE} alone", "mend that line")
    if found := re.match(r"Invalid defaults list in '(.+?)'", message):
        return refusal(
            f"conf/{found[1]}.yaml: found defaults that are no list, needed one",
            "write a line for each: - override /group: file",
        )
    return refusal(message, f"look at the files under {FOLDER}")


def _no_utf_8(error: UnicodeDecodeError) -> ConfigError:
    # The error knows what was read, not from where.
    for file in sorted(FOLDER.rglob("*.yaml")):
        content = file.read_bytes()
        if error.object in content:
            start = content.index(error.object) + error.start
            line = content.count(b"\n", 0, start) + 1
            return refusal(
                f"{_named(file)}, line {line}: found the byte 0x{content[start]:02x}, which is no "
                "UTF-8, needed a file in UTF-8",
                "save it as UTF-8 in your editor, or write the letter without its accent",
            )
    return refusal(str(error), f"save the files under {FOLDER} as UTF-8")


def _named(file: Path) -> Path:
    inside = file.is_relative_to(FOLDER.parent)
    return file.relative_to(FOLDER.parent) if inside else file


def without_package() -> list[str]:
    """The curricula that set `curriculum.stages`, which nothing reads, in place of `stages`."""
    files = (FOLDER / "curriculum" / f"{name}.yaml" for name in choices("curriculum"))
    return [
        file.relative_to(FOLDER.parent).as_posix()
        for file in files
        if not re.match(r"(\s*#\s*@.*\n)*?\s*#\s*@package\s+_global_\s", file.read_text("utf-8"))
    ]
