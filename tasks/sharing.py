"""What runs have in common: a stage that several begin with alike is trained once.

Two runs share a stage when all that determines it is equal: settings, method, seed, prompts, and
the model it starts from, hence every stage before it. Data and checkpoints need not exist yet:
what stands for their digests here is the digest of what they will be made from.
"""

from collections.abc import Sequence
from dataclasses import dataclass, field

from conf.schema import GATES, Experiment
from tasks.amounts import amounts
from tasks.artifacts import digest_of
from tasks.stages import identity

OVERLAPS = [gate for gate in GATES if gate.startswith("overlap_")]


@dataclass
class Shared:
    """A stage as the runs of a study need it.

    Attributes:
        key: What determines it, as a digest; no folder's name.
        name: Its name in the first run that needs it.
        position: Its place in the curriculum, from 0.
        amounts: Steps, updates, prompts, rollouts and tokens at most.
        runs: Labels of the runs that need it, in order.
        before: Key of the stage it starts from, empty for the first.
    """

    key: str
    name: str
    position: int
    amounts: dict[str, float]
    before: str = ""
    runs: list[str] = field(default_factory=list)


@dataclass(frozen=True)
class Sharing:
    """All stages of a study, and what sharing saves.

    Attributes:
        stages: Every stage once, in the order of training.
        alone: Sums of amounts if each run trained all its stages.
        shared: Sums of amounts with each stage trained once.
    """

    stages: list[Shared]
    alone: dict[str, float]
    shared: dict[str, float]

    def saved(self, unit: str) -> float:
        """Share of the cost that is not spent, in [0, 1], counted in `unit`."""
        return 1 - self.shared[unit] / self.alone[unit]

    def of_run(self, label: str) -> list[Shared]:
        """The stages of one run, in order."""
        return [stage for stage in self.stages if label in stage.runs]


def sharing(
    runs: Sequence[tuple[str, Experiment]], folders: Sequence[Sequence[str]] | None = None
) -> Sharing:
    """Which stages runs share.

    Args:
        runs: Label and settings of each. Labels are unique.
        folders: Of runs that were made: where the stages of each lie. Two that would be the same
            but lie apart, as in two output folders, were both trained.
    """
    stages: dict[str, Shared] = {}
    needed: list[dict[str, float]] = []
    for run, (label, experiment) in enumerate(runs):
        data, before = experiment.data, digest_of(experiment.model)
        # What overlaps with them is no prompt.
        left_out = any(experiment.gates.action(gate) == "drop" for gate in OVERLAPS)
        benchmarks = experiment.evaluation.benchmarks if left_out else []
        # Pass rates are measured as an evaluation is made, with its seed.
        seed = experiment.evaluation.seed if data.segmentation.rule == "pass_rate" else None
        first = ""
        for position, stage in enumerate(experiment.stages):
            made_from = [data, experiment.gates, stage.prompts, stage.drop_solved]
            made_from += [stage.drop_hopeless, benchmarks, seed]
            key = digest_of(identity(experiment, stage, digest_of(made_from), before))
            if folders and position < len(folders[run]):
                key = digest_of([key, folders[run][position]])
            cost = amounts(stage, stage.steps, experiment.selection)
            needed.append(cost)
            found = stages.setdefault(key, Shared(key, stage.name, position, cost, first))
            found.runs.append(label)
            before = first = key
    return Sharing(
        list(stages.values()), _sum(needed), _sum([stage.amounts for stage in stages.values()])
    )


def _sum(amounts: Sequence[dict[str, float]]) -> dict[str, float]:
    names = amounts[0] if amounts else {}
    return {name: sum(each[name] for each in amounts) for name in names}
