"""The name of a study in, the experiments it is made of out."""

import shlex
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import yaml
from pydantic import ValidationError

from conf import files
from conf.keys import needed
from conf.load import ConfigError, load, parsed, refusal
from conf.overrides import written
from conf.refusals import near
from conf.schema import Experiment, Stage
from conf.schema.study import Arm, Study

OF_RUNS = {
    "seed": "seeds says which, as in seeds=[{value}]; every arm is trained with each",
    "name": "an arm's own `name` says what its runs are called",
}
"""What a study gives each of its runs, and what says it."""
OWN = tuple(Study.model_fields)
"""Keys of a study; every other key of a command line is a setting of all its arms."""


@dataclass(frozen=True)
class Run:
    """One arm with one seed.

    Attributes:
        arm: The arm.
        seed: The seed.
        overrides: What makes its experiment of the arm's.
        settings: That experiment, checked.
    """

    arm: Arm
    seed: int
    overrides: tuple[str, ...]
    settings: Experiment

    @cached_property
    def command(self) -> str:
        """What trains and scores this run alone."""
        words = ["python", "-m", "flows.pipeline", f"experiment={self.arm.experiment}"]
        return shlex.join([*words, *self.overrides])

    @property
    def label(self) -> str:
        """What it is called in lines of progress."""
        return f"{self.arm.name} seed {self.seed}"


def load_study(name: str, overrides: Iterable[str] = ()) -> Study:
    """A study of conf/study, with keys of its own replaced and settings of all arms added.

    Args:
        name: Name of a file under conf/study.
        overrides: `seeds=[0,1]` and the like for the study; all else is for every arm.

    Raises:
        ConfigError: there is no such study, or it cannot be used.
    """
    files.check_choice("study", name)
    try:
        with (files.FOLDER / "study" / f"{name}.yaml").open(encoding="utf-8") as file:
            values = yaml.safe_load(file)  # of a stream, so that an error names it
    except (yaml.MarkedYAMLError, yaml.reader.ReaderError, UnicodeDecodeError) as error:
        raise files.broken(error) from error
    if not isinstance(values, dict):
        raise refusal(
            f"conf/study/{name}.yaml: found {values!r:.60}, needed keys and values",
            "docs/studies.md shows a study",
        )
    own, others = _divided(overrides)
    values = {"name": name.replace("/", "-"), **values, **own}
    given = values.setdefault("overrides", [])
    if isinstance(given, list):  # a text would fall apart into its letters
        values["overrides"] = [*given, *others]
    try:
        return Study.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_told(name, own, error)) from error


def runs(study: Study, output: str | None = None) -> list[Run]:
    """Every arm with every seed, arm by arm: neighbours differ in seed, so share no stage.

    Raises:
        ConfigError: an arm's experiment cannot be used; which one is said. Or arms would be scored
            differently, or a target is of a benchmark that no arm is scored on.
    """
    found = []
    for arm in study.arms:
        try:
            lines, settings = _composed(study, arm, output)
        except ConfigError as error:
            raise ConfigError(f"arm {arm.name}: {error}") from error
        found += [
            Run(arm, seed, (*lines, f"seed={seed}"), settings.model_copy(update={"seed": seed}))
            for seed in study.seeds
        ]
    _check_scored_alike(found)
    scored = {one.name for run in found for one in run.settings.evaluation.benchmarks}
    if unknown := sorted(set(study.targets) - scored):
        raise ConfigError(
            f"targets has {', '.join(unknown)}, needed one of {', '.join(sorted(scored))}\n\n"
            "hint: name a set of evaluation.benchmarks; targets={} compares no such cost"
        )
    return found


def _check_scored_alike(found: Sequence[Run]) -> None:
    """Raise ConfigError where scores of two arms would differ by how they are taken."""
    ways = [run.settings.evaluation.model_dump(exclude={"batch_size"}) for run in found]
    for run, way in zip(found, ways, strict=True):
        differing = [key for key, value in way.items() if value != ways[0][key]]
        if differing:
            key = differing[0]
            raise ConfigError(
                f"evaluation.{key} of {found[0].arm.name} is {ways[0][key]!r:.200}, of "
                f"{run.arm.name} {way[key]!r:.200}: needed the same for all arms\n\n"
                "hint: choose one for all of them, as overrides: [evaluation=fastcurl] of the study"
            )


def _composed(study: Study, arm: Arm, output: str | None) -> tuple[list[str], Experiment]:
    """An arm's overrides, all but the seed, and its experiment."""
    lines = [*study.overrides, *arm.overrides]
    for override in parsed(lines):
        key, line = override.key_or_group, override.input_line
        if key in OF_RUNS:
            hint = OF_RUNS[key].format(value=line.partition("=")[2])
            raise refusal(f"found {line!r} among the overrides, which no run would get", hint)
    lines.append(f"name={study.name}-{arm.name}")
    lines += [f"output={written(output)}"] if output else []
    settings = load(f"experiment={arm.experiment}", *lines)
    if arm.stages:
        stages = [_stage(settings.stages, entry, place) for place, entry in enumerate(arm.stages)]
        lines.append(f"stages={written(stages)}")
        settings = load(f"experiment={arm.experiment}", *lines)
    return lines, settings


def _stage(given: Sequence[Stage], entry: dict[str, Any], place: int) -> dict[str, Any]:
    like = entry.get("like")
    if not isinstance(like, int) or not 1 <= like <= len(given):
        found = f"found {like!r}" if "like" in entry else "not there"
        raise refusal(
            f"stages.{place}.like: {found}, needed a number from 1 to {len(given)}",
            "it takes that stage of the arm's experiment, the keys beside it differ; stages of "
            "your own are a file: overrides: [curriculum=mine]",
        )
    stage = {**given[like - 1].model_dump(mode="json"), **entry}
    del stage["like"]
    if "name" not in entry:
        short = stage["context_length"]
        size = f"{short // 1024}k" if short >= 4096 else f"{short}"
        stage["name"] = f"{place + 1}-{stage['prompts']}-{size}"
    return stage


def _divided(overrides: Iterable[str]) -> tuple[dict[str, Any], list[str]]:
    own, others = {}, []
    for override in parsed(overrides):
        key, line = override.key_or_group, override.input_line
        head, _, part = key.partition(".")
        if head in ("overrides", "arms", "experiment"):
            raise ConfigError(
                f"{key}: cannot be set for a study as a whole\n\n"
                "hint: write a file of your own under conf/study"
            )
        if part and head in OWN:
            value = line.partition("=")[2]
            raise refusal(
                f"{key}: found a part of {head}, needed the whole",
                f"as in {head}={{{part}:{value}}}" if head == "targets" else f"set {head} itself",
            )
        if key not in OWN:
            others.append(line)
        elif override.is_sweep_override():
            raise ConfigError(
                f"{key}: found several values in {line!r}, needed one\n\n"
                "hint: several go in brackets, as in seeds=[0,1]"
            )
        else:
            own[key] = override.value()
    return own, others


def _told(name: str, own: dict[str, Any], error: ValidationError) -> str:
    """What is wrong with a study, and where: in its file, or on the command line."""
    facts, hints = [], []
    for fault in error.errors():
        where = ".".join(map(str, fault["loc"])) or "study"
        if fault["type"] == "value_error":
            fact, _, hint = str(fault["ctx"]["error"]).partition("\n\nhint: ")
        elif fault["type"] == "extra_forbidden":
            fact = "no such key"
            hint = near(str(fault["loc"][-1]), {**Study.model_fields, **Arm.model_fields})
        else:
            fact, hint = f"found {fault['input']!r}, needed {needed(fault)}", ""
            if where.endswith("overrides") and isinstance(fault["input"], str):
                hint = f"as in overrides: [{fault['input']}]"
        if not hint and fault["loc"] and fault["loc"][0] in own:
            key = fault["loc"][0]
            usual = Study.model_fields[key].get_default(call_default_factory=True)
            hint = f"as in {key}={written([own[key]] if fault['type'] == 'list_type' else usual)}"
        facts.append(f"{where}: {fact}")
        hints.append(hint or f"look at conf/study/{name}.yaml")
    return "\n".join(facts) + "\n\n" + "\n".join(f"hint: {hint}" for hint in dict.fromkeys(hints))
