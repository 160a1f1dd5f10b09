"""Figures of a report. Each function takes numbers and gives a figure; nothing here reads files."""

import math
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from tasks.drawing import BLUE, GREEN, GREY, INK, ORANGE, SOFT, VIOLET, blank, legend, short
from tasks.words import brief, count, duration, points


def scores(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """avg@k and pass@k of each checkpoint with 95 % intervals; one row of the figure each."""
    figure, axes = blank(f"Accuracy on {benchmark}", "problems solved (%)", "", _height(rows))
    k = rows[0]["k"]
    for values, bounds, name, colour, mark, shift in (
        ("avg_at_k", "avg_interval", f"avg@{k}", BLUE, "o", -0.13),
        ("pass_at_k", "pass_interval", f"pass@{k}", GREEN, "D", 0.13),
    ):
        _dots(axes, [(row[values], row[bounds]) for row in rows], name, colour, mark, shift)
    _checkpoints(axes, rows)
    left, right = axes.get_xlim()
    axes.set_xlim(max(-3, left), min(103, right))  # a mark at an end is whole
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=""))
    legend(figure)
    return figure


def differences(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Change of avg@k from the base to each checkpoint, with paired 95 % intervals."""
    k = rows[0]["k"]
    rows = [row for row in rows if row["difference"]]
    figure, axes = blank(
        f"Change from the base on {benchmark}", f"change in avg@{k} (points)", "", _height(rows)
    )
    axes.axvline(0, color=INK, linewidth=1)
    found = [row["difference"] for row in rows]
    _dots(axes, [(each["mean"], (each["low"], each["high"])) for each in found], "", BLUE, "o", 0)
    for index, each in enumerate(found):
        axes.annotate(
            points(each["mean"]), (100 * each["high"], index), (6, 0), va="center",
            textcoords="offset points", color=INK, fontsize=10,
        )  # fmt: skip
    _checkpoints(axes, rows)
    ends = [100 * end for each in found for end in (each["low"], each["high"], 0)]
    room = max(ends) - min(ends) or 1
    axes.set_xlim(min(ends) - 0.06 * room, max(ends) + 0.2 * room)
    return figure


def _dots(
    axes: Axes, pairs: Sequence[tuple], name: str, colour: str, mark: str, shift: float
) -> None:
    for index, (value, bounds) in enumerate(pairs):
        if value is None or math.isnan(value):
            continue
        at = index + shift
        if bounds:
            axes.plot([100 * end for end in bounds], [at, at], color=colour, linewidth=1.8)
        filled = {"markerfacecolor": colour} if mark == "o" else {"markerfacecolor": "none"}
        axes.plot(
            100 * value, at, mark, color=colour, markersize=6, markeredgewidth=1.6,
            label=name if index == 0 else None, **filled,
        )  # fmt: skip


def _checkpoints(axes: Axes, rows: Sequence[Mapping[str, Any]]) -> None:
    labels = [row["label"] for row in rows]
    axes.set_yticks(range(len(rows)), [short(each, among=labels) for each in labels], color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _height(rows: Sequence[Any]) -> float:
    return 1.35 + 0.4 * max(2, len(rows))


def lengths(values: np.ndarray, threshold: float | None, length_of: str) -> tuple[Figure, int]:
    """Histogram of prompt lengths, with the line that divides L1 from L3.

    Returns:
        The figure, and how many prompts are too long for it.
    """
    unit = "of the raw question" if length_of == "raw_question" else "of the chat as text"
    figure, axes = blank("Prompt lengths", f"prompt length (characters {unit})", "prompts")
    # The longest 0.5 % would press all others against the axis.
    edge = max(float(np.quantile(values, 0.995)), (threshold or 0) * 1.3, values.min() + 1)
    border = (values.min() - 1 if threshold is None else threshold) + 0.5
    bins = _whole_bins(values.min(), edge, border)
    shown = values[values <= bins[-1]]
    if threshold is None:
        axes.hist(shown, bins=bins, color=BLUE)
    else:
        parts = [shown[shown <= threshold], shown[shown > threshold]]
        total = [int((values <= threshold).sum()), int((values > threshold).sum())]
        names = [f"L1, {total[0]:,} prompts", f"L3, {total[1]:,} prompts"]
        axes.hist(parts, bins=bins, color=[BLUE, ORANGE], stacked=True, label=names)
        axes.axvline(border, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.set_ylim(top=1.14 * axes.get_ylim()[1])
        axes.annotate(
            f"threshold {threshold:,.0f}", (border, 1), (5, -3), va="top",
            xycoords=("data", "axes fraction"), textcoords="offset points", color=INK, fontsize=10,
        )  # fmt: skip
        legend(figure)
    axes.set_xlim(max(0, bins[0] - 1), bins[-1] + 1)
    axes.grid(axis="x", visible=False)
    for axis in (axes.xaxis, axes.yaxis):
        axis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, len(values) - len(shown)


def _whole_bins(low: float, high: float, border: float) -> np.ndarray:
    """Edges between whole lengths, as many lengths in each bin; one edge is at `border`."""
    step = max(1, math.ceil((high - low + 1) / 40))
    first = border - step * math.ceil((border - low + 0.5) / step)
    return np.arange(first, high + step + 0.5, step)


def tokens(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Tokens generated in training, by stage."""
    figure, axes = blank(
        "Tokens generated, by stage", "tokens of rollouts", "", 0.95 + 0.42 * max(2, len(stages))
    )
    values = [stage["tokens_generated"] for stage in stages]
    axes.barh(range(len(stages)), [value or 0 for value in values], height=0.6, color=BLUE)
    _bars(axes, stages, values, [count(value) for value in values])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))
    return figure


def seconds(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Time of each stage, by what it went to."""
    totals = [stage["seconds"] for stage in stages]
    unit, size = _unit_of_time(max([total or 0 for total in totals], default=0))
    figure, axes = blank("Time, by stage", f"time ({unit})", "", 1.3 + 0.42 * max(2, len(stages)))
    names = {
        "generate": ("generating", BLUE),
        "old_log_prob": ("log-probabilities", GREEN),
        "update": ("updating", ORANGE),
        "weights": ("moving weights", VIOLET),
        "other": ("other", GREY),
    }
    left = np.zeros(len(stages))
    for part, (name, colour) in names.items():
        width = np.array([stage["seconds_by_part"].get(part) or 0.0 for stage in stages]) / size
        if width.any():
            axes.barh(range(len(stages)), width, left=left, height=0.6, color=colour, label=name)
            left += width
    _bars(axes, stages, left.tolist(), [duration(total) for total in totals])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: brief(value)))
    legend(figure)
    return figure


def _unit_of_time(longest: float) -> tuple[str, int]:
    """The unit in which the longest time is easily read, and its seconds."""
    return next(
        (unit, size)
        for unit, size in (("h", 3600), ("min", 60), ("s", 1))
        if longest >= 5 * size or size == 1
    )


def _bars(
    axes: Axes, stages: Sequence[Mapping[str, Any]], ends: Sequence, labels: Sequence[str]
) -> None:
    names = [stage["name"] for stage in stages]
    axes.set_yticks(range(len(stages)), [short(each, among=names) for each in names], color=INK)
    axes.set_ylim(len(stages) - 0.45, -0.55)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)
    for index, (end, label) in enumerate(zip(ends, labels, strict=True)):
        axes.annotate(
            label, (end or 0, index), (5, 0), textcoords="offset points", va="center",
            color=INK, fontsize=10,
        )  # fmt: skip
    axes.set_xlim(0, 1.28 * max([end or 0 for end in ends] + [1e-9]))
    axes.xaxis.set_major_locator(MaxNLocator(5))


def length_needed(series: Mapping[str, Sequence[tuple[int, float, float, int]]]) -> Figure:
    """Length of correct responses against length of the prompt, a point for each difficulty.

    Args:
        series: By checkpoint, the rows of `tasks.results.length_needed`.
    """
    figure, axes = blank(
        "Response length needed against prompt length",
        "mean prompt length (characters of the raw question)",
        "correct responses (mean tokens)",
        3.5,
    )
    looks = [(GREY, "D", "none"), (BLUE, "o", BLUE)][-len(series) :]
    for (label, rows), (colour, mark, fill) in zip(series.items(), looks, strict=True):
        level, x, y, _ = zip(*rows, strict=True)
        axes.plot(
            x, y, color=colour, marker=mark, markersize=5.5, markerfacecolor=fill,
            linewidth=1.2, label=short(label),
        )  # fmt: skip
    for name, at, beside in zip(level, x, y, strict=True):
        axes.annotate(
            str(name), (at, beside), (0, -13), textcoords="offset points", ha="center",
            color=SOFT, fontsize=9,
        )  # fmt: skip
    axes.set_ylim(bottom=0)
    legend(figure)
    return figure
