"""What a rollout is worth, and how it moves the policy."""

from typing import Literal

from conf.schema.knobs import Knobs, knob


class Method(Knobs):
    """What a rollout is worth beside the others of its group, and how it moves the policy."""

    name: str = knob("grpo", "Name of the method, for tables.", "name")
    advantage: Literal["grpo", "rloo"] = knob(
        "grpo",
        "Advantage estimator: grpo divides by the group's deviation, rloo leaves one out.",
        "choice",
    )
    clip_low: float = knob(0.2, "Ratio clip below 1.", "1", gt=0, lt=1)
    clip_high: float = knob(0.2, "Ratio clip above 1.", "1", gt=0)
    loss_average: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = knob(
        "token-mean", "How token losses are averaged over a mini-batch.", "choice"
    )
    weight_decay: float = knob(0.01, "AdamW weight decay.", "1", ge=0)
    gradient_clip: float = knob(1.0, "Largest gradient norm.", "1", gt=0)
