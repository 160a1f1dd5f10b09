"""The runs of a study as they lie on disk: what each spent, and how each checkpoint scored."""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from conf.schema import Experiment
from tasks import results
from tasks.results import Responses
from tasks.seen import clean_score
from trainer import metrics

COUNTED = ("steps", "updates", "prompts", "rollouts", "tokens_generated", "tokens_trained")


@dataclass(frozen=True)
class ArmRun:
    """One arm with one seed, as it lies on disk.

    Attributes:
        arm: Name of the arm.
        seed: Its seed.
        settings: Its experiment.
        command: What trains and scores it alone.
        stages: stage.json of its finished stages, each with its "folder".
        evaluations: evaluation.json of each, with its "folder".
        failure: Why it failed, or "".
        seen: By benchmark, the problems that its training set holds too, see `tasks.seen`.
    """

    arm: str
    seed: int
    settings: Experiment
    command: str
    stages: Sequence[dict] = ()
    evaluations: Sequence[dict] = ()
    failure: str = ""
    seen: Mapping[str, Collection[str]] = field(default_factory=dict)

    @cached_property
    def stage_rows(self) -> list[dict[str, Any]]:
        """`tasks.results.stage_rows` of it."""
        return results.stage_rows(self.settings, self.stages)

    @property
    def complete(self) -> bool:
        """Whether every stage was trained."""
        return len(self.stages) == len(self.settings.stages)

    @property
    def devices(self) -> int:
        """Trainer processes, which on GPUs is GPUs."""
        return self.settings.hardware.ranks * self.settings.hardware.nodes

    def costs(self) -> dict[int, dict[str, float | None]]:
        """All that was spent up to and with each stage, by its position; -1 is the base."""
        spent: dict[str, float | None] = dict.fromkeys((*COUNTED, "seconds", "device_seconds"), 0)
        by_position = {-1: dict(spent)}
        for row in self.stage_rows:
            seconds = row["seconds"]
            here = {**row, "device_seconds": seconds and seconds * self.devices}
            spent = {
                key: None if before is None or here[key] is None else before + here[key]
                for key, before in spent.items()
            }
            by_position[row["position"]] = dict(spent)
        return by_position


@dataclass
class Point:
    """A checkpoint of a run on one benchmark."""

    label: str
    position: int
    evaluation: dict[str, Any]
    cost: dict[str, float | None]
    responses: Responses | None
    note: str = ""
    seen: Collection[str] = ()

    @property
    def clean(self) -> float | None:
        """avg@k without the problems that training of any arm saw; None where it saw none."""
        return None if self.responses is None else clean_score(self.responses, self.seen)

    @property
    def score(self) -> float | None:
        """avg@k, None where the responses cannot be read."""
        return None if self.responses is None else metrics.avg_at_k(self.responses.correct)


@dataclass
class OnBenchmark:
    """All runs on one benchmark.

    Attributes:
        name: The benchmark.
        points: By arm and seed, its checkpoints from the base on.
        arms: By arm, what `_arm` gives.
        base: The starting model's score, None where it was not evaluated.
    """

    name: str
    points: dict[tuple[str, int], list[Point]] = field(default_factory=dict)
    arms: dict[str, dict[str, Any]] = field(default_factory=dict)
    base: dict[str, Any] | None = None

    def curve(self, arm: str, seed: int, budget: str) -> tuple[list[float], list[float]]:
        """Costs and scores of a run's checkpoints, those left out that have not both."""
        pairs = [
            (point.cost.get(budget), point.score) for point in self.points.get((arm, seed), [])
        ]
        known = [(x, y) for x, y in pairs if x is not None and y is not None]
        return [x for x, _ in known], [y for _, y in known]

    def finals(self, arm: str) -> dict[int, Point]:
        """By seed, the last checkpoint of the runs that came to their end."""
        return {
            seed: points[-1]
            for (name, seed), points in self.points.items()
            if name == arm and points and points[-1].evaluation.get("final")
        }
