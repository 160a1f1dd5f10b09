"""Tables of a study: scores, budgets, targets, what differs between the arms, and commands."""

from collections.abc import Mapping, Sequence
from math import isinf, isnan
from typing import Any

from tasks.arm_runs import OnBenchmark
from tasks.budgets import BUDGETS
from tasks.comparison import Comparison
from tasks.labels import flat
from tasks.tables import Table
from tasks.words import (
    ABSENT,
    count,
    duration,
    magnitude,
    number,
    p_value,
    percent,
    points,
    span,
    things,
)

OPTIONAL = {"published": "published", "maj_at_k": "maj@k", "avg_at_k_clean": "no overlap"}
"""Columns that a table has only where some row has a number for them."""
COARSE = "~ "


def scores(found: Comparison, on: OnBenchmark) -> Table:
    """Each arm's accuracy over its seeds, and its paired difference from the baseline."""
    study, reference = found.study, found.study.reference.name
    k = _k(on)
    shown = [key for key in OPTIONAL if any(_has(arm[key]) for arm in on.arms.values())]
    columns = ["arm", f"avg@{k}", f"minus {reference}", "detectable", f"pass@{k}"]
    columns += [f"maj@{k}" if key == "maj_at_k" else OPTIONAL[key] for key in shown]
    columns += ["cut off", "no answer", "mean length"]
    rows = []
    if on.base:
        estimate = on.base["estimate"]
        rows.append(
            [
                ("base", "the starting model"),
                (percent(estimate and estimate["mean"]), _interval(estimate)),
                (ABSENT, ""),
                (ABSENT, ""),
                *_others(on.base, shown),
            ]
        )
    for arm in study.arms:
        row = on.arms[arm.name]
        estimate, change = row["estimate"], row["difference"]
        seeds = found.seeds_of(arm.name, row["seeds"])
        about = "baseline; " if arm.name == reference else ""
        rows.append(
            [
                (arm.name, f"{arm.about}\n{about}{seeds}".strip()),
                (
                    percent(estimate and estimate["mean"]),
                    f"{_interval(estimate)}\n{_by_seed(estimate)}".strip(),
                ),
                (
                    points(change["mean"]) if change else ABSENT,
                    _evidence(row, len(study.seeds)),
                ),
                (magnitude(change["detectable"]) if change else ABSENT, ""),
                *_others(row, shown),
            ]
        )
    notes = [f"{name}: {arm['note']}" for name, arm in on.arms.items() if arm["note"]]
    sources = {arm.source for arm in study.arms if arm.published.get(on.name)}
    notes += [f"Published: {source}." for source in sorted(filter(None, sources))]
    problems = next(
        (arm["estimate"]["problems"] for arm in on.arms.values() if arm["estimate"]), None
    )
    title = on.name
    if problems:
        title += f": {things(problems, 'problem')}, {things(k, 'response')} each"
    return Table(columns, rows, title, notes)


def average(found: Comparison) -> Table | None:
    """Mean over benchmarks, as papers print it; None for a single benchmark."""
    if len(found.benchmarks) < 2:
        return None
    rows = []
    for arm in found.study.arms:
        estimates = [on.arms[arm.name]["estimate"] for on in found.benchmarks.values()]
        mean = None if None in estimates else sum(e["mean"] for e in estimates) / len(estimates)
        printed = arm.published.get("average")
        rows.append([(arm.name, arm.about), (percent(mean), ""), (percent(printed), "")])
    sources = sorted({arm.source for arm in found.study.arms if "average" in arm.published})
    notes = [f"Published: {source}." for source in sources if source]
    title = f"Mean of {len(found.benchmarks)} benchmarks"
    return Table(["arm", "here", "published"], rows, title, notes)


def budgets(found: Comparison) -> Table:
    """What the runs of each arm spent, mean over seeds."""
    columns = ["arm", "steps", *BUDGETS.values(), "time"]
    rows = []
    for arm in found.study.arms:
        ended = {run.seed: run for run in found.of_arm(arm.name) if run.complete}
        ends = [max(run.costs().items())[1] for run in ended.values()]
        cells = [
            (_written(key, _mean([end.get(key) for end in ends])), "")
            for key in ("steps", *BUDGETS, "seconds")
        ]
        share = f"{len(ends)} of {len(found.study.seeds)} seeds"
        one = len(found.study.seeds) == 1
        rows.append([(arm.name, found.seeds_of(arm.name, ended) if one else share), *cells])
    return Table(columns, rows, "Spent by a run, shared stages included")


def matched(found: Comparison, on: OnBenchmark) -> Table:
    """Scores at the largest budget that every finished run had, in each unit."""
    columns = ["arm"]
    for budget, name in BUDGETS.items():
        at = [arm["at_budget"][budget] for arm in on.arms.values() if arm["at_budget"][budget]]
        columns.append(
            f"at {things(round(at[0]['budget']), name.removesuffix('s'))}"
            if at
            else f"at equal {name}"
        )
    rows = []
    for arm in found.study.arms:
        cells = []
        for budget in BUDGETS:
            at = on.arms[arm.name]["at_budget"][budget]
            spread = (min(at["scores"]), max(at["scores"])) if at else None
            small = span(spread, percent) if at and len(at["scores"]) > 1 else ""
            cells.append((_coarse(at) + percent(at and at["score"]), small))
        rows.append([(arm.name, ""), *cells])
    note = "Interpolated between the evaluations before and after the budget"
    if len(found.study.seeds) > 1:
        note += "; mean over the seeds that finished, with the lowest and the highest of them"
    return Table(columns, rows, f"{on.name} at equal budgets", [f"{note}.", *_warning(rows)])


def targets(found: Comparison, on: OnBenchmark) -> Table | None:
    """What a target accuracy cost, and how many times less than the baseline; None without one."""
    target = found.study.targets.get(on.name)
    if target is None:
        return None
    rows = []
    for arm in found.study.arms:
        cells = []
        for budget in BUDGETS:
            at = on.arms[arm.name]["targets"].get(budget)
            cells.append(_to_target(at, budget))
        rows.append([(arm.name, _reached(on.arms[arm.name]["targets"])), *cells])
    notes = [
        f"With each cost: how many times less than {found.study.reference.name}, with interval "
        "over seeds. A run that never reached the target counts with all it spent; the true cost "
        "is higher (>)."
    ]
    notes += _warning(rows)
    columns = ["arm", *BUDGETS.values()]
    return Table(columns, rows, f"Cost of {percent(target)} on {on.name}", notes)


def _coarse(found: Mapping[str, Any] | None) -> str:
    return COARSE if found and found["coarse"] else ""


def _warning(rows: Sequence[Sequence[tuple[str, str]]]) -> list[str]:
    if not any(COARSE in part for row in rows for cell in row for part in cell):
        return []
    return [
        f"{COARSE.strip()} Before the arm's first evaluation, so read off a straight line from the "
        "start: if learning is faster at first, the arm did better than this. Arms with more "
        "stages are evaluated more often."
    ]


def _to_target(at: dict[str, Any] | None, budget: str) -> tuple[str, str]:
    if not at:
        return ABSENT, ""
    spent = [cost["spent"] for cost in at["costs"]]
    mark = "" if at["reached"] == len(spent) else "> "
    cost = f"{mark}{_coarse(at)}{_written(budget, sum(spent) / len(spent))}"
    return cost, _coarse(at["speed_up"]) + _times(at["speed_up"])


def _times(found: dict[str, Any] | None) -> str:
    if found is None:
        return ""
    if isnan(found["ratio"]):
        return "not comparable"
    low, high = found["low"], found["high"]
    end = "∞" if isinf(high) else number(high)
    between = "" if isnan(low) and isnan(high) else f" ({number(low)} to {end})"
    return f"{found['bound']} {number(found['ratio'])} times less{between}".strip()


def _reached(found: dict[str, Any]) -> str:
    first = next((at for at in found.values() if at), None)
    return f"reached by {first['reached']} of {len(first['costs'])}" if first else ""


def differences(found: Comparison) -> Table:
    """Settings in which arms differ, field by field."""
    settings = {}
    for arm in found.study.arms:
        run = next(iter(found.of_arm(arm.name)), None)
        settings[arm.name] = flat(run.settings) if run else {}
    fields = list(dict.fromkeys(name for one in settings.values() for name in one))
    rows = []
    for name in fields:
        values = [str(one.get(name, ABSENT)) for one in settings.values()]
        if name not in ("name", "output") and len(set(values)) > 1:
            rows.append([(name, ""), *((value, "") for value in values)])
    notes = [] if rows else ["All arms have the same settings."]
    return Table(["setting", *settings], rows, notes=notes)


def commands(found: Comparison) -> Table:
    """The command of each run alone."""
    rows = [[(run.arm, f"seed {run.settings.seed}"), (run.command, "")] for run in found.runs]
    return Table(["run", "command"], rows, text=True)


def _k(on: OnBenchmark) -> Any:
    ks = {point.evaluation["metrics"].get("k") for points in on.points.values() for point in points}
    return next(iter(ks)) if len(ks) == 1 else "k"


def _others(row: dict[str, Any], shown: Sequence[str]) -> list[tuple[str, str]]:
    length = row["response_length_mean"]
    return [
        (percent(row["pass_at_k"]), ""),
        *((percent(row.get(key)), "") for key in shown),
        (percent(row["truncated_share"]), ""),
        (percent(row["no_answer_share"]), ""),
        (number(length, 4), ""),
    ]


def _interval(estimate: dict[str, Any] | None) -> str:
    if not estimate:
        return ""
    return span((estimate["low"], estimate["high"]), percent)


def _evidence(row: dict[str, Any], seeds: int) -> str:
    """Interval and p-value of a difference, and over how many of several seeds it is."""
    if not (change := row["difference"]):
        return ""
    over = f", {things(change['seeds'], 'seed')}" if seeds > 1 else ""
    return f"{span((change['low'], change['high']))}\n{p_value(row['adjusted_p'])}{over}"


def _by_seed(estimate: dict[str, Any] | None) -> str:
    if not estimate or len(estimate["by_seed"]) < 2:
        return ""
    return ", ".join(f"{100 * each:.1f}" for each in estimate["by_seed"])


def _has(value: Any) -> bool:
    return value is not None


def _mean(values: Sequence[float | None]) -> float | None:
    return None if not values or None in values else sum(values) / len(values)


def _written(key: str, value: float | None) -> str:
    if value is None:
        return ABSENT
    if key == "seconds":
        return duration(value)
    return count(round(value))
