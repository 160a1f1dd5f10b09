"""What a rollout is worth, and how it moves the policy."""

from typing import Literal

from pydantic import model_validator

from conf.schema.knobs import Knobs, Value, knob

# Those that ship with Stagecraft, in trainer.advantages and trainer.losses.
ADVANTAGES = (
    "grpo",
    "dr_grpo",
    "rloo",
    "reinforce_plus_plus",
    "batch_return",
    "james_stein",
    "maxrl",
)
LOSSES = ("clip", "clip_unless_far")


class Method(Knobs):
    """What a rollout is worth beside the others of its group, and how it moves the policy."""

    name: str = knob("grpo", "Name of the method, for tables.", "name")
    advantage: str = knob(
        "grpo",
        "Advantage estimator: grpo, dr_grpo, rloo, reinforce_plus_plus, batch_return, james_stein, "
        "maxrl; or one of yours, module:function or file.py:function.",
        "function",
    )
    advantage_settings: dict[str, Value] = knob(
        dict, "The estimator's own settings, by the names of its arguments.", "settings"
    )
    loss: str = knob(
        "clip",
        "Loss of a token: clip (PPO's), clip_unless_far (AReaL's); or one of yours, "
        "module:function or file.py:function.",
        "function",
    )
    loss_settings: dict[str, Value] = knob(
        dict, "The loss's own settings, by the names of its arguments.", "settings"
    )
    clip_low: float = knob(0.2, "Ratio clip below 1.", "1", gt=0, lt=1)
    clip_high: float = knob(0.2, "Ratio clip above 1.", "1", gt=0)
    dual_clip: float | None = knob(
        3.0, "Largest ratio that counts where the advantage is negative; none: no limit.", "1", gt=1
    )
    loss_average: Literal[
        "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm"
    ] = knob(
        "token-mean",
        "How token losses are averaged over a mini-batch; seq-mean-token-sum-norm: a rollout's sum "
        "over the context length (Dr. GRPO).",
        "choice",
    )
    kl_in: Literal["loss", "reward"] = knob(
        "loss",
        "Where the stages' kl_coefficient acts: in the loss, or in the reward of each token.",
        "choice",
    )
    kl_estimator: Literal["k1", "k2", "k3"] = knob(
        "k3",
        "KL of a token, by d = log p - log p_reference. k1: d, k2: d²/2, k3: exp(-d) - 1 + d.",
        "choice",
    )
    overlong_filter: bool = knob(
        False, "Leave responses cut off at the context length out of the loss.", "switch"
    )
    weight_decay: float = knob(0.01, "AdamW weight decay.", "1", ge=0)
    adam_beta1: float = knob(0.9, "AdamW decay of the gradient's mean.", "1", ge=0, lt=1)
    adam_beta2: float = knob(0.999, "AdamW decay of the gradient's square.", "1", ge=0, lt=1)
    adam_epsilon: float = knob(1e-8, "AdamW's addition to the root.", "1", gt=0)
    gradient_clip: float = knob(1.0, "Largest gradient norm.", "1", gt=0)

    @model_validator(mode="after")
    def _clips_are_in_order(self) -> "Method":
        if self.dual_clip is not None and self.dual_clip <= 1 + self.clip_high:
            raise ValueError(
                f"dual_clip is {self.dual_clip:g}, within the clip range that ends at "
                f"{1 + self.clip_high:g}\n\n"
                "hint: raise dual_clip (3 is usual), lower clip_high, or set dual_clip=null"
            )
        return self
