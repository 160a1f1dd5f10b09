"""What a graded rollout is worth, and what grading may cost."""

from typing import Literal

from pydantic import model_validator

from conf.schema.knobs import Knobs, Value, knob


class Reward(Knobs):
    """What a rollout is worth. Correctness is recorded beside it, whatever is set here.

    The conventions of grading (order of lists, percent, rounding, units) are those of
    `trainer.grading.cascade`.
    """

    name: str = knob("deepscaler", "Name of the reward, for tables.", "name")
    function: str = knob(
        "",
        "A function of yours that makes a reward of a graded rollout, module:function or "
        "file.py:function; none: the values below.",
        "function",
        exclude_if=lambda name: not name,  # what does not set it keeps the digest of before
    )
    function_settings: dict[str, Value] = knob(
        dict,
        "Its own settings, by the names of its arguments.",
        "settings",
        exclude_if=lambda settings: not settings,
    )
    right: float = knob(1.0, "Reward of a right response.", "reward")
    wrong: float = knob(0.0, "Reward of a wrong response.", "reward")
    malformed: float = knob(
        0.0, "Reward of a response without an answer in the form asked for.", "reward"
    )
    must_end: bool = knob(
        False,
        "A response that was cut off is worth `malformed`, even if its answer is right.",
        "switch",
        exclude_if=lambda must: not must,  # what does not set it keeps the digest of before
    )
    think: Literal["required", "optional"] = knob(
        "required",
        "required: both think tags, the first may be in the chat template; optional: a thought "
        "that was opened must be closed.",
        "choice",
    )
    boxed: bool = knob(True, "Only an answer in \\boxed{} counts.", "switch")
    overlong_share: float = knob(
        0.0, "End of the context over which the penalty grows; 0: none.", "share", ge=0, lt=1
    )
    overlong_penalty: float = knob(
        1.0, "What a response that fills the context loses, with a share.", "reward", ge=0
    )
    seconds: float = knob(3.0, "Longest comparison of one answer.", "seconds", gt=0, le=60)
    memory: int = knob(1024, "Memory that comparing one answer may take.", "MiB", ge=64)
    workers: int = knob(
        0,
        "Comparing processes on a machine, started when first needed; 0: a core each.",
        "processes",
        ge=0,
    )

    @model_validator(mode="after")
    def _penalty_has_a_share(self) -> "Reward":
        if not self.overlong_share and "overlong_penalty" in self.model_dump(exclude_defaults=True):
            raise ValueError(
                f"found overlong_penalty {self.overlong_penalty} and overlong_share 0, over which "
                "nothing is lost, needed a share above 0\n\n"
                "hint: set overlong_share, as in 0.2, or leave overlong_penalty out"
            )
        return self
