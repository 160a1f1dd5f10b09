"""Figures of a study. Each function takes a comparison and gives a figure; it reads no files."""

from collections.abc import Iterator, Sequence
from itertools import cycle
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from tasks.arm_runs import ArmRun, OnBenchmark
from tasks.comparison import Comparison
from tasks.drawing import BLUE, GREEN, GREY, INK, ORANGE, VIOLET, blank, legend, short
from tasks.words import brief, points

AXES = {
    "steps": "training steps",
    "updates": "optimizer updates",
    "tokens_generated": "tokens generated in training",
    "device_seconds": "device-seconds of training",
}
SHORT = {
    "steps": "steps",
    "updates": "updates",
    "tokens_generated": "tokens",
    "device_seconds": "device-seconds",
}
# Told apart by colour and by mark and dash, so in grey and in print too.
COLOURS, MARKS = (BLUE, ORANGE, GREEN, VIOLET, INK), "osD^v"
DASHES = ("-", (0, (4, 2)), (0, (1, 1.5)))
# From one dash to the next the marks move on by one: where there are no lines, marks must do.
LOOKS = [
    {"color": colour, "marker": MARKS[(at + turn) % len(MARKS)], "linestyle": dash}
    for turn, dash in enumerate(DASHES)
    for at, colour in enumerate(COLOURS)
]


def looks(found: Comparison) -> Iterator[tuple[str, dict[str, Any]]]:
    """Every arm's name with its colour, mark and dash."""
    return zip((arm.name for arm in found.study.arms), cycle(LOOKS), strict=False)


def scores(found: Comparison, on: OnBenchmark) -> Figure:
    """avg@k of each arm with its interval, a small mark for each seed, and published scores."""
    figure, axes = blank(
        f"Accuracy on {on.name}", "avg@k: responses correct (%)", "", _height(found)
    )
    for index, arm in enumerate(found.study.arms):
        row = on.arms[arm.name]
        if estimate := row["estimate"]:
            ends = [100 * estimate["low"], 100 * estimate["high"]]
            axes.plot(ends, [index] * 2, color=BLUE, linewidth=1.8)
            axes.plot(
                100 * estimate["mean"], index, "o", color=BLUE, markersize=6.5,
                label=_once(axes, "mean with interval"),
            )  # fmt: skip
            axes.plot(
                [100 * each for each in estimate["by_seed"]], [index + 0.22] * len(row["seeds"]),
                "|", color=GREY, markersize=7, markeredgewidth=1.5, label=_once(axes, "seeds"),
            )  # fmt: skip
        if row["published"] is not None:
            axes.plot(
                100 * row["published"], index - 0.22, "D", color=ORANGE, markersize=5.5,
                markerfacecolor="none", label=_once(axes, "published"),
            )  # fmt: skip
    if on.base and on.base["estimate"]:
        axes.axvline(
            100 * on.base["estimate"]["mean"], color=GREY, linestyle=(0, (4, 3)), linewidth=1.2,
            label="starting model",
        )  # fmt: skip
    _arms(axes, [arm.name for arm in found.study.arms])
    left, right = axes.get_xlim()
    axes.set_xlim(max(-3, left), min(103, right))  # a mark at an end is whole
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=""))
    legend(figure)
    return figure


def differences(found: Comparison, on: OnBenchmark) -> Figure | None:
    """Paired difference of each arm from the baseline, and what the design would see."""
    compared = [arm.name for arm in found.study.arms if on.arms[arm.name]["difference"]]
    if not compared:
        return None
    figure, axes = blank(
        f"Difference from {found.study.reference.name} on {on.name}",
        "difference in avg@k (points)", "", 1.35 + 0.42 * max(2, len(compared)),
    )  # fmt: skip
    axes.axvline(0, color=INK, linewidth=1)
    for index, name in enumerate(compared):
        change = on.arms[name]["difference"]
        seen = 100 * change["detectable"]
        axes.plot(
            [-seen, seen], [index] * 2, color=GREY, linewidth=7, alpha=0.3,
            solid_capstyle="butt", label=_once(axes, "too small for this design (80 % power)"),
        )  # fmt: skip
        axes.plot([100 * change["low"], 100 * change["high"]], [index] * 2, color=BLUE)
        axes.plot(100 * change["mean"], index, "o", color=BLUE, markersize=6)
        axes.annotate(
            points(change["mean"]), (100 * max(change["high"], 0), index), (6, 5),
            textcoords="offset points", color=INK, fontsize=9.5,
        )  # fmt: skip
    _arms(axes, compared)
    axes.margins(x=0.16)
    legend(figure)
    return figure


def learning(found: Comparison, on: OnBenchmark, budget: str) -> Figure | None:
    """avg@k of the checkpoints against cost: mean over finished runs, and their range."""
    figure, axes = blank(f"{on.name} by {SHORT[budget]}", AXES[budget], "avg@k (%)", 3.3)
    drawn = False
    for name, look in looks(found):
        curves = [on.curve(name, seed, budget) for seed in sorted(on.finals(name))]
        curves = [curve for curve in curves if len(curve[0]) > 1]
        drawn |= _band(axes, curves, 100.0, _label(found, name), look, marks=True)
    if not drawn:
        return None
    for target in [found.study.targets.get(on.name)]:
        if target:
            axes.axhline(100 * target, color=GREY, linestyle=(0, (4, 3)), linewidth=1.1)
            axes.annotate(
                "target", (1, 100 * target), (-2, 3), xycoords=("axes fraction", "data"),
                textcoords="offset points", ha="right", color=GREY, fontsize=9,
            )  # fmt: skip
    _costs(axes)
    legend(figure)
    return figure


def training(
    found: Comparison, metric: str, title: str, unit: str, budget: str, *, share: bool = False
) -> Figure | None:
    """A metric of training steps against cost, smoothed, with bands over finished runs."""
    figure, axes = blank(f"{title} by {SHORT[budget]}", AXES[budget], unit, 3.1)
    drawn = False
    for name, look in looks(found):
        curves = [_history(run, metric, budget) for run in found.of_arm(name) if run.complete]
        curves = [curve for curve in curves if len(curve[0]) > 1]
        drawn |= _band(axes, curves, 100.0 if share else 1.0, _label(found, name), look)
    if not drawn:
        return None
    _costs(axes)
    legend(figure)
    return figure


def frontier(found: Comparison, on: OnBenchmark, budget: str) -> Figure | None:
    """Final accuracy of each seed against what it cost, and the best that any cost bought."""
    figure, axes = blank(f"{on.name}, accuracy bought", AXES[budget], "avg@k at the end (%)", 3.3)
    ends = []
    for name, look in looks(found):
        curves = [on.curve(name, seed, budget) for seed in on.finals(name)]
        mine = [(x[-1], 100 * y[-1]) for x, y in curves if x]
        ends += mine
        if mine:
            axes.plot(
                *zip(*mine, strict=True), **{**look, "linestyle": "none"},
                label=_label(found, name),
            )  # fmt: skip
    if not ends:
        return None
    best, line = -np.inf, []
    for x, y in sorted(ends):
        if y > best:
            line += [(x, best), (x, y)] if line else [(x, y)]
            best = y
    line.append((max(x for x, _ in ends), best))
    axes.plot(*zip(*line, strict=True), color=GREY, linewidth=1.1, zorder=0)
    axes.margins(x=0.06)
    _costs(axes, left=None)
    legend(figure)
    return figure


def by_problem(found: Comparison, on: OnBenchmark, arm: str) -> Figure | None:
    """For each problem, how many more responses are correct than the baseline's; sorted."""
    mine, theirs = on.finals(arm), on.finals(found.study.reference.name)
    seeds = [
        s for s in mine.keys() & theirs.keys() if mine[s].responses and theirs[s].responses
    ]  # fmt: skip
    if not seeds or on.arms[arm]["difference"] is None:
        return None
    gain = np.mean(
        [
            mine[s].responses.correct.mean(axis=1) - theirs[s].responses.correct.mean(axis=1)
            for s in seeds
        ],
        axis=0,
    )
    order = np.sort(gain)[::-1] * 100
    figure, axes = blank(
        f"{_label(found, arm)} minus {_label(found, found.study.reference.name)}, by problem",
        f"problems of {on.name}, sorted", "points of avg@k", 2.7,
    )  # fmt: skip
    x = np.arange(1, len(order) + 1)
    for chosen, colour, name in (
        (order > 0, BLUE, f"better on {int((order > 0).sum())}"),
        (order < 0, ORANGE, f"worse on {int((order < 0).sum())}"),
    ):
        # One filled outline and not a bar for each: a benchmark has hundreds of problems.
        axes.fill_between(
            x, np.where(chosen, order, 0), step="mid", color=colour, linewidth=0, label=name
        )
    axes.axhline(0, color=INK, linewidth=0.8)
    axes.axhline(order.mean(), color=GREY, linewidth=1.2, linestyle=(0, (4, 3)), label="mean")
    axes.set_xlim(0.5, len(order) + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
    axes.grid(axis="x", visible=False)
    legend(figure)
    return figure


def _history(run: ArmRun, metric: str, budget: str) -> tuple[np.ndarray, np.ndarray]:
    """Cumulative cost and value of a metric at each step of a run, all stages in a row."""
    unit = {
        "updates": "updates",
        "tokens_generated": "tokens/generated",
        "device_seconds": "seconds/step",
    }.get(budget)
    x, y, spent = [], [], 0.0
    for stage in run.stage_rows:
        for row in stage["metrics"]:
            cost = 1.0 if unit is None else row.get(unit)
            if cost is None:
                return np.array([]), np.array([])
            spent += cost * (run.devices if budget == "device_seconds" else 1)
            value = row.get(metric, np.nan)
            x.append(spent)
            y.append(value if np.isfinite(value) else np.nan)
    values = np.array(y, dtype=float)
    return (np.array(x), values) if np.isfinite(values).any() else (np.array([]), np.array([]))


def _band(
    axes: Axes, curves: Sequence, scale: float, name: str, look: dict, marks: bool = False
) -> bool:
    """Mean of curves with their range, on costs that all of them reached; whether any was drawn."""
    if not curves:
        return False
    low = max(curve[0][0] for curve in curves)
    high = min(curve[0][-1] for curve in curves)
    x = np.linspace(low, high, 160) if len(curves) > 1 or not marks else np.array(curves[0][0])
    rows = []
    for at, value in curves:
        at, value = np.asarray(at, dtype=float), np.asarray(value, dtype=float)
        fine = np.isfinite(value)
        smooth = value[fine] if marks else _smooth(value[fine])
        rows.append(scale * np.interp(x, at[fine], smooth))
    mean = np.mean(rows, axis=0)
    # One mark at its end, so that the legend shows it too.
    axes.plot(x, mean, label=name, **look, markevery=[len(x) - 1], markersize=4.5)
    if len(rows) > 1:
        axes.fill_between(
            x, np.min(rows, axis=0), np.max(rows, axis=0), color=look["color"], alpha=0.16,
            linewidth=0,
        )  # fmt: skip
    if marks:
        for at, value in curves:
            axes.plot(
                at, scale * np.asarray(value), look["marker"], color=look["color"], markersize=3.6,
                alpha=0.75,
            )  # fmt: skip
    return True


def _smooth(values: np.ndarray) -> np.ndarray:
    """Moving mean over a twentieth of the steps, at the ends over what there is."""
    half = len(values) // 40
    if half == 0:
        return values
    sums = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    low, high = np.maximum(at - half, 0), np.minimum(at + half + 1, len(values))
    return (sums[high] - sums[low]) / (high - low)


def _costs(axes: Axes, left: float | None = 0.0) -> None:
    axes.xaxis.set_major_locator(MaxNLocator(6))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))
    if left is not None:
        axes.set_xlim(left, left + 1.03 * (axes.dataLim.x1 - left))  # a mark at the end is whole
    axes.yaxis.set_major_locator(MaxNLocator(5))


def _arms(axes: Axes, names: Sequence[str]) -> None:
    axes.set_yticks(range(len(names)), [short(name, among=names) for name in names], color=INK)
    axes.set_ylim(len(names) - 0.45, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _label(found: Comparison, arm: str) -> str:
    return short(arm, among=[each.name for each in found.study.arms])


def _once(axes: Axes, name: str) -> str | None:
    """A name for the legend the first time, nothing after."""
    return None if name in axes.get_legend_handles_labels()[1] else name


def _height(found: Comparison) -> float:
    return 1.4 + 0.42 * max(2, len(found.study.arms))
