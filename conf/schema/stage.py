"""One stage of a curriculum."""

from typing import Literal

from pydantic import model_validator

from conf.schema.knobs import NAME, Knobs, knob
from conf.schema.transition import Alarm, Transition


class Stage(Knobs):
    """One stretch of training at one context length on one prompt set.

    Starts from the checkpoint of the stage before, with a fresh data cursor.
    """

    name: str = knob("stage", "Name of the stage, unique in the curriculum.", "name", pattern=NAME)
    prompts: str = knob(
        "L2",
        "Prompt set to train on, a name that data.segmentation gives.",
        "segment",
        pattern=NAME,
    )
    drop_solved: float | None = knob(
        None,
        "Leave out prompts whose pass rate was at least this when the stage before sampled them "
        "last, whether or not it trained on them.",
        "pass rate",
        gt=0,
        le=1,
    )
    drop_hopeless: float | None = knob(
        None, "Leave out prompts whose pass rate there was at most this.", "pass rate", ge=0, lt=1
    )
    context_length: int = knob(8192, "Longest response.", "tokens", gt=0)
    steps: int = knob(
        100, "Training steps (batches of prompt groups); at most, with a transition.", "steps", gt=0
    )
    transition: Transition = knob(Transition, "When it ends before its last step.", "group")
    alarm: Alarm = knob(Alarm, "When it is stopped as collapsed.", "group")
    batch_size: int = knob(128, "Prompts per step.", "prompts", gt=0)
    mini_batch_size: int = knob(64, "Prompts per optimizer update.", "prompts", gt=0)
    group_size: int = knob(8, "Rollouts per prompt.", "rollouts", gt=0)
    learning_rate: float = knob(1e-6, "AdamW learning rate, constant after the warm-up.", "1", gt=0)
    warmup_steps: int = knob(
        0, "Steps over which the learning rate grows from 0; the first makes none.", "steps", ge=0
    )
    temperature: float = knob(0.6, "Sampling temperature of rollouts.", "1", gt=0)
    top_p: float = knob(1.0, "Nucleus of rollouts.", "probability", gt=0, le=1)
    kl_coefficient: float = knob(
        0.0, "Weight of KL(policy, reference); 0 keeps no reference.", "1", ge=0
    )
    entropy_coefficient: float = knob(0.0, "Weight of the entropy bonus in the loss.", "1", ge=0)
    optimizer: Literal["fresh", "carry"] = knob(
        "fresh",
        "fresh: AdamW starts anew; carry: with the state the stage before ended with.",
        "choice",
    )
    reference: Literal["start", "keep"] = knob(
        "start",
        "Reference policy of the KL term. start: the checkpoint this stage starts from; keep: the "
        "one of the stage before.",
        "choice",
    )
    save_every: int = knob(
        20, "Steps between checkpoints that an interrupted stage resumes from.", "steps", gt=0
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Stage":
        if self.mini_batch_size > self.batch_size:
            raise ValueError(
                f"mini_batch_size is {self.mini_batch_size} prompts, more than the "
                f"{self.batch_size} of batch_size\n\n"
                "hint: lower mini_batch_size or raise batch_size"
            )
        if self.batch_size % self.mini_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of mini_batch_size "
                f"{self.mini_batch_size}\n\nhint: every update must see as many prompts"
            )
        return self

    @model_validator(mode="after")
    def _nothing_is_ignored(self) -> "Stage":
        if self.reference == "keep" and self.kl_coefficient == 0:
            raise ValueError(
                "reference is keep, but no reference is asked for: kl_coefficient is 0\n\n"
                "hint: raise kl_coefficient, or leave reference at start"
            )
        if self.warmup_steps >= self.steps:
            raise ValueError(
                f"warmup_steps is {self.warmup_steps}, but there are {self.steps} steps: the "
                "learning rate is never reached\n\nhint: lower warmup_steps or raise steps"
            )
        return self

    @model_validator(mode="after")
    def _limits_leave_prompts(self) -> "Stage":
        if None in (self.drop_solved, self.drop_hopeless):
            return self
        if self.drop_hopeless >= self.drop_solved:
            raise ValueError(
                f"drop_hopeless is {self.drop_hopeless}, drop_solved {self.drop_solved}: no pass "
                "rate lies between, so no prompt that the stage before drew would be left\n\n"
                "hint: lower drop_hopeless or raise drop_solved"
            )
        return self

    @model_validator(mode="after")
    def _conditions_can_hold(self) -> "Stage":
        for key, conditions, last in (
            ("transition", self.transition.when, self.steps - 1),
            ("alarm", self.alarm.when, self.steps),
        ):
            for place, condition in enumerate(conditions):
                if condition.first > last:
                    raise ValueError(
                        f"{key}.when.{place}: {condition.metric} {condition.kind} with a window of "
                        f"{condition.window} and min_steps {condition.min_steps} can hold after "
                        f"step {condition.first} at the earliest, needed {last} or before: the "
                        f"stage makes {self.steps}\n\nhint: lower the window or min_steps"
                    )
        return self
