"""Figures of a report. Each function takes numbers and gives a figure; nothing here reads files.

Colours keep apart for all common kinds of colour blindness, and in grey. On the page each becomes
a CSS variable, so that a figure follows the reader's light or dark setting.
"""

import io
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import matplotlib
import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter, MaxNLocator, PercentFormatter

from tasks.words import count, duration, percent, points

# name: (on light paper, on dark paper). Each light value occurs once: it is how a figure's SVG
# is turned into variables.
COLOURS = {
    "ink": ("#1b2027", "#e8ebef"),
    "soft": ("#59626d", "#a3adb8"),
    "line": ("#d3d9df", "#333b45"),
    "band": ("#f3f5f8", "#1a2027"),
    "blue": ("#0b63ab", "#62b0ee"),
    "orange": ("#c5540c", "#f39c52"),
    "green": ("#0b7a5a", "#46c29c"),
    "violet": ("#87509b", "#c799d6"),
    "grey": ("#878f98", "#8d97a3"),
}
INK, SOFT, LINE, BAND, BLUE, ORANGE, GREEN, VIOLET, GREY = (c[0] for c in COLOURS.values())
WIDTH = 5.7  # inches at 72 units each: readable at half a desktop page and on a phone
STYLE = {
    "font.size": 10.5,
    "axes.titlesize": 11.5,
    "axes.titleweight": "bold",
    "axes.titlelocation": "left",
    "axes.labelsize": 10.5,
    "axes.labelcolor": SOFT,
    "axes.titlecolor": INK,
    "axes.edgecolor": LINE,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.grid": True,
    "axes.axisbelow": True,
    "grid.color": LINE,
    "grid.linewidth": 0.6,
    "text.color": INK,
    "xtick.color": LINE,
    "ytick.color": LINE,
    "xtick.labelcolor": SOFT,
    "ytick.labelcolor": SOFT,
    "legend.frameon": False,
    "lines.linewidth": 1.9,
    "lines.solid_capstyle": "round",
    "svg.fonttype": "none",
    "svg.hashsalt": "stagecraft",
}


def _figure(title: str, x: str, y: str, height: float = 3.25) -> tuple[Figure, Axes]:
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        axes.set_title(title, pad=10)
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    return figure, axes


def scores(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """avg@k and pass@k of each checkpoint with 95 % intervals; one row of the figure each."""
    figure, axes = _figure(f"Accuracy on {benchmark}", "problems solved (%)", "", _height(rows))
    k = rows[0]["k"]
    for values, bounds, name, colour, mark, shift in (
        ("avg_at_k", "avg_interval", f"avg@{k}", BLUE, "o", -0.13),
        ("pass_at_k", "pass_interval", f"pass@{k}", GREEN, "D", 0.13),
    ):
        _dots(axes, [(row[values], row[bounds]) for row in rows], name, colour, mark, shift)
    _checkpoints(axes, rows)
    axes.set_xlim(left=max(0, axes.get_xlim()[0]), right=min(103, axes.get_xlim()[1]))
    axes.xaxis.set_major_formatter(PercentFormatter(decimals=0, symbol=""))
    _legend(figure)
    return figure


def differences(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Figure:
    """Change of avg@k from the base to each checkpoint, with paired 95 % intervals."""
    k = rows[0]["k"]
    rows = [row for row in rows if row["difference"]]
    figure, axes = _figure(
        f"Change from the base on {benchmark}", f"change of avg@{k} (points)", "", _height(rows)
    )
    axes.axvline(0, color=INK, linewidth=1)
    found = [row["difference"] for row in rows]
    _dots(axes, [(each["mean"], (each["low"], each["high"])) for each in found], "", BLUE, "o", 0)
    for index, each in enumerate(found):
        axes.annotate(
            points(each["mean"]), (100 * each["mean"], index), (0, 7), ha="center",
            textcoords="offset points", color=INK, fontsize=10,
        )  # fmt: skip
    _checkpoints(axes, rows)
    axes.margins(x=0.12)
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
    axes.set_yticks(range(len(rows)), [short(row["label"]) for row in rows], color=INK)
    axes.set_ylim(len(rows) - 0.5, -0.6)
    axes.tick_params(axis="y", length=0)
    axes.grid(axis="y", visible=False)


def _height(rows: Sequence[Any]) -> float:
    return 1.35 + 0.4 * max(2, len(rows))


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
    figure, axes = _figure(title, "training step, all stages", unit)
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
    axes.yaxis.set_major_locator(axes.yaxis.get_major_locator() if log else MaxNLocator(5))
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
    axes.title.set_position((0, 1))
    axes.set_title(axes.get_title(loc="left"), loc="left", pad=32)
    for index, (start, stop) in enumerate(zip(starts, ends, strict=True)):
        if index % 2 == 0:
            axes.axvspan(start, stop, color=BAND, linewidth=0, zorder=0)
        if index:
            axes.axvline(start, color=GREY, linewidth=0.9)
    texts = [
        axes.text(
            (start + stop) / 2, 1.02, f"{short(stage['name'], 14)}\n{_context(stage)}",
            transform=axes.get_xaxis_transform(), ha="center", va="bottom", fontsize=8.8,
            color=SOFT, linespacing=1.25,
        )
        for stage, start, stop in zip(made, starts, ends, strict=True)
    ]  # fmt: skip
    figure.draw_without_rendering()
    width = axes.get_window_extent().width / (ends[-1] - starts[0])
    spaces = [(stop - start) * width for start, stop in zip(starts, ends, strict=True)]
    if any(
        text.get_window_extent().width > space - 3 for text, space in zip(texts, spaces, strict=True)
    ):
        for index, text in enumerate(texts, 1):
            text.set_text(str(index))


def _context(stage: Mapping[str, Any]) -> str:
    return f"{stage['context_length']:,} tok" if stage["context_length"] else ""


def short(text: str, most: int = 18) -> str:
    """A name cut to `most` characters, for where space is tight."""
    return text if len(text) <= most else text[: most - 1] + "…"


def lengths(
    values: np.ndarray, threshold: float | None, length_of: str
) -> tuple[Figure, int]:
    """Histogram of prompt lengths, with the line that divides L1 from L3.

    Returns:
        The figure, and how many prompts are too long for it.
    """
    unit = "of the raw question" if length_of == "raw_question" else "of the chat as text"
    figure, axes = _figure("Prompt lengths", f"prompt length (characters {unit})", "prompts")
    # The longest 0.5 % would press all others against the axis.
    edge = max(float(np.quantile(values, 0.995)), (threshold or 0) * 1.3, values.min() + 1)
    bins = _whole_bins(values.min(), edge)
    shown = values[values <= bins[-1]]
    if threshold is None:
        axes.hist(shown, bins=bins, color=BLUE)
    else:
        parts = [shown[shown <= threshold], shown[shown > threshold]]
        total = [int((values <= threshold).sum()), int((values > threshold).sum())]
        names = [f"L1, {total[0]:,} prompts", f"L3, {total[1]:,} prompts"]
        axes.hist(parts, bins=bins, color=[BLUE, ORANGE], stacked=True, label=names)
        axes.axvline(threshold + 0.5, color=INK, linewidth=1.4, linestyle=(0, (4, 3)))
        axes.set_ylim(top=1.14 * axes.get_ylim()[1])
        axes.annotate(
            f"threshold {threshold:,.0f}", (threshold + 0.5, 1), (5, -3), va="top",
            xycoords=("data", "axes fraction"), textcoords="offset points", color=INK, fontsize=10,
        )  # fmt: skip
        _legend(figure)
    axes.grid(axis="x", visible=False)
    axes.yaxis.set_major_formatter(FuncFormatter(lambda value, _: f"{value:,.0f}"))
    axes.yaxis.set_major_locator(MaxNLocator(5, integer=True))
    return figure, len(values) - len(shown)


def _whole_bins(low: float, high: float) -> np.ndarray:
    """Edges between whole lengths, so that each bin holds as many different ones."""
    step = max(1, math.ceil((high - low + 1) / 40))
    return np.arange(low - 0.5, high + step + 0.5, step)


def tokens(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Tokens generated in training, by stage."""
    figure, axes = _figure(
        "Tokens generated, by stage", "tokens of rollouts", "", 0.95 + 0.42 * max(2, len(stages))
    )
    values = [stage["tokens_generated"] for stage in stages]
    axes.barh(range(len(stages)), [value or 0 for value in values], height=0.6, color=BLUE)
    _bars(axes, stages, values, [count(value) for value in values])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _brief(value)))
    return figure


def seconds(stages: Sequence[Mapping[str, Any]]) -> Figure:
    """Time of each stage, by what it went to."""
    figure, axes = _figure("Time, by stage", "time (s)", "", 1.3 + 0.42 * max(2, len(stages)))
    names = {
        "generate": ("generating", BLUE),
        "old_log_prob": ("log-probabilities", GREEN),
        "update": ("updating", ORANGE),
        "weights": ("moving weights", VIOLET),
        "other": ("other", GREY),
    }
    totals = [stage["seconds"] for stage in stages]
    left = np.zeros(len(stages))
    for part, (name, colour) in names.items():
        width = np.array([stage["seconds_by_part"].get(part) or 0.0 for stage in stages])
        if width.any():
            axes.barh(range(len(stages)), width, left=left, height=0.6, color=colour, label=name)
            left += width
    _bars(axes, stages, left.tolist(), [duration(total) for total in totals])
    axes.xaxis.set_major_formatter(FuncFormatter(lambda value, _: _brief(value)))
    _legend(figure)
    return figure


def _bars(
    axes: Axes, stages: Sequence[Mapping[str, Any]], ends: Sequence, labels: Sequence[str]
) -> None:
    axes.set_yticks(range(len(stages)), [short(stage["name"]) for stage in stages], color=INK)
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


def _brief(value: float) -> str:
    for size, letter in ((1e9, "B"), (1e6, "M"), (1e4, "k")):
        if abs(value) >= size:
            return f"{value / (1e3 if letter == 'k' else size):g}{letter}"
    return f"{value:,g}"


def length_needed(series: Mapping[str, Sequence[tuple[int, float, float, int]]]) -> Figure:
    """Length of correct responses against length of the prompt, a point for each difficulty.

    Args:
        series: By checkpoint, the rows of `tasks.results.length_needed`.
    """
    figure, axes = _figure(
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
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    with matplotlib.rc_context(STYLE):
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(
            handles, labels, loc="outside lower left", ncols=3, fontsize=10, labelcolor=SOFT,
            handlelength=1.4, columnspacing=1.4, borderaxespad=0.2,
        )  # fmt: skip


def save(figure: Figure, folder: Path, name: str) -> None:
    """Write a figure as `name`.svg and `name`.png, on white."""
    with matplotlib.rc_context(STYLE):
        figure.savefig(folder / f"{name}.png", dpi=200, facecolor="white")
        figure.savefig(folder / f"{name}.svg", facecolor="white", metadata={"Date": None})


def inline(figure: Figure, name: str) -> str:
    """A figure as an SVG element for the page: in the page's font and colours, and no links.

    Ids get `name` in front, since all figures share one page.
    """
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        figure.savefig(buffer, format="svg", transparent=True, metadata={"Date": None})
    svg = buffer.getvalue()
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="[^"]*"', svg)[0]
    svg = f'<svg role="img" aria-label="{name}" {box}' + svg[svg.index(">") :]
    svg = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", svg)
    svg = re.sub(r"font-family: [^;\"]*; ?", "", svg)
    svg = re.sub(  # two decimals are a hundredth of a point
        r' (d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), svg
    )
    for colour, (light, _) in COLOURS.items():
        svg = svg.replace(light, f"var(--{colour})")
    return svg
