"""The report of a run: one page that works from disk, and the same as markdown and in a terminal."""

import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

import jinja2
import yaml
from markupsafe import Markup
from matplotlib.figure import Figure

from conf.schema import Experiment
from tasks import plots, results
from tasks.artifacts import Dataset, new_folder, write_json
from tasks.tables import Table, cost, data, handoff, scores, versions
from tasks.words import count, duration, number, p_value, percent, plain, points, span, things

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
    ("entropy", "Entropy", "mean entropy of a token (nats)", "", {}),
    ("grad_norm", "Gradient norm", "L2 norm before clipping", "", {}),
    (
        "probability_difference/max",
        "Rollout against trainer",
        "largest probability difference",
        "How far the probabilities of sampled tokens differ between the engine that sampled "
        "them and the trainer.",
        {"log": True},
    ),
    (
        "zero_variance_share",
        "Prompt groups that teach nothing",
        "groups of equal rewards (%)",
        "Groups whose rollouts all earned the same reward have no advantage.",
        {"share": True},
    ),
    ("tokens_per_second", "Speed of a step", "tokens per second", "", {}),
)


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        html: The page.
        markdown: The same content without figures.
        folder: Folder of report.html, report.md, summary.json and figures/.
        summary: The numbers: `verdict` sentences, `benchmarks` with a row per checkpoint,
            `stages`, `totals`, `experiment`, `seed`, `command`, `written`.
    """

    html: Path
    markdown: str
    folder: Path
    summary: dict[str, Any]


@dataclass(frozen=True)
class Picture:
    """A figure with the words under it."""

    name: str
    figure: Figure
    caption: str = ""

    @property
    def svg(self) -> Markup:
        """The figure for the page."""
        return Markup(plots.inline(self.figure, self.name))


def write_report(
    experiment: Experiment,
    *,
    train: Dataset,
    segments: Mapping[str, Dataset],
    stages: Sequence[dict],
    evaluations: Sequence[dict],
    output: Path | str,
    command: str,
    benchmarks: Mapping[str, Dataset] | None = None,
) -> Report:
    """Write the report of a run under `output`/reports.

    What a stage or an evaluation did not record is shown as missing, and what does not fit
    together is said beside the number: neither stops the report.

    Args:
        experiment: What was run.
        train: The training set.
        segments: Its prompt sets L1, L2 and L3.
        stages: stage.json of each stage, with its "folder".
        evaluations: evaluation.json of each evaluation, with its "folder".
        output: Folder that everything is written under.
        command: The command that made this run, to the letter.
        benchmarks: Problems by benchmark name, for the figure of response length by difficulty.

    Returns:
        `Report`.
    """
    stage_rows = results.stage_rows(experiment, stages)
    by_benchmark = results.checkpoint_rows(evaluations, stage_rows)
    totals = results.total_row(stage_rows)
    summary = {
        "experiment": experiment.name,
        "seed": experiment.seed,
        "command": command,
        "written": datetime.now().astimezone().isoformat(timespec="seconds"),
        "verdict": verdict(by_benchmark, stage_rows, totals),
        "benchmarks": by_benchmark,
        "stages": [
            {key: value for key, value in row.items() if key != "metrics"} for row in stage_rows
        ],
        "totals": totals,
    }
    sets = [data(train, segments, experiment, benchmarks or {})]
    checks = [table for table in [handoff(stage_rows)] if table]
    environments = [*stages, *evaluations]
    content = {
        "summary": summary,
        "tiles": _tiles(by_benchmark, totals),
        "accuracy": [
            {
                "benchmark": name,
                "table": scores(name, rows),
                "pictures": _accuracy_pictures(name, rows),
            }
            for name, rows in by_benchmark.items()
        ],
        "curves": _curves(experiment, stage_rows),
        "stages": stage_rows,
        "cost": cost(stage_rows, totals),
        "cost_pictures": _cost_pictures(stage_rows),
        "data": sets,
        "data_pictures": _data_pictures(experiment, train, segments, evaluations, benchmarks or {}),
        "checks": checks,
        "versions": versions(environments),
        "machine": _machine(environments),
        "config": yaml.safe_dump(
            experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        ),
        "outcome": _outcome(experiment, stage_rows),
    }
    final = Path(output) / "reports" / f"{experiment.name}-seed{experiment.seed}"
    text = markdown(content)
    with new_folder(final) as folder:
        (folder / "figures").mkdir()
        for picture in _all_pictures(content):
            plots.save(picture.figure, folder / "figures", picture.name)
        (folder / "report.html").write_text(_page(content), encoding="utf-8")
        (folder / "report.md").write_text(text, encoding="utf-8")
        write_json(folder / "summary.json", _without_nan(summary))
    return Report(final / "report.html", text, final, summary)


def verdict(
    by_benchmark: Mapping[str, Sequence[dict]], stages: Sequence[dict], totals: Mapping[str, Any]
) -> list[str]:
    """What came of it: a sentence per benchmark, final checkpoint against base, then the cost."""
    sentences = []
    for name, rows in by_benchmark.items():
        base = next((row for row in rows if row["position"] == -1), None)
        last = rows[-1]
        score = f"avg@{last['k']}"
        if base is None or last is base:
            missing = "The base was" if base is None else "No trained checkpoint was"
            sentences.append(f"{missing} not evaluated on {name}, so nothing is compared there.")
            continue
        change = last["difference"]
        if change is None:
            sentences.append(
                f"On {name}, {score} was {percent(base['avg_at_k'])} for the base and "
                f"{percent(last['avg_at_k'])} at the end; the change could not be tested. "
                f"{last['note']}".strip()
            )
            continue
        problems = things(change["problems"], "problem")
        evidence = (
            f"{points(change['mean'])} points, paired 95 % interval "
            f"{span((change['low'], change['high']))}, {p_value(change['p_value'])}, {problems}"
        )
        if change["low"] > 0 or change["high"] < 0:
            way = "rose" if change["mean"] > 0 else "fell"
            sentences.append(
                f"On {name}, {score} {way} from {percent(base['avg_at_k'])} to "
                f"{percent(last['avg_at_k'])} ({evidence})."
            )
        else:
            sentences.append(
                f"On {name}, no change of {score} is resolved at this sample size ({evidence})."
            )
    spent = [things(totals["steps"], "step")] if totals["steps"] is not None else []
    if totals["tokens_generated"] is not None:
        spent.append(f"{count(totals['tokens_generated'])} generated tokens")
    if totals["seconds"] is not None:
        spent.append(duration(totals["seconds"]))
    if stages and spent:
        *most, final = spent
        listed = f"{', '.join(most)} and {final}" if most else final
        sentences.append(f"Cost of training, {things(len(stages), 'stage')}: {listed}.")
    return sentences


def terminal_summary(summary: Mapping[str, Any], *, ascii_only: bool = True) -> str:
    """The verdict and a table per benchmark, for the end of a run in a terminal.

    Args:
        summary: `Report.summary`.
        ascii_only: Whether to write ASCII, for terminals that know nothing else.
    """
    parts = ["\n".join(summary["verdict"])]
    for name, rows in summary["benchmarks"].items():
        k = rows[0]["k"]
        header = ["checkpoint", "context", "steps", f"avg@{k} (95 %)", f"pass@{k}"]
        header += ["cut off", "length", "tokens", "time"]
        lines = [
            [
                row["label"],
                number(row["context_length"]),
                number(row["steps"]),
                f"{percent(row['avg_at_k'])} ({span(row['avg_interval'], percent)})",
                percent(row["pass_at_k"]),
                percent(row["truncated_share"]),
                number(row["response_length_mean"]),
                count(row["trained_tokens"]),
                duration(row["trained_seconds"]),
            ]
            for row in rows
        ]
        widths = [max(map(len, column)) for column in zip(header, *lines, strict=True)]
        ruled = [header, ["-" * width for width in widths], *lines]
        table = [
            "  ".join(
                cell.ljust(width) if index == 0 else cell.rjust(width)
                for index, (cell, width) in enumerate(zip(line, widths, strict=True))
            )
            for line in ruled
        ]
        parts.append("\n".join([f"{name}, {things(rows[0]['problems'], 'problem')}", *table]))
    text = "\n\n".join(parts)
    return plain(text) if ascii_only else text


def markdown(content: Mapping[str, Any]) -> str:
    """The report without figures: title, verdict, tables, command, versions and settings."""
    summary = content["summary"]
    title = _literal(f"{summary['experiment']}, seed {summary['seed']}")
    parts = [f"# {title}", "\n\n".join(map(_literal, summary["verdict"]))]
    if content["outcome"]:
        parts.append(f"**{_literal(content['outcome'])}**")
    parts.append("## Accuracy")
    parts += [each["table"].markdown() for each in content["accuracy"]]
    parts += ["## Cost", content["cost"].markdown(), "## Data"]
    parts += [table.markdown() for table in content["data"]]
    parts += ["## Hand-off", *(table.markdown() for table in content["checks"])]
    parts += ["## Again", f"```bash\n{summary['command']}\n```", content["machine"]]
    parts += [content["versions"].markdown(), f"```yaml\n{content['config']}```"]
    return "\n\n".join(parts) + "\n"


def _literal(text: str) -> str:
    return Table.literal(text)


def _page(content: Mapping[str, Any]) -> str:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(Path(__file__).parent),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template("report.html.j2").render(**content, colours=plots.COLOURS)


def _tiles(
    by_benchmark: Mapping[str, Sequence[dict]], totals: Mapping[str, Any]
) -> list[tuple[str, str, str]]:
    """Name, number and remark of the few numbers at the top, for the first benchmark."""
    tiles = []
    for rows in list(by_benchmark.values())[:1]:
        base, last = rows[0], rows[-1]
        change, k = last["difference"], last["k"]
        if change:
            bounds = span((change["low"], change["high"]))
            tiles.append((f"avg@{k}, points", points(change["mean"]), f"95 %: {bounds}"))
        for name, key in ((f"avg@{k}", "avg_at_k"), (f"pass@{k}", "pass_at_k")):
            tiles.append((name, percent(last[key]), f"base {percent(base[key])}"))
        cut = percent(last["truncated_share"])
        tiles.append(("cut off", cut, f"base {percent(base['truncated_share'])}"))
    tiles.append(("tokens generated", count(totals["tokens_generated"]), "in training"))
    tiles.append(("time", duration(totals["seconds"]), "in training"))
    return tiles


def _accuracy_pictures(benchmark: str, rows: Sequence[dict]) -> list[Picture]:
    key = "".join(letter if letter.isalnum() else "-" for letter in benchmark)
    pictures = [
        Picture(
            f"accuracy-{key}",
            plots.scores(benchmark, rows),
            "Lines are 95 % intervals over problems.",
        )
    ]
    if any(row["difference"] for row in rows):
        pictures.append(
            Picture(
                f"change-{key}",
                plots.differences(benchmark, rows),
                "Paired: the same problems before and after. A line that does not touch zero is a "
                "resolved change.",
            )
        )
    return pictures


def _curves(experiment: Experiment, stages: Sequence[dict]) -> list[Picture]:
    limits = {
        "probability_difference/max": (experiment.hardware.probability_tolerance, "tolerance"),
        "grad_norm": (experiment.method.gradient_clip, "clipped above"),
    }
    pictures = []
    for name, title, unit, caption, look in CURVES:
        figure = plots.curve(title, unit, name, stages, limit=limits.get(name), **look)
        if figure is not None:
            lost = _lost_steps(stages, name)
            pictures.append(Picture(name.replace("/", "-"), figure, f"{caption} {lost}".strip()))
    return pictures


def _lost_steps(stages: Sequence[dict], name: str) -> str:
    lost = [
        f"{stage['first_step'] + row['step']} ({number(row[name])})"
        for stage in stages
        for row in stage["metrics"]
        if name in row and number(row[name]) in ("NaN", "∞", "−∞")
    ]
    if not lost:
        return ""
    more = f" and {len(lost) - 8} more" if len(lost) > 8 else ""
    return f"Crosses: no finite value at step {', '.join(lost[:8])}{more}."


def _cost_pictures(stages: Sequence[dict]) -> list[Picture]:
    if not stages:
        return []
    return [Picture("tokens", plots.tokens(stages)), Picture("seconds", plots.seconds(stages))]


def _data_pictures(
    experiment: Experiment,
    train: Dataset,
    segments: Mapping[str, Dataset],
    evaluations: Sequence[dict],
    benchmarks: Mapping[str, Dataset],
) -> list[Picture]:
    length_of = experiment.data.segmentation.length_of
    lengths = results.prompt_lengths(train, length_of)
    first = next(iter(segments.values()), None)
    threshold = first.manifest.get("threshold") if first else None
    pictures = []
    if len(lengths):
        figure, beyond = plots.lengths(lengths, threshold, length_of)
        caption = f"{things(len(lengths), 'training prompt')}, mean {lengths.mean():,.2f} characters."
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
            key = "".join(letter if letter.isalnum() else "-" for letter in name)
            pictures.append(
                Picture(
                    f"length-needed-{key}",
                    plots.length_needed(series),
                    f"Correct responses on {name}; each point is one level of difficulty, "
                    "numbered. Longer prompts that need longer responses are what a curriculum "
                    "by prompt length assumes.",
                )
            )
    return pictures


def _all_pictures(content: Mapping[str, Any]) -> list[Picture]:
    accuracy = [picture for each in content["accuracy"] for picture in each["pictures"]]
    return accuracy + content["curves"] + content["cost_pictures"] + content["data_pictures"]


def _machine(records: Sequence[dict]) -> str:
    environments = [record["environment"] for record in records if record.get("environment")]
    if not environments:
        return f"Written with Python {platform.python_version()} on {platform.platform()}."
    first = environments[0]
    parts = [
        f"Python {first['python']}" if first.get("python") else "",
        str(first.get("platform") or ""),
        things(int(first["cpus"]), "CPU") if first.get("cpus") else "",
        f"engine {first['engine']}" if first.get("engine") else "",
        f"commit {first['git_commit']}" if first.get("git_commit") else "",
    ]
    return ", ".join(part for part in parts if part) + "."


def _outcome(experiment: Experiment, stages: Sequence[dict]) -> str:
    unfinished = [row for row in stages if row["outcome"] not in (None, "finished")]
    missing = len(experiment.stages) - len(stages)
    said = [f"Stage {row['name']} {row['outcome']}." for row in unfinished]
    if missing > 0:
        said.append(f"{things(missing, 'stage')} of {len(experiment.stages)} not trained.")
    return " ".join(said)


def _without_nan(value: Any) -> Any:
    """The same with null for NaN, which JSON does not know."""
    if isinstance(value, dict):
        return {key: _without_nan(each) for key, each in value.items()}
    if isinstance(value, list | tuple):
        return [_without_nan(each) for each in value]
    return None if isinstance(value, float) and value != value else value
