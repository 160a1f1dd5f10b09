"""Which stages the arms of a study share, as a tree: each stage once, from left to right."""

from collections.abc import Sequence

from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

from conf.schema.study import Study
from tasks.drawing import BAND, BLUE, GREY, INK, LINE, SOFT, blank, short
from tasks.sharing import Shared, Sharing
from tasks.words import count


def lineage(study: Study, shared: Sharing) -> Figure:
    """The stages of one seed: those of several arms are framed in blue, arms stand at their end.

    Every seed has the same tree, for seeds share no stage.
    """
    labels = {f"{arm.name} seed {study.seeds[0]}": arm.name for arm in study.arms}
    stages = [stage for stage in shared.stages if any(run in labels for run in stage.runs)]
    depth = 1 + max(stage.position for stage in stages)
    rows = _rows(stages, list(labels))
    figure, axes = blank("Stages, each trained once", "", "", 0.8 + 0.4 * max(3, len(labels)))
    axes.axis("off")
    at, names = {}, [stage.name for stage in stages]
    for stage in stages:
        mine = [rows[run] for run in stage.runs if run in rows]
        at[stage.key] = (stage.position, sum(mine) / len(mine))
    for stage in stages:
        x, y = at[stage.key]
        if stage.before:
            x0, y0 = at[stage.before]
            axes.plot([x0 + 0.8, x0 + 0.9, x0 + 0.9, x], [y0, y0, y, y], color=GREY, linewidth=1.1)
        several = sum(run in labels for run in stage.runs) > 1
        axes.add_patch(
            FancyBboxPatch(
                (x, y - 0.31), 0.8, 0.62, boxstyle="round,pad=0,rounding_size=0.06",
                facecolor=BAND, edgecolor=BLUE if several else LINE, linewidth=1.4,
            )
        )  # fmt: skip
        axes.text(x + 0.4, y - 0.07, short(stage.name, 12, names), ha="center", va="center",
                  fontsize=8.2, color=INK)  # fmt: skip
        axes.text(x + 0.4, y + 0.17, f"{count(stage.amounts['steps'])} steps", ha="center",
                  va="center", fontsize=6.8, color=SOFT)  # fmt: skip
    for run, name in labels.items():
        end = shared.of_run(run)[-1]
        x, y = at[end.key]
        # Two arms with equal stages end in one box.
        ends = [other for other in labels if shared.of_run(other)[-1].key == end.key]
        if any(stage.before == end.key for stage in stages):  # lines leave it to the right
            place = {"x": x, "y": y - 0.44 - 0.3 * ends.index(run)}
        else:
            shift = 0.34 * (ends.index(run) - (len(ends) - 1) / 2)
            place = {"x": x + 0.87, "y": y + shift}
        axes.text(
            **place, s=short(name, 16, labels.values()), va="center", fontsize=8.6, color=BLUE
        )
    axes.set_xlim(-0.05, depth + 0.75)
    axes.set_ylim(len(labels) - 0.4, -0.6)
    return figure


def _rows(stages: Sequence[Shared], labels: Sequence[str]) -> dict[str, int]:
    """A row for each run, so that runs with common stages stand together."""
    paths = {
        run: [place for place, stage in enumerate(stages) if run in stage.runs] for run in labels
    }
    return {run: row for row, run in enumerate(sorted(labels, key=lambda run: paths[run]))}
