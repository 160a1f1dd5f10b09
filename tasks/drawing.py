"""How figures look, and how they become files and parts of the page.

Colours keep apart for all common kinds of colour blindness, and in grey. On the page each becomes
a CSS variable, so that a figure follows the reader's light or dark setting.
"""

import io
import math
import re
from collections.abc import Iterable
from textwrap import fill

import matplotlib
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

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
WHITE = "#ffffff"
LINE_HEIGHT = 0.21  # inches: of a legend's line, and of a title's
WIDTH = 5.2  # inches at 72 units each: readable at half a desktop page and on a phone
STYLE = {
    "font.size": 10.5,
    "axes.labelsize": 10.5,
    "axes.labelcolor": SOFT,
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


def blank(title: str, x: str, y: str, height: float = 3.1) -> tuple[Figure, Axes]:
    """An empty figure with its title, the labels of its axes with units, and a height in inches.

    A title too long for its line goes on in a second, for which the figure is higher.
    """
    with matplotlib.rc_context(STYLE):
        figure = Figure(figsize=(WIDTH, height), layout="constrained")
        FigureCanvasAgg(figure)
        axes = figure.add_subplot()
        head = figure.suptitle(title, x=0.008, ha="left", fontsize=11.5, fontweight="bold")
        head.set_color(INK)
        letters = len(title)
        while head.get_window_extent().width > 0.985 * figure.bbox.width:
            letters -= 1
            head.set_text(fill(title, letters, break_on_hyphens=False))
        _heighten(figure, LINE_HEIGHT * head.get_text().count("\n"))
        axes.set_xlabel(x)
        axes.set_ylabel(y)
    return figure, axes


def short(text: str, most: int = 18, among: Iterable[str] = ()) -> str:
    """A name cut to `most` characters, for where space is tight.

    Cut in the middle, since names differ at their ends, and less where one `among` those shown
    beside it would look the same.

    >>> short("lab_deepscaler-seed0"), short("lab_deepscaler-seed1")
    ('lab_deeps…er-seed0', 'lab_deeps…er-seed1')
    """
    others = set(among) - {text}
    while any(_cut(text, most) == _cut(other, most) for other in others):
        most += 1
    return _cut(text, most)


def _cut(text: str, most: int) -> str:
    tail = (most - 1) // 2
    return text if len(text) <= most else f"{text[: most - 1 - tail]}…{text[-tail:]}"


def legend(figure: Figure) -> None:
    """Put the names of what is drawn below the axes: in as many columns as fit, of three at most.

    Lines beyond the first are added to the figure's height.
    """
    with matplotlib.rc_context(STYLE):
        handles, labels = figure.axes[0].get_legend_handles_labels()
        for columns in (3, 2, 1):
            names = figure.legend(
                handles, labels, loc="outside lower left", ncols=columns, fontsize=10,
                labelcolor=SOFT, handlelength=1.4, columnspacing=1.4, borderaxespad=0.2,
            )  # fmt: skip
            if columns == 1 or names.get_window_extent().width <= figure.bbox.width:
                break
            names.remove()
        _heighten(figure, LINE_HEIGHT * (math.ceil(len(labels) / columns) - 1))


def _heighten(figure: Figure, inches: float) -> None:
    figure.set_figheight(figure.get_figheight() + inches)


def svg(figure: Figure) -> str:
    """A figure as an SVG file, on white."""
    buffer = io.StringIO()
    with matplotlib.rc_context(STYLE):
        _settle(figure)
        figure.savefig(buffer, format="svg", facecolor=WHITE, metadata={"Date": None})
    return buffer.getvalue()


def png(figure: Figure) -> bytes:
    """A figure as a PNG file, on white."""
    buffer = io.BytesIO()
    with matplotlib.rc_context(STYLE):
        _settle(figure)
        figure.savefig(buffer, format="png", dpi=200, facecolor=WHITE)
    return buffer.getvalue()


def _settle(figure: Figure) -> None:
    """Lay the figure out once; it would be done again, twice, for every file."""
    if layout := figure.get_layout_engine():
        layout.execute(figure)
        figure.set_layout_engine(None)  # "none" would be one that makes every file a draft more


def inline(file: str, name: str) -> str:
    """The SVG element of a file for the page: in the page's font and colours, and no links.

    Args:
        file: What `svg` gave.
        name: Goes in front of ids, since all figures share one page.
    """
    text = file[file.index("<svg") :].replace(WHITE, "none")
    box = re.search(r'viewBox="[^"]*"', text)[0]
    text = f'<svg role="img" aria-label="{name}" {box}' + text[text.index(">") :]
    text = re.sub(r"<metadata>.*?</metadata>|<style.*?</style>", "", text, flags=re.DOTALL)
    text = re.sub(r'( id="|href="#|url\(#)', rf"\g<1>{name}-", text)
    text = re.sub(r"font-family: [^;\"]*; ?", "", text)
    text = re.sub(  # two decimals are a hundredth of a point
        r' (d|x|y|transform)="[^"]*"', lambda found: re.sub(r"(\.\d\d)\d+", r"\1", found[0]), text
    )
    for colour, (light, _) in COLOURS.items():
        text = text.replace(light, f"var(--{colour})")
    return text
