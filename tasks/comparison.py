"""What the runs of a study came to beside each other, as numbers: not yet laid out.

Every score is of the checkpoint after a run's last stage: none is selected by its score. Shares
are fractions, lengths tokens, times seconds; None is "not known", and a note says why.
"""

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from math import isnan
from typing import Any

from conf.schema.study import Study
from tasks.alike import alike, same_evaluation
from tasks.arm_runs import ArmRun, OnBenchmark, Point
from tasks.budgets import BUDGETS, at_budget, at_target
from tasks.evaluations import undecided
from tasks.results import Responses, attempt, read_responses
from trainer import metrics


class StudyIncompleteError(RuntimeError):
    """Runs of a study failed: which, why, and where the report of the others is."""


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

    def seeds(self) -> list[int]:
        """The seeds that the runs were trained with; of a pair, each has its own."""
        return list(dict.fromkeys(run.settings.seed for run in self.runs))

    def seeds_of(self, arm: str, among: Collection[int]) -> str:
        """Of an arm's runs with seeds `among` the study's: "seeds 0, 1", or "no seed finished"."""
        own = [str(run.settings.seed) for run in self.of_arm(arm) if run.seed in among]
        many = "s" if len(own) > 1 else ""
        return f"seed{many} {', '.join(own)}" if own else "no seed finished"


def compare(study: Study, runs: Sequence[ArmRun]) -> Comparison:
    """Put the runs of a study side by side.

    Raises:
        ValueError: no run was evaluated.
    """
    benchmarks: dict[str, OnBenchmark] = {}
    read: dict[str, tuple[Responses | None, str]] = {}  # several runs share stages
    # What any of them saw is left out for all: scores of other problems are not to be compared.
    seen = {
        name: {each for run in runs for each in run.seen.get(name, ())}
        for name in {name for run in runs for name in run.seen}
    }
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
                    " ".join(filter(None, [note, undecided(evaluation)])),
                    seen.get(name, ()),
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
        spread, _ = attempt(_spread, study, on)  # what keeps it from being known is said by arm
        on.arms = {arm.name: _arm(study, on, arm.name, arm.published, spread) for arm in study.arms}
    _adjust(study, benchmarks)
    return Comparison(study, runs, benchmarks, _missing(study, runs, benchmarks))


def _arm(
    study: Study,
    on: OnBenchmark,
    arm: str,
    published: Mapping[str, float],
    spread: metrics.SeedSpread | None,
) -> dict[str, Any]:
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
        found["estimate"] = estimate and _of_shares(estimate)
        notes.append(note)
        found |= {name: _mean_of(finals, name) for name in MEANS}
        clean = [point.clean for point in finals.values()]
        found["avg_at_k_clean"] = None if None in clean else sum(clean) / len(clean)
        if arm != study.reference.name:
            difference, note = attempt(_against, study, on, arm, spread)
            found["difference"] = difference and difference._asdict()
            notes.append(note)
    if target := study.targets.get(on.name):
        found["targets"] = {budget: at_target(study, on, arm, budget, target) for budget in BUDGETS}
    found["at_budget"] = {budget: at_budget(study, on, arm, budget) for budget in BUDGETS}
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


def _of_shares(estimate: metrics.Estimate) -> dict[str, Any]:
    """No score is below 0 or above 1, though the interval of a mean over seeds may reach beyond."""
    return {**estimate._asdict(), "low": max(0.0, estimate.low), "high": min(1.0, estimate.high)}


def _spread(study: Study, on: OnBenchmark) -> metrics.SeedSpread | None:
    """How seeds vary within all arms that were evaluated like the baseline; None without one."""
    finals = [
        [point for point in on.finals(name).values() if point.responses]
        for name in (study.reference.name, *(arm.name for arm in study.arms))
    ]
    if not finals[0]:
        return None
    comparable = [[each for each in arm if alike(finals[0][0], each)] for arm in finals[1:]]
    return metrics.spread_over_seeds(
        [[point.responses.correct for point in arm] for arm in comparable if arm]
    )


def _against(
    study: Study, on: OnBenchmark, arm: str, spread: metrics.SeedSpread | None
) -> metrics.Difference:
    reference = study.reference.name
    mine, theirs = on.finals(arm), on.finals(reference)
    seeds = sorted(
        seed for seed in mine.keys() & theirs.keys()
        if mine[seed].responses and theirs[seed].responses
    )  # fmt: skip
    if not seeds:
        raise ValueError(f"Not compared: no seed finished both here and in {reference}.")
    for seed in seeds:
        same_evaluation(theirs[seed], mine[seed])
    return metrics.paired_over_seeds(
        [theirs[seed].responses.correct for seed in seeds],
        [mine[seed].responses.correct for seed in seeds],
        level=study.level,
        spread=spread,
    )


def _adjust(study: Study, benchmarks: Mapping[str, OnBenchmark]) -> None:
    """Holm's correction over every comparison of the study; "detectable" is what it leaves.

    Of m comparisons, one whose p-value is below (1 - level) / m is resolved, whatever the others.
    """
    places = [(on, arm.name) for on in benchmarks.values() for arm in study.arms]
    compared = [(on, arm) for on, arm in places if on.arms[arm]["difference"]]
    values = metrics.holm([on.arms[arm]["difference"]["p_value"] for on, arm in compared])
    for (on, arm), value in zip(compared, values, strict=True):
        on.arms[arm]["adjusted_p"] = float(value)
        change = on.arms[arm]["difference"]
        change["detectable"] = metrics.smallest_difference(
            change["error"], change["freedom"], level=1 - (1 - study.level) / len(compared)
        )
        change["comparisons"] = len(compared)


def _base(on: OnBenchmark, study: Study) -> dict[str, Any] | None:
    points = [point for points in on.points.values() for point in points if point.position == -1]
    first = next((point for point in points if point.responses), None)
    if first is None or len(_starts(on)) > 1:
        return None
    estimate, note = attempt(_over_seeds, {0: first}, study.level)
    values = first.evaluation["metrics"]
    return {
        "estimate": estimate and _of_shares(estimate),
        "note": note,
        "k": values.get("k"),
        "avg_at_k_clean": first.clean,
        **{name: values.get(name) for name in MEANS},
    }


def _starts(on: OnBenchmark) -> dict[str, list[str]]:
    """Arms by the digest of the model that they start from, where it is known."""
    found: dict[str, list[str]] = {}
    for (arm, _), points in on.points.items():
        for point in points:
            if point.position == -1 and "checkpoint" in point.evaluation:
                arms = found.setdefault(point.evaluation["checkpoint"]["digest"], [])
                arms += [] if arm in arms else [arm]
    return found


def _missing(
    study: Study, runs: Sequence[ArmRun], benchmarks: Mapping[str, OnBenchmark]
) -> list[str]:
    said = [
        f"{run.arm} seed {run.settings.seed} failed: {run.failure.splitlines()[0]}"
        for run in runs
        if run.failure
    ]
    for run in runs:
        if not run.failure and not run.complete:
            said.append(
                f"{run.arm} seed {run.settings.seed}: {len(run.stages)} of "
                f"{len(run.settings.stages)} stages trained."
            )
    if broken := [run for run in runs if run.stages and not run.complete]:
        names = ", ".join(f"{run.arm} seed {run.settings.seed}" for run in broken)
        said.append(
            "Left out of scores, equal budgets, costs of targets and mean curves, for training did "
            f"not finish: {names}."
        )
    said += _few_seeds(study, benchmarks)
    for on in benchmarks.values():
        if len(starts := _starts(on).values()) > 1:
            said.append(
                f"On {on.name}, no starting model is shown, for there are {len(starts)}: that of "
                f"{'; that of '.join(', '.join(arms) for arms in starts)}."
            )
        for arm in study.arms:
            lacking = [
                str(run.settings.seed)
                for run in runs
                if run.arm == arm.name
                and run.complete
                and run.seed not in on.arms[arm.name]["seeds"]
            ]
            if lacking:
                said.append(f"{arm.name} has no score on {on.name} for seed {', '.join(lacking)}.")
    return said


def _few_seeds(study: Study, benchmarks: Mapping[str, OnBenchmark]) -> list[str]:
    """Which comparisons are over fewer seeds than differences of training need, where any is."""
    paired: dict[int, dict[str, None]] = {1: {}, 2: {}}
    for on in benchmarks.values():
        for name, arm in on.arms.items():
            if arm["difference"] and arm["difference"]["seeds"] in paired:
                paired[arm["difference"]["seeds"]][name] = None
    said, reference = [], study.reference.name
    if paired[1] and len(study.seeds) > 1:
        said.append(
            f"One seed finished both in {reference} and in {', '.join(paired[1])}: what is said of "
            "that difference tells nothing about other seeds."
        )
    if paired[2]:
        said.append(
            f"Two seeds compare {', '.join(paired[2])} with {reference}: they hardly tell how much "
            "seeds differ, so only large differences are resolved. Three seeds mend that."
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
