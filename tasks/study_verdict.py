"""What a study came to, in sentences: what is resolved, what is not, and at what cost."""

from collections.abc import Sequence
from typing import Any

from conf.schema.study import Study
from tasks import study_tables as tables
from tasks.arm_runs import OnBenchmark
from tasks.budgets import BUDGETS
from tasks.comparison import Comparison
from tasks.sharing import Sharing
from tasks.words import count, duration, magnitude, p_value, percent, points, span, things


def verdict(found: Comparison, shared: Sharing) -> list[str]:
    """A few sentences on each benchmark, then on budgets and cost."""
    sentences = []
    for on in found.benchmarks.values():
        sentences += of_benchmark(found.study, on)
    return [*sentences, *budgets(found), cost(found, shared)]


def of_benchmark(study: Study, on: OnBenchmark) -> list[str]:
    """Which arms differ from the baseline on a benchmark, and which are not told apart from it."""
    reference = study.reference.name
    compared = {
        name: arm for name, arm in on.arms.items() if name != reference and arm["difference"]
    }
    if not compared:
        best = [(arm["estimate"]["mean"], name) for name, arm in on.arms.items() if arm["estimate"]]
        scores = ", ".join(f"{name} {percent(mean)}" for mean, name in sorted(best, reverse=True))
        known = f" Scores: {scores}." if scores else ""
        return [f"On {on.name}, nothing could be compared with {reference}.{known}"]
    alpha = 1 - study.level
    resolved = {name: arm for name, arm in compared.items() if arm["adjusted_p"] < alpha}
    said = [each for name, arm in resolved.items() for each in _resolved(study, on, name, arm)]
    open_ = {name: arm for name, arm in compared.items() if name not in resolved}
    if open_:
        said.append(_unresolved(on, open_, reference, bool(said)))
    return said


def _resolved(study: Study, on: OnBenchmark, name: str, arm: dict[str, Any]) -> list[str]:
    change, reference = arm["difference"], study.reference.name
    way = "above" if change["mean"] > 0 else "below"
    return [
        f"On {on.name}, {name} is {magnitude(change['mean'])} points {way} {reference}.",
        f"{100 * study.level:g} % interval {span((change['low'], change['high']))} points, "
        f"{p_value(arm['adjusted_p'])} by Holm, {change['problems']:,} problems, "
        f"{_seeds([change])}.",
    ]


def _unresolved(on: OnBenchmark, arms: dict[str, Any], reference: str, also: bool) -> str:
    means = [arm["difference"]["mean"] for arm in arms.values()]
    seen = [arm["difference"]["detectable"] for arm in arms.values()]
    names = _listed(list(arms))
    low, high = points(min(means)), points(max(means))
    apart = low if low == high else f"{low} to {high}"
    finest, coarsest = magnitude(min(seen)), magnitude(max(seen))
    power = finest if finest == coarsest else f"{finest} to {coarsest}"
    where = "There" if also else f"On {on.name}"
    tests = next(iter(arms.values()))["difference"]["comparisons"]
    corrected = f" when it makes {tests} comparisons" if tests > 1 else ""
    return (
        f"{where}, {names} cannot be told apart from {reference}: {apart} points, "
        f"{_seeds([arm['difference'] for arm in arms.values()])}. This design finds "
        f"8 of 10 true differences of {power} points{corrected}."
    )


def _seeds(changes: Sequence[dict[str, Any]]) -> str:
    """Over how many seeds differences are paired."""
    fewest, most = (of(change["seeds"] for change in changes) for of in (min, max))
    if fewest < most:
        return f"{fewest} to {most} seeds"
    return things(most, "seed") + (", so nothing is known about others" if most == 1 else "")


def budgets(found: Comparison) -> list[str]:
    """Whether the arms spent the same, and where that changes who leads."""
    said = []
    for budget, name in BUDGETS.items():
        spent = [
            cost
            for run in found.runs
            if run.complete and (cost := max(run.costs().items())[1].get(budget)) is not None
        ]
        if spent and max(spent) > 1.1 * min(spent) and min(spent) > 0:
            said.append(f"{name} from {count(min(spent))} to {count(max(spent))}")
    if not said:
        return []
    return [
        f"The runs did not spend the same: {_listed(said)}. The scores above are at what each "
        "run spent; scores at equal budgets are below."
    ]


def cost(found: Comparison, shared: Sharing) -> str:
    """What all runs together took, each shared stage counted once."""
    seen: dict[str, dict] = {}
    for run in found.runs:
        for row, stage in zip(run.stage_rows, run.stages, strict=False):
            seen[str(stage["folder"])] = row
    rows = list(seen.values())
    tokens = [row["tokens_generated"] for row in rows]
    seconds = [row["seconds"] for row in rows]
    parts = [things(len(rows), "distinct stage")]
    if rows and None not in tokens:
        parts.append(f"{count(sum(tokens))} generated tokens")
    if rows and None not in seconds:
        parts.append(f"{duration(sum(seconds))} of training")
    saved = shared.saved("steps_at_128")
    sharing = f" Sharing stages saved {percent(saved)} of the prompts." if saved > 0 else ""
    return f"Cost of {things(len(found.runs), 'run')}: {_listed(parts)}.{sharing}"


def terminal(found: Comparison, shared: Sharing) -> str:
    """Verdict, what is missing, and the tables, for a terminal."""
    blocks = ["\n".join([*verdict(found, shared), *(f"! {each}" for each in found.missing)])]
    for on in found.benchmarks.values():
        blocks.append(tables.scores(found, on).text_lines())
        blocks.append(tables.matched(found, on).text_lines())
    return "\n\n".join([*blocks, tables.budgets(found).text_lines()])


def _listed(parts: Sequence[str]) -> str:
    return parts[0] if len(parts) == 1 else f"{', '.join(parts[:-1])} and {parts[-1]}"
