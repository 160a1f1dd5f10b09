"""How checkpoints are scored."""

from typing import Literal

from pydantic import field_validator

from conf.schema.data import Source, named
from conf.schema.knobs import SEEDS, Knobs, knob


class Evaluation(Knobs):
    """How a checkpoint is scored, whatever it was trained with: what counts as an answer, too."""

    benchmarks: list[Source] = knob(
        lambda: [Source(name="lab", split="test", rows=200)], "Test sets.", "sources", min_length=1
    )
    samples: int = knob(16, "Responses per problem: the k of avg@k.", "samples", gt=0)
    temperature: float = knob(0.6, "Sampling temperature.", "1", gt=0)
    top_p: float = knob(1.0, "Nucleus.", "probability", gt=0, le=1)
    context_length: int = knob(32768, "Longest response, whatever the stage's.", "tokens", gt=0)
    think: Literal["required", "optional"] = knob(
        "optional", "Think tags that a right response must have, as in reward.think.", "choice"
    )
    boxed: bool = knob(True, "Only an answer in \\boxed{} counts.", "switch")
    seed: int = knob(0, "Seed of sampling.", "seed", **SEEDS)
    batch_size: int = knob(
        256, "Responses sampled together by the torch engine.", "responses", gt=0
    )

    _names = field_validator("benchmarks")(named)
