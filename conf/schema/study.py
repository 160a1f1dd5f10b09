"""A study: experiments that differ in one thing, each with several seeds, compared."""

from typing import Any

from pydantic import model_validator

from conf.schema.knobs import NAME, SEEDS, Knobs, knob


class Arm(Knobs):
    """One of the things compared."""

    name: str = knob("arm", "Name of the arm, unique in the study.", "name", pattern=NAME)
    about: str = knob("", "What it is, in a few words, for tables.", "text")
    experiment: str = knob("lab/fastcurl", "Experiment it is a variant of.", "experiment")
    overrides: list[str] = knob(list, "What differs from that experiment.", "overrides")
    stages: list[dict[str, Any]] = knob(
        list,
        "Its curriculum, where the experiment's own does not do: `like` names the experiment's "
        "stage, counted from 1, that is taken; other keys differ from it.",
        "stages",
    )
    published: dict[str, float] = knob(
        dict, "Scores printed by the paper, by benchmark; `average` is their mean.", "fractions"
    )
    source: str = knob("", "Where those were printed, and how measured.", "citation")


class Study(Knobs):
    """Arms by seeds, what they are compared on, and what is asked."""

    name: str = knob("study", "Name of the study.", "name", pattern=NAME)
    question: str = knob("", "What it is to answer, in a sentence.", "text")
    arms: list[Arm] = knob(lambda: [Arm()], "What is compared.", "arms", min_length=1)
    baseline: str = knob("", "Arm that the others are compared with; none: the first.", "arm")
    seeds: list[int] = knob(
        lambda: [0, 1, 2], "Seeds that every arm is trained with.", "seeds", min_length=1
    )
    overrides: list[str] = knob(list, "Settings of all arms.", "overrides")
    targets: dict[str, float] = knob(
        dict, "Accuracy whose cost is compared, by benchmark.", "fractions"
    )
    parallel: int = knob(
        1, "Runs at the same time; on GPUs each gets as many of its own as it has ranks.", "runs",
        gt=0,
    )  # fmt: skip
    level: float = knob(
        0.95, "Confidence of intervals; 1 - level is the chance of error of the verdicts.",
        "probability", gt=0.5, lt=1,
    )  # fmt: skip

    @model_validator(mode="after")
    def _names_fit(self) -> "Study":
        names = [arm.name for arm in self.arms]
        twice = sorted({name for name in names if names.count(name) > 1})
        if twice:
            raise ValueError(f"arms has {twice[0]!r} twice\n\nhint: give each a name of its own")
        if self.baseline and self.baseline not in names:
            raise ValueError(
                f"baseline is {self.baseline!r}, needed one of {', '.join(names)}\n\n"
                "hint: name one of the arms"
            )
        if len(set(self.seeds)) < len(self.seeds):
            raise ValueError(
                f"seeds are {self.seeds}, one of them twice\n\nhint: it would count one run twice"
            )
        for seed in self.seeds:
            if not SEEDS["ge"] <= seed <= SEEDS["le"]:
                raise ValueError(
                    f"seeds has {seed}\n\nhint: seeds are {SEEDS['ge']} to {SEEDS['le']}"
                )
        for benchmark, target in self.targets.items():
            if not 0 < target < 1:
                raise ValueError(
                    f"targets has {benchmark}: {target}, needed a fraction between 0 and 1\n\n"
                    "hint: 0.8 is 80 %"
                )
        return self

    @property
    def reference(self) -> Arm:
        """The arm that the others are compared with."""
        return next((arm for arm in self.arms if arm.name == self.baseline), self.arms[0])
