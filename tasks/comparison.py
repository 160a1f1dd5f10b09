"""What the runs of a study came to beside each other, as numbers: not yet laid out.

Every score is of the checkpoint after a run's last stage, chosen by nobody. Shares are fractions,
lengths tokens, times seconds; None is "not known", and a note says why.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from math import isnan
from typing import Any

import numpy as np

from conf.schema import Experiment
from conf.schema.study import Study
from tasks import results
from tasks.results import Responses, attempt, read_responses
from tasks.seen import clean_score
from trainer import metrics

BUDGETS = {
    "updates": "optimizer updates",
    "tokens_generated": "generated tokens",
    "rollouts": "rollouts",
    "device_seconds": "device-seconds",
}
"""What the cost of a run is counted in. A device-second is a second of one GPU, or of one trainer
process where there is none."""
COUNTED = ("steps", "updates", "prompts", "rollouts", "tokens_generated", "tokens_trained")
SAMPLING = ("samples", "temperature", "top_p", "context_length", "engine", "dtype")
"""What two evaluations must have in common to be compared; seeds may differ."""


class StudyIncompleteError(RuntimeError):
    """Runs of a study failed: which, why, and where the report of the others is."""


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
        """avg@k without the problems that training saw; None where it saw none."""
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


@dataclass(frozen=True)
class Comparison:
    """A study's numbers.

    Attributes:
        study: What was compared.
        runs: Every run.
        benchmarks: By name.
        missing: Sentences on what is not there: failed arms, seeds without a score.
    """

    study: Study
    runs: Sequence[ArmRun]
    benchmarks: dict[str, OnBenchmark]
    missing: list[str]

    def of_arm(self, arm: str) -> list[ArmRun]:
        """The arm's runs, by seed."""
        return [run for run in self.runs if run.arm == arm]


def compare(study: Study, runs: Sequence[ArmRun]) -> Comparison:
    """Put the runs of a study side by side.

    Raises:
        ValueError: no run was evaluated.
    """
    benchmarks: dict[str, OnBenchmark] = {}
    read: dict[str, tuple[Responses | None, str]] = {}  # several runs share stages
    for run in runs:
        costs = run.costs()
        last = len(run.settings.stages) - 1
        for evaluation in sorted(run.evaluations, key=lambda each: each["position"]):
            name, folder = evaluation["benchmark"], str(evaluation["folder"])
            if folder not in read:
                read[folder] = attempt(read_responses, folder)
            responses, note = read[folder]
            benchmarks.setdefault(name, OnBenchmark(name)).points.setdefault(
                (run.arm, run.seed), []
            ).append(
                Point(
                    evaluation["label"],
                    evaluation["position"],
                    {**evaluation, "final": evaluation["position"] == last},
                    costs.get(evaluation["position"], {}),
                    responses,
                    note,
                    run.seen.get(name, ()),
                )
            )
    if not benchmarks:
        reasons = "; ".join(f"{run.arm} seed {run.seed}: {run.failure}" for run in runs[:3])
        raise ValueError(
            f"none of {len(runs)} runs of {study.name} was evaluated, so nothing can be compared"
            + (f" ({reasons})" if any(run.failure for run in runs) else "")
            + "\n\nhint: run the study with train=true"
        )
    for on in benchmarks.values():
        on.base = _base(on, study)
        on.arms = {arm.name: _arm(study, on, arm.name, arm.published) for arm in study.arms}
    _adjust(study, benchmarks)
    return Comparison(study, runs, benchmarks, _missing(study, runs, benchmarks))


def _arm(study: Study, on: OnBenchmark, arm: str, published: Mapping[str, float]) -> dict[str, Any]:
    """An arm's last checkpoint over its seeds, beside the baseline's."""
    finals = {seed: point for seed, point in on.finals(arm).items() if point.responses}
    notes = [point.note for point in on.finals(arm).values() if point.note]
    found = {
        "seeds": sorted(finals),
        "estimate": None,
        "difference": None,
        "adjusted_p": None,
        "published": published.get(on.name),
        "targets": {},
        "at_budget": {},
        "note": "",
        "avg_at_k_clean": None,
        **dict.fromkeys(MEANS),
    }
    if finals:
        estimate, note = attempt(_over_seeds, finals, study.level)
        found["estimate"] = estimate and estimate._asdict()
        notes.append(note)
        found |= {name: _mean_of(finals, name) for name in MEANS}
        clean = [point.clean for point in finals.values()]
        found["avg_at_k_clean"] = None if None in clean else sum(clean) / len(clean)
        if arm != study.reference.name:
            difference, note = attempt(_against, study, on, arm)
            found["difference"] = difference and difference._asdict()
            notes.append(note)
    if target := study.targets.get(on.name):
        found["targets"] = {budget: _target(study, on, arm, budget, target) for budget in BUDGETS}
    found["at_budget"] = {budget: _at_budget(study, on, arm, budget) for budget in BUDGETS}
    found["note"] = " ".join(dict.fromkeys(filter(None, notes)))
    return found


MEANS = (
    "pass_at_k",
    "maj_at_k",
    "truncated_share",
    "no_answer_share",
    "response_length_mean",
    "response_length_correct",
    "response_length_wrong",
)
"""Numbers of evaluation.json that are averaged over seeds."""


def _mean_of(finals: Mapping[int, Point], name: str) -> float | None:
    values = [point.evaluation["metrics"].get(name) for point in finals.values()]
    known = [value for value in values if value is not None and not isnan(value)]
    return sum(known) / len(known) if known else None


def _over_seeds(finals: Mapping[int, Point], level: float) -> metrics.Estimate:
    points = list(finals.values())
    for point in points[1:]:
        same_evaluation(points[0], point)
    return metrics.over_seeds([point.responses.correct for point in points], level=level)


def same_evaluation(one: Point, other: Point) -> None:
    """Refuse to compare what was not evaluated alike.

    Raises:
        ValueError: problems or sampling differ; which, is said.
    """
    if one.responses.ids != other.responses.ids:
        first, second = set(one.responses.ids), set(other.responses.ids)
        example = sorted(first ^ second)[0]
        raise ValueError(
            f"Not compared: {len(first ^ second)} problems are in one evaluation only, such as "
            f"{example}."
        )
    for key in SAMPLING:
        values = [point.evaluation["sampling"].get(key) for point in (one, other)]
        if values[0] != values[1]:
            raise ValueError(
                f"Not compared: {key} is {values[0]} in one and {values[1]} in the other."
            )


def _against(study: Study, on: OnBenchmark, arm: str) -> metrics.Difference:
    mine, theirs = on.finals(arm), on.finals(study.reference.name)
    seeds = sorted(
        seed for seed in mine.keys() & theirs.keys()
        if mine[seed].responses and theirs[seed].responses
    )  # fmt: skip
    if not seeds:
        raise ValueError(f"Not compared: no seed finished here and in {study.reference.name}.")
    for seed in seeds:
        same_evaluation(theirs[seed], mine[seed])
    return metrics.paired_over_seeds(
        [theirs[seed].responses.correct for seed in seeds],
        [mine[seed].responses.correct for seed in seeds],
        level=study.level,
    )


def _adjust(study: Study, benchmarks: Mapping[str, OnBenchmark]) -> None:
    """Holm's correction over every comparison of the study."""
    places = [(on, arm.name) for on in benchmarks.values() for arm in study.arms]
    compared = [(on, arm) for on, arm in places if on.arms[arm]["difference"]]
    values = metrics.holm([on.arms[arm]["difference"]["p_value"] for on, arm in compared])
    for (on, arm), value in zip(compared, values, strict=True):
        on.arms[arm]["adjusted_p"] = float(value)


def _base(on: OnBenchmark, study: Study) -> dict[str, Any] | None:
    points = [point for points in on.points.values() for point in points if point.position == -1]
    first = next((point for point in points if point.responses), None)
    if first is None:
        return None
    estimate, note = attempt(metrics.over_seeds, [first.responses.correct])
    values = first.evaluation["metrics"]
    return {
        "estimate": estimate and estimate._asdict(),
        "note": note,
        "k": values.get("k"),
        "avg_at_k_clean": first.clean,
        **{name: values.get(name) for name in MEANS},
    }


def _seeds(study: Study, on: OnBenchmark, arm: str, budget: str) -> list[tuple[list, list]]:
    curves = [on.curve(arm, seed, budget) for seed in study.seeds]
    return [curve for curve in curves if len(curve[0]) > 1]


def _target(
    study: Study, on: OnBenchmark, arm: str, budget: str, target: float
) -> dict[str, Any] | None:
    mine, coarse = _costs(study, on, arm, budget, target)
    if not mine:
        return None
    found: dict[str, Any] = {
        "costs": [cost._asdict() for cost in mine],
        "reached": sum(cost.reached for cost in mine),
        "coarse": coarse,
        "speed_up": None,
    }
    reference = study.reference.name
    theirs, coarse_too = _costs(study, on, reference, budget, target)
    if arm != reference and theirs:
        speed_up = metrics.speed_up(theirs, mine, level=study.level)
        found["speed_up"] = {**speed_up._asdict(), "coarse": coarse or coarse_too}
    return found


def _costs(
    study: Study, on: OnBenchmark, arm: str, budget: str, target: float
) -> tuple[list[metrics.Cost], bool]:
    """What each seed spent up to a target; whether one was there before its first evaluation."""
    curves = _seeds(study, on, arm, budget)
    costs = [metrics.cost_to_target(x, y, target) for x, y in curves]
    early = [c.reached and c.spent < x[1] for c, (x, _) in zip(costs, curves, strict=True)]
    return costs, any(early)


def _at_budget(study: Study, on: OnBenchmark, arm: str, budget: str) -> dict[str, Any] | None:
    """The arm's mean score at the largest budget that every run had."""
    ends = [
        curve[0][-1]
        for other in study.arms
        for curve in _seeds(study, on, other.name, budget)
    ]  # fmt: skip
    curves = _seeds(study, on, arm, budget)
    if not ends or not curves:
        return None
    common = min(ends)
    scores = [metrics.score_at(x, y, common) for x, y in curves]
    known = [score for score in scores if not isnan(score)]
    if not known:
        return None
    coarse = any(common < x[1] for x, _ in curves)  # no evaluation but the start's lies before
    return {"budget": common, "score": float(np.mean(known)), "scores": known, "coarse": coarse}


def _missing(
    study: Study, runs: Sequence[ArmRun], benchmarks: Mapping[str, OnBenchmark]
) -> list[str]:
    said = [
        f"{run.arm} seed {run.seed} failed: {run.failure.splitlines()[0]}"
        for run in runs
        if run.failure
    ]
    for run in runs:
        if not run.failure and not run.complete:
            said.append(
                f"{run.arm} seed {run.seed}: {len(run.stages)} of {len(run.settings.stages)} "
                "stages trained."
            )
    if len(study.seeds) == 2:
        said.append(
            "Two seeds: where seeds differ much, intervals of differences hold the truth in 88 to "
            "90 of 100 cases, not in 95. Three seeds mend that."
        )
    for on in benchmarks.values():
        for arm in study.arms:
            absent = [seed for seed in study.seeds if seed not in on.arms[arm.name]["seeds"]]
            known = {run.seed for run in runs if run.arm == arm.name and run.complete}
            lacking = [seed for seed in absent if seed in known]
            if lacking:
                said.append(
                    f"{arm.name} has no score on {on.name} for seed {', '.join(map(str, lacking))}."
                )
    return said


def history(found: Comparison, run: ArmRun) -> list[tuple[int, dict[str, float]]]:
    """A run's scores and costs after each stage, for a tracking store.

    Returns:
        Optimizer updates made (the store's step) and metrics, whose names are those of every run:
        `eval/<benchmark>/<score>` and `cost/<unit>`.
    """
    entries: dict[int, dict[str, float]] = {}
    for on in found.benchmarks.values():
        for point in on.points.get((run.arm, run.seed), []):
            values = point.evaluation["metrics"].items()
            entries.setdefault(point.position, {}).update(
                {f"eval/{on.name}/{key}": value for key, value in values if value is not None}
            )
    costs = run.costs()
    said = []
    for position in sorted(entries):
        spent = costs.get(position, {})
        known = {f"cost/{key}": value for key, value in spent.items() if value is not None}
        said.append((int(spent.get("updates") or 0), {**entries[position], **known}))
    return said
