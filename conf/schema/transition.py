"""When a stage ends before its last step: enough learned, or collapsed."""

from typing import Literal

from pydantic import model_validator

from conf.schema.knobs import Knobs, knob

Metric = Literal[
    "truncated_share",
    "reward/mean",
    "correct/mean",
    "zero_variance_share",
    "entropy",
    "response_length/mean",
    "grad_norm",
]
KINDS = ("below", "above", "plateau", "drop")


class Condition(Knobs):
    """A bound on a training metric, averaged over a window of steps. One bound is set."""

    metric: Metric = knob("reward/mean", "What is looked at, recorded at every step.", "metric")
    below: float | None = knob(None, "Holds when the mean of the window is below this.", "metric's")
    above: float | None = knob(None, "Holds when the mean of the window is above this.", "metric's")
    plateau: float | None = knob(
        None,
        "Holds when the mean of the window exceeds that of the window before by less than this.",
        "metric's",
    )
    drop: float | None = knob(
        None,
        "Holds when the mean of the window is lower than the best window before by more than this.",
        "metric's",
        gt=0,
    )
    window: int = knob(20, "Steps that are averaged.", "steps", gt=0)
    min_steps: int = knob(0, "Steps of the stage before it is looked at.", "steps", ge=0)

    @model_validator(mode="after")
    def _one_bound(self) -> "Condition":
        given = [kind for kind in KINDS if getattr(self, kind) is not None]
        if len(given) != 1:
            raise ValueError(
                f"found {' and '.join(given) or 'no bound'} on {self.metric}, needed one of "
                f"{', '.join(KINDS)}\n\nhint: two bounds are two conditions"
            )
        return self

    @property
    def kind(self) -> str:
        """Which bound is set."""
        return next(kind for kind in KINDS if getattr(self, kind) is not None)

    @property
    def first(self) -> int:
        """The first step after which it can hold."""
        windows = 2 if self.kind in ("plateau", "drop") else 1
        return max(self.min_steps, windows * self.window)


class Transition(Knobs):
    """When to go on to the next stage. Looks at training metrics alone, never at a test set."""

    policy: Literal["fixed", "any", "all"] = knob(
        "fixed",
        "fixed: after the stage's steps; any, all: as soon as any or all of `when` hold, and after "
        "the stage's steps at the latest.",
        "choice",
    )
    when: list[Condition] = knob(list, "What ends the stage.", "conditions")

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "Transition":
        if self.policy == "fixed" and self.when:
            raise ValueError(
                "when has conditions, but policy is fixed, so nothing would look at them\n\n"
                "hint: set policy=any or policy=all"
            )
        if self.policy != "fixed" and not self.when:
            raise ValueError(
                f"policy is {self.policy}, but when has no conditions\n\n"
                "hint: as in when=[{metric:truncated_share,below:0.05,window:20}]"
            )
        return self


class Alarm(Knobs):
    """When to stop a stage as collapsed, at its last checkpoint of before."""

    not_finite: bool = knob(
        True, "A loss, gradient norm, entropy or reward that is NaN or infinite.", "switch"
    )
    when: list[Condition] = knob(list, "Any of these, too.", "conditions")
