"""An experiment: everything needed to run, and to run again."""

import os

from pydantic import field_validator, model_validator

from conf.schema.data import Data
from conf.schema.evaluation import Evaluation
from conf.schema.gates import Gates
from conf.schema.hardware import Hardware
from conf.schema.knobs import NAME, SEEDS, Knobs, knob
from conf.schema.method import Method
from conf.schema.reward import Reward
from conf.schema.selection import Selection
from conf.schema.stage import Stage


class Model(Knobs):
    """The model that training starts from."""

    path: str = knob(
        "lab",
        "lab: the base model shipped with Stagecraft; else a local folder, a stage's too, or a Hub "
        "name.",
        "path",
    )
    revision: str = knob("main", "Hub commit, tag or branch.", "git revision")


class Experiment(Knobs):
    """Everything needed to run, and to run again."""

    name: str = knob("experiment", "Name of the experiment.", "name", pattern=NAME)
    seed: int = knob(0, "Seed of data order and sampling in training.", "seed", **SEEDS)
    output: str = knob("outputs", "Folder that everything is written under.", "path", min_length=1)
    data: Data = knob(Data, "Training problems.", "group")
    gates: Gates = knob(Gates, "Inspections of the training problems.", "group")
    model: Model = knob(Model, "Starting model.", "group")
    method: Method = knob(Method, "Advantage and loss.", "group")
    reward: Reward = knob(Reward, "What a rollout is worth.", "group")
    selection: Selection = knob(Selection, "Which prompts are sampled, which train.", "group")
    stages: list[Stage] = knob(
        lambda: [Stage()], "The curriculum, in order.", "stages", min_length=1
    )
    hardware: Hardware = knob(Hardware, "Machine.", "group")
    evaluation: Evaluation = knob(Evaluation, "Scoring.", "group")
    notes: dict[str, str] = knob(
        dict, "Where paper, README and code of a recipe disagree, and what holds here.", "sentences"
    )

    @field_validator("output")
    @classmethod
    def _home_is_meant(cls, output: str) -> str:
        return os.path.expanduser(output)

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Experiment":
        for what, names in (
            ("stages", [stage.name for stage in self.stages]),
            ("evaluation.benchmarks", [source.name for source in self.evaluation.benchmarks]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(
                    f"{what} has {twice[0]!r} twice\n\nhint: give each a name of its own"
                )
        return self

    @model_validator(mode="after")
    def _selection_fits_the_stages(self) -> "Experiment":
        for stage in self.stages:
            fault = self.selection.fault(stage.group_size, stage.batch_size, stage.mini_batch_size)
            if fault:
                raise ValueError(f"stage {stage.name}: {fault}")
        return self

    @model_validator(mode="after")
    def _first_stage_keeps_nothing(self) -> "Experiment":
        first = self.stages[0]
        for key, kept in (("optimizer", "carry"), ("reference", "keep")):
            if getattr(first, key) == kept:
                raise ValueError(
                    f"stages.0.{key} is {kept!r}, but no stage comes before it\n\n"
                    f"hint: set it on a later stage, or leave stages.0.{key} out"
                )
        return self

    @model_validator(mode="after")
    def _torch_draws_by_seed(self) -> "Experiment":
        if self.hardware.rollout == "torch" and not self.hardware.seeded:
            raise ValueError(
                "hardware.seeded is false, but the torch engine always draws by seed\n\n"
                "hint: set hardware.seeded=true, or hardware.rollout=vllm"
            )
        return self

    def seed_of(self, stage: Stage) -> int:
        """Seed of a stage's data order and sampling.

        Differs from stage to stage: two on the same prompt set do not draw the same prompts first.
        """
        return self.seed + 1_000_003 * self.stages.index(stage)
