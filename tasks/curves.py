"""Curves over the training steps of a run, all stages in a row."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.text import Annotation
from matplotlib.ticker import FuncFormatter, MaxNLocator

from tasks.drawing import BAND, BLUE, GREY, ORANGE, SOFT, blank, short


def curve(
    title: str,
    unit: str,
    name: str,
    stages: Sequence[Mapping[str, Any]],
    *,
    share: bool = False,
    log: bool = False,
    limit: tuple[float, str] | None = None,
) -> Figure | None:
    """One metric over the training steps of all stages, or None where no stage recorded it.

    Thin: each step. Thick: moving mean within a stage, never across a boundary. A cross on the
    lower edge: the step's value is NaN or infinite.

    Args:
        title: What is shown.
        unit: Label of the vertical axis, with unit.
        name: Name of the metric.
        stages: `tasks.results.stage_rows`.
        share: Whether values are shares, to be shown in per cent.
        log: Whether the vertical axis is logarithmic, if all values allow.
        limit: A value that matters, and its name.
    """
    series = [
        (stage["first_step"], [(row["step"], row[name]) for row in stage["metrics"] if name in row])
        for stage in stages
    ]
    if not any(values for _, values in series):
        return None
    figure, axes = blank(title, "training step, all stages", unit)
    scale, lost, seen = (100 if share else 1), [], []
    for first, pairs in series:
        x = np.array([first + step for step, _ in pairs], dtype=float)
        y = scale * np.array([value for _, value in pairs], dtype=float)
        fine = np.isfinite(y)
        lost += x[~fine].tolist()
        seen += y[fine].tolist()
        few = len(x) < 8
        mark = {"marker": "o", "markersize": 3.5} if few else {}
        axes.plot(x, np.where(fine, y, np.nan), color=BLUE, **mark, **(
            {} if few else {"linewidth": 0.9, "alpha": 0.45}
        ))  # fmt: skip
        if not few:
            axes.plot(x, _moving_mean(np.where(fine, y, np.nan)), color=BLUE)
    if log and seen and min(seen) > 0:
        axes.set_yscale("log")
    if limit and seen and (log or 0.2 * limit[0] * scale < max(seen)):
        axes.axhline(limit[0] * scale, color=ORANGE, linewidth=1.3, linestyle=(0, (4, 3)))
        axes.annotate(
            limit[1], (1, limit[0] * scale), (-2, -4), xycoords=("axes fraction", "data"),
            textcoords="offset points", ha="right", va="top", color=ORANGE, fontsize=9.5,
        )  # fmt: skip
    if share and seen:
        axes.set_ylim(bottom=min(0, min(seen)), top=max(2.0, *axes.get_ylim()))
    if lost:
        axes.plot(
            lost, [0.02] * len(lost), "x", color=ORANGE, markersize=6, markeredgewidth=1.8,
            transform=axes.get_xaxis_transform(), clip_on=False,
        )  # fmt: skip
    if not log:
        axes.yaxis.set_major_locator(MaxNLocator(5))
        if seen and max(map(abs, seen)) >= 1e5:  # a power of ten above the axis hides a stage
            axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:.3g}"))
    _boundaries(figure, axes, stages)
    return figure


def _moving_mean(values: np.ndarray) -> np.ndarray:
    half = max(1, len(values) // 14)
    windows = [values[max(0, i - half) : i + half + 1] for i in range(len(values))]
    return np.array([np.nanmean(w) if np.isfinite(w).any() else np.nan for w in windows])


def _boundaries(figure: Figure, axes: Axes, stages: Sequence[Mapping[str, Any]]) -> None:
    """Mark where stages begin and end, named if the names fit, else numbered."""
    made = [stage for stage in stages if stage["metrics"] or stage["steps"]]
    last = made[-1]
    end = last["first_step"] + max([last["steps"], *(row["step"] for row in last["metrics"][-1:])])
    starts = [stage["first_step"] + 0.5 for stage in made]
    ends = [*starts[1:], end + 0.5]
    axes.set_xlim(0.5, end + 0.5)
    axes.xaxis.set_major_locator(MaxNLocator(7, integer=True))
    axes.grid(axis="x", visible=False)
    for index, (start, stop) in enumerate(zip(starts, ends, strict=True)):
        if index % 2 == 0:
            axes.axvspan(start, stop, color=BAND, linewidth=0, zorder=0)
        if index:
            axes.axvline(start, color=GREY, linewidth=0.9)
    whole = [stage["name"] for stage in made]
    names = [short(name, 14, whole) for name in whole]
    middles = [(start + stop) / 2 for start, stop in zip(starts, ends, strict=True)]
    above = [_above(axes, x, name, 16) for x, name in zip(middles, names, strict=True)]
    below = [_above(axes, x, _context(stage), 4) for x, stage in zip(middles, made, strict=True)]
    figure.get_layout_engine().execute(figure)
    width = axes.get_window_extent().width / (ends[-1] - starts[0])
    spaces = [(stop - start) * width for start, stop in zip(starts, ends, strict=True)]
    if all(
        text.get_window_extent().width < space - 3
        for space, *texts in zip(spaces, above, below, strict=True)
        for text in texts
    ):
        return
    for index, (number, nothing) in enumerate(zip(above, below, strict=True), 1):
        number.set_text(str(index))
        number.set_y(4)
        nothing.remove()


def _above(axes: Axes, x: float, text: str, height: float) -> Annotation:
    """A word on top of the axes, centred on `x`, with its baseline `height` points up."""
    return axes.annotate(
        text, (x, 1), (0, height), xycoords=axes.get_xaxis_transform(),
        textcoords="offset points", ha="center", va="baseline", fontsize=8.8, color=SOFT,
    )  # fmt: skip


def _context(stage: Mapping[str, Any]) -> str:
    return f"{stage['context_length']:,} tok" if stage["context_length"] else ""
