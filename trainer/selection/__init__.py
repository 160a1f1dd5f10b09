"""Online curricula: which prompts are sampled, which groups go on, which train.

Pure: `stream.Stream` is the machinery without an engine, `simulator` drives it without a model,
`trainer.backend` drives it with verl.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from conf.schema.selection import USES
from trainer.selection.curriculum import Choice, Curriculum, Draw, Group, Prompt, Rollout
from trainer.selection.dapo import Dapo
from trainer.selection.e2h import E2H
from trainer.selection.greso import Greso
from trainer.selection.mopps import Mopps
from trainer.selection.shuffle_r1 import ShuffleR1
from trainer.selection.speed import Speed
from trainer.selection.speed_mopps import SpeedMopps
from trainer.selection.stream import Bounds, NothingToTrainOnError, Order, Stream
from trainer.selection.uniform import Uniform

__all__ = [
    "Bounds",
    "Choice",
    "Curriculum",
    "Draw",
    "Group",
    "NothingToTrainOnError",
    "Order",
    "Prompt",
    "Rollout",
    "Stream",
    "make_curriculum",
]

CURRICULA: dict[str, type[Curriculum]] = {
    "uniform": Uniform,
    "dapo": Dapo,
    "speed": Speed,
    "mopps": Mopps,
    "speed_mopps": SpeedMopps,
    "greso": Greso,
    "e2h": E2H,
    "shuffle_r1": ShuffleR1,
}


def make_curriculum(
    settings: Mapping[str, Any],
    prompts: Sequence[Prompt],
    *,
    group_size: int,
    seed: int,
    steps: int,
) -> Curriculum:
    """The curriculum that the settings name.

    Args:
        settings: `conf.schema.Selection` as plain values.
        prompts: The stage's prompts.
        group_size: Rollouts per prompt that train, screening included.
        seed: Seed of its draws.
        steps: Training steps of the stage.
    """
    uses = USES[settings["name"]]
    knobs = {knob: value for group in uses for knob, value in settings[group].items()}
    for name in ("updates", "ahead"):  # of the trainer and the stream, not of the choice
        knobs.pop(name, None)
    return CURRICULA[settings["name"]](prompts, group_size, seed, steps, **knobs)
