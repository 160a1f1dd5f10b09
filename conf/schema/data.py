"""The training problems: where they come from, and their division into prompt sets."""

from itertools import pairwise
from typing import Annotated, Literal

from pydantic import Field, model_validator

from conf.schema.knobs import NAME, SEEDS, Knobs, knob, not_read

Characters = Annotated[int, Field(gt=0)]
Share = Annotated[float, Field(ge=0, le=1)]


# Which kinds read a knob.
_READ_BY = {
    "path": ("file", "hub"),
    "files": ("hub",),
    "mirror": ("hub",),
    "revision": ("hub",),
    "columns": ("file", "hub"),
}
# Files of conf/data set these for their own kind or rule, and they are left over where the command
# line gives another: only what the command line sets itself is refused.
_LEFT_OVER = {"rows": ("lab",), "split": ("lab", "hub"), "seed": ("lab",)}
_LEFT_OVER_BY_RULE = {"threshold": ("length",), "length_of": ("length",)}
_READ_BY_RULE = {
    "quantiles": ("tokens",),
    "bands": ("pass_rate",),
    "model": ("pass_rate",),
    "model_revision": ("pass_rate",),
    "samples": ("pass_rate",),
    "temperature": ("pass_rate",),
    "top_p": ("pass_rate",),
    "context_length": ("pass_rate",),
}


class Source(Knobs):
    """Where a set of problems comes from."""

    name: str = knob(
        "train",
        "Name of the set, used in folders, tables and metric names; a test set needs its own.",
        "name",
        pattern=NAME,
    )
    kind: Literal["lab", "hub", "file"] = knob(
        "lab", "lab: made by seeded code; hub: a Hugging Face dataset; file: local files.", "choice"
    )
    path: str | list[str] = knob(
        "", "hub: dataset name; file: one or several parquet, json or jsonl files.", "path"
    )
    files: list[str] = knob(
        list, "hub: files of the repository to read; none: those its card names.", "paths"
    )
    revision: str = knob("main", "hub: commit, tag or branch to read.", "git revision")
    mirror: str = knob(
        "", "hub: folder laid out like the Hub's cache, read instead of the network.", "path"
    )
    split: str = knob(
        "train", "hub: split to read; lab: `train` or `test`, never overlapping.", "name"
    )
    format: Literal[
        "auto",
        "chat",
        "plain",
        "areal",
        "capitals",
        "conversation",
        "dapo",
        "knights",
        "math",
        "numina",
        "olympiad",
    ] = knob("auto", "Columns that upstream has, see tasks/adapters; auto: by their names.", "name")
    columns: dict[Literal["question", "answer", "source", "index", "level"], str] = knob(
        dict,
        "Where a file calls its columns otherwise: ours to its, no others are read, such as "
        "{question:input,answer:target}; see docs/data.md.",
        "names",
        # What does not set it keeps the digest that it had before there was this knob.
        exclude_if=lambda columns: not columns,
    )
    rows: int = knob(2048, "lab: problems to make.", "problems", gt=0)
    held_out: int = knob(
        0, "Questions that are kept back for evaluation; 0: none.", "questions", ge=0
    )
    part: Literal["rest", "held_out"] = knob(
        "rest", "With held_out: this set is what is left, or what is kept back.", "choice"
    )
    seed: int = knob(0, "Seed of the lab's problems, and of which are held out.", "seed", **SEEDS)

    @model_validator(mode="after")
    def _kind_reads_what_is_set(self) -> "Source":
        given = self.model_dump(exclude_defaults=True)
        for key, kinds in _READ_BY.items():
            if key in given and self.kind not in kinds:
                raise ValueError(not_read(key, given[key], "kind", self.kind, kinds))
        if self.kind == "hub" and not (self.path and isinstance(self.path, str)):
            raise ValueError(
                f"found kind=hub with path {self.path!r}, needed the name of one dataset"
                "\n\nhint: set path to it, as in owner/name; files says which of its files"
            )
        return self

    def unread(self, key: str) -> str:
        """Why `rows`, `split` or `seed` has no effect, or ""."""
        kinds = _LEFT_OVER.get(key, (self.kind,))
        if self.kind in kinds or (key == "seed" and self.held_out):
            return ""
        return not_read(key, getattr(self, key), "kind", self.kind, kinds)

    @model_validator(mode="after")
    def _columns_make_problems(self) -> "Source":
        if not self.columns:
            return self
        if not {"question", "answer"} <= self.columns.keys() or not all(self.columns.values()):
            raise ValueError(
                f"found columns {self.columns}, needed one for question and one for answer"
                "\n\nhint: as in columns={question:input,answer:target}"
            )
        if self.format not in ("auto", "plain"):
            raise ValueError(
                f"found columns and format={self.format}, needed one of the two"
                "\n\nhint: leave format out"
            )
        return self

    @model_validator(mode="after")
    def _part_is_there(self) -> "Source":
        if self.part == "held_out" and not self.held_out:
            raise ValueError(
                f"{self.name} is the held-out part of a set that holds nothing out\n\n"
                "hint: set held_out to the number of questions, here and in the training set"
            )
        return self


def named(sources: list[Source]) -> list[Source]:
    """Sources of which each was given a name of its own.

    Raises:
        ValueError: one has none, or that of another.
    """
    for source in sources:
        if "name" not in source.model_fields_set:
            raise ValueError(
                f"found a set without a name (kind={source.kind}, path={source.path!r}), needed "
                "one for folders, tables and metrics\n\nhint: as in {name:my_test,kind:file,...}"
            )
    names = [source.name for source in sources]
    twice = [name for name in dict.fromkeys(names) if names.count(name) > 1]
    if twice:
        raise ValueError(
            f"found {names.count(twice[0])} sets of the name {twice[0]!r}, needed one\n\n"
            "hint: give each its own name"
        )
    return sources


class Segmentation(Knobs):
    """How the training set is divided into prompt sets, which stages use by name.

    | rule      | prompt sets, the easiest first where difficulty is known            |
    |-----------|---------------------------------------------------------------------|
    | length    | L1 (short), L2 (all), L3 (long): FastCuRL's                         |
    | tokens    | Q1 (shortest) ... Qn, and `all`                                     |
    | level     | level1, level2, ... as far as the set has them, and `all`           |
    | pass_rate | P1 (lowest pass rates, the hardest) ... Pn, and `all`               |
    | whole     | `all` alone                                                         |
    """

    rule: Literal["length", "tokens", "level", "pass_rate", "whole"] = knob(
        "length", "What decides which prompt set a problem belongs to.", "choice"
    )
    length_of: Literal["raw_question", "repr_chat"] = knob(
        "raw_question",
        "length: the question without the instruction, or str() of the chat list.",
        "choice",
    )
    threshold: Characters | Literal["mean"] = knob(
        "mean", "length: longest prompt of L1; mean: the rounded mean of the set.", "characters"
    )
    quantiles: list[Share] = knob(
        lambda: [0.5], "tokens: shares of the set at which it is cut.", "shares", min_length=1
    )
    bands: list[Share] = knob(
        lambda: [0.0, 0.2, 0.8, 1.0],
        "pass_rate: edges of the bands, low included and high not, but in the last.",
        "pass rates",
        min_length=2,
    )
    names: list[Annotated[str, Field(pattern=NAME)]] = knob(
        list, "tokens, pass_rate: names of the prompt sets in place of Q1..., P1....", "names"
    )
    model: str = knob(
        "", "pass_rate: model that is measured, folder or Hub name; none: the base.", "path"
    )
    model_revision: str = knob("main", "pass_rate: Hub commit, tag or branch.", "git revision")
    samples: int = knob(8, "pass_rate: rollouts per problem.", "rollouts", gt=0)
    temperature: float = knob(0.6, "pass_rate: sampling temperature.", "1", gt=0)
    top_p: float = knob(1.0, "pass_rate: nucleus.", "probability", gt=0, le=1)
    context_length: int = knob(8192, "pass_rate: longest response.", "tokens", gt=0)

    @model_validator(mode="after")
    def _edges_rise(self) -> "Segmentation":
        for key in ("quantiles", "bands"):
            edges = getattr(self, key)
            if any(low >= high for low, high in pairwise(edges)):
                raise ValueError(
                    f"{key} are {edges}, needed numbers that rise\n\nhint: sort them, each once"
                )
        if self.bands[0] != 0 or self.bands[-1] != 1:
            raise ValueError(
                f"bands go from {self.bands[0]} to {self.bands[-1]}, needed 0 to 1\n\n"
                "hint: every pass rate has to fall into a band"
            )
        sets = {"tokens": len(self.quantiles) + 1, "pass_rate": len(self.bands) - 1}
        wanted = sets.get(self.rule, 0)
        if self.names and (len(self.names) != wanted or len({*self.names, "all"}) != wanted + 1):
            raise ValueError(
                f"names are {self.names}, needed {wanted} different ones, none of them 'all', for "
                f"rule {self.rule!r}\n\nhint: leave names out to have them numbered"
            )
        return self

    @model_validator(mode="after")
    def _rule_reads_what_is_set(self) -> "Segmentation":
        given = self.model_dump(exclude_defaults=True)
        for key, rules in _READ_BY_RULE.items():
            if key in given and self.rule not in rules:
                raise ValueError(not_read(key, given[key], "rule", self.rule, rules))
        return self

    def unread(self, key: str) -> str:
        """Why `threshold` or `length_of` has no effect, or ""."""
        rules = _LEFT_OVER_BY_RULE.get(key, (self.rule,))
        return (
            ""
            if self.rule in rules
            else not_read(key, getattr(self, key), "rule", self.rule, rules)
        )

    @property
    def whole(self) -> str:
        """Name of the prompt set that has every problem."""
        return "L2" if self.rule == "length" else "all"

    @property
    def labels(self) -> list[str] | None:
        """Names of the prompt sets; None where the data decides them."""
        if self.rule == "length":
            return ["L1", "L2", "L3"]
        if self.rule == "level":
            return None
        if self.rule == "tokens":
            parts = self.names or [f"Q{i + 1}" for i in range(len(self.quantiles) + 1)]
        elif self.rule == "pass_rate":
            parts = self.names or [f"P{i + 1}" for i in range(len(self.bands) - 1)]
        else:
            parts = []
        return [*parts, "all"]


class Data(Knobs):
    """The training problems and their division into prompt sets."""

    train: Source = knob(Source, "The training set.", "source")
    instruction: str = knob(
        "Let's think step by step and output the final answer within \\boxed{}.",
        "Instruction that ends each prompt; it is taken off where lengths are of the raw question.",
        "text",
    )
    segmentation: Segmentation = knob(Segmentation, "Division into prompt sets.", "rule")
    unanswerable: Literal["refuse", "keep"] = knob(
        "refuse",
        "Problems without an answer to grade by: refuse to start, or keep them, never right.",
        "choice",
    )
    max_prompt_length: int = knob(
        1024, "Longest prompt admitted, chat template included.", "tokens", gt=0
    )
