"""Which figures a report has, with the words under them."""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

from markupsafe import Markup
from matplotlib.figure import Figure

from conf.schema import Experiment
from tasks import curves, drawing, plots, results
from tasks.artifacts import Dataset
from tasks.words import count, number, things

CURVES = (
    # metric, title, vertical axis, caption, and how it is drawn
    ("reward/mean", "Reward", "mean reward of a rollout", "", {}),
    ("response_length/mean", "Response length", "mean tokens of a rollout", "", {}),
    (
        "truncated_share",
        "Truncated responses",
        "rollouts cut off (%)",
        "Rollouts that the stage's context length cut off.",
        {"share": True},
    ),
    ("entropy", "Entropy", "entropy per token (nats)", "", {}),
    ("grad_norm", "Gradient norm", "L2 norm before clipping", "", {}),
    (
        "probability_difference/max",
        "Rollout against trainer",
        "largest difference (probability)",
        "How far the probabilities of sampled tokens differ between the engine that sampled "
        "them and the trainer.",
        {"log": True},
    ),
    (
        "zero_variance_share",
        "Prompt groups that teach nothing",
        "groups all right or all wrong (%)",
        "Where all right responses earn one reward and all wrong ones another, such a group has "
        "no advantage.",
        {"share": True},
    ),
    ("tokens_per_second", "Speed of a step", "tokens per second", "", {}),
)


@dataclass(frozen=True)
class Picture:
    """A figure with the words under it."""

    name: str
    figure: Figure
    caption: str = ""

    @cached_property
    def svg(self) -> str:
        """The figure as a file."""
        return drawing.svg(self.figure)

    @property
    def png(self) -> bytes:
        """The figure as a file."""
        return drawing.png(self.figure)

    @property
    def inline(self) -> Markup:
        """The figure for the page."""
        return Markup(drawing.inline(self.svg, self.name))


def of_accuracy(benchmark: str, rows: Sequence[dict]) -> list[Picture]:
    """Scores by checkpoint, and their changes from the base, on one benchmark."""
    pictures = [
        Picture(
            f"accuracy-{file_name(benchmark)}",
            plots.scores(benchmark, rows),
            "Lines are 95 % intervals over problems.",
        )
    ]
    if any(row["difference"] for row in rows):
        pictures.append(
            Picture(
                f"change-{file_name(benchmark)}",
                plots.differences(benchmark, rows),
                "Paired: the same problems before and after. Lines are 95 % intervals over "
                "problems; whether a change is resolved is said at the top of the page.",
            )
        )
    return pictures


def of_training(experiment: Experiment, stages: Sequence[dict]) -> list[Picture]:
    """A curve for each of `CURVES` that a stage recorded."""
    limits = {
        "probability_difference/max": (experiment.hardware.probability_tolerance, "tolerance"),
        "grad_norm": (experiment.method.gradient_clip, "clipped above"),
    }
    pictures = []
    for name, title, unit, caption, look in CURVES:
        figure = curves.curve(title, unit, name, stages, limit=limits.get(name), **look)
        if figure is not None:
            lost = _lost_steps(stages, name)
            pictures.append(Picture(file_name(name), figure, f"{caption} {lost}".strip()))
    return pictures


def _lost_steps(stages: Sequence[dict], name: str) -> str:
    lost = [
        f"{stage['first_step'] + row['step']} ({number(row[name])})"
        for stage in stages
        for row in stage["metrics"]
        if name in row and not math.isfinite(row[name])
    ]
    if not lost:
        return ""
    more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
    return f"Crosses: no finite value at step {', '.join(lost[:8])}{more}."


def of_cost(stages: Sequence[dict]) -> list[Picture]:
    """Tokens and time by stage."""
    if not stages:
        return []
    return [Picture("tokens", plots.tokens(stages)), Picture("seconds", plots.seconds(stages))]


def of_data(
    experiment: Experiment,
    train: Dataset,
    segments: Mapping[str, Dataset],
    evaluations: Sequence[dict],
    benchmarks: Mapping[str, Dataset],
) -> list[Picture]:
    """Lengths of prompts; and of correct responses by difficulty, where levels are known."""
    length_of = experiment.data.segmentation.length_of
    lengths = results.prompt_lengths(train, length_of)
    first = next(iter(segments.values()), None)
    threshold = first.manifest.get("threshold") if first else None
    pictures = []
    if len(lengths):
        figure, beyond = plots.lengths(lengths, threshold, length_of)
        caption = (
            f"{things(len(lengths), 'training prompt')}, mean {lengths.mean():,.2f} characters."
        )
        if beyond:
            caption += f" {count(beyond)} longer ones, up to {lengths.max():,}, are not drawn."
        pictures.append(Picture("prompt-lengths", figure, caption))
    for name, problems in benchmarks.items():
        runs = sorted(
            (each for each in evaluations if each["benchmark"] == name),
            key=lambda each: each["position"],
        )
        series = {}
        for each in [*runs[:1], *runs[1:][-1:]]:
            found, _ = results.attempt(results.length_needed, each["folder"], problems)
            if found and len(found) > 1:
                series[each["label"]] = found
        if series:
            pictures.append(
                Picture(
                    f"length-needed-{file_name(name)}",
                    plots.length_needed(series),
                    f"Correct responses on {name}; each point is one level of difficulty, "
                    "numbered. A curriculum by prompt length assumes that longer prompts need "
                    "longer responses.",
                )
            )
    return pictures


def file_name(text: str) -> str:
    """A name for a figure's file and ids: letters, digits and dashes."""
    return "".join(letter if letter.isalnum() else "-" for letter in text)
