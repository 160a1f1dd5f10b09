"""The report of a run: one page that works from disk, and the same as markdown."""

import json
import platform
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

import yaml

from conf.schema import Experiment
from tasks import pictures, results
from tasks.artifacts import Dataset, digest_of, file_digest, new_folder, write_json
from tasks.page import page, without_nan
from tasks.reports import PAGE, SUMMARY, folder_of, keep_aside, read_summary
from tasks.tables import Table, cost, data, handoff, scores, versions
from tasks.verdict import outcome, terminal_summary, tiles, unscored, verdict
from tasks.words import things
from trainer import metrics

# Files of a stage's and of an evaluation's folder that a report is made of, beside the manifest.
READ = ("metrics.jsonl", "responses.parquet")

__all__ = ["Report", "markdown", "terminal_summary", "write_report"]


@dataclass(frozen=True)
class Report:
    """A finished report.

    Attributes:
        html: The page.
        markdown: The same content without figures.
        folder: Folder of report.html, report.md, summary.json and figures/.
        summary: The numbers: `verdict` sentences, `benchmarks` with a row per checkpoint,
            `stages`, `totals`, benchmarks `unscored` at the end, `experiment`, `seed`, `command`,
            `written`, and `made_of`, a digest.
        aside: Which report of before was kept and why, in lines, or "": see `tasks.reports`.
    """

    html: Path
    markdown: str
    folder: Path
    summary: dict[str, Any]
    aside: str = ""


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
    together is said beside the number: neither stops the report. One that was made of the same,
    by the same code, is left as it is; one that shows what this one does not is kept aside.

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
        "unscored": unscored(
            [source.name for source in experiment.evaluation.benchmarks], by_benchmark, stage_rows
        ),
        "stages": [
            {key: value for key, value in row.items() if key != "metrics"} for row in stage_rows
        ],
        "totals": totals,
        "settings": experiment.model_dump(mode="json"),
        "kept": {
            "stages": [_kept(each, output) for each in stages],
            "evaluations": [_kept(each, output) for each in evaluations],
        },
    }
    final = folder_of(output, experiment.name, experiment.seed)
    summary["made_of"] = _made_of(
        [experiment, command],
        [train, *segments.values(), *(benchmarks or {}).values()],
        [*stages, *evaluations],
    )
    if (before := _before(final)).get("made_of") == summary["made_of"]:
        text = (final / "report.md").read_text(encoding="utf-8")
        return Report(final / PAGE, text, final, summary | {"written": before["written"]})
    sets = [data(train, segments, experiment, benchmarks or {})]
    checks = [table for table in [handoff(stage_rows)] if table]
    environments = [*stages, *evaluations]
    content = {
        "summary": summary,
        "tiles": tiles(by_benchmark, totals, stage_rows),
        "accuracy": [
            {
                "benchmark": name,
                "table": scores(name, rows),
                "pictures": pictures.of_accuracy(name, rows),
            }
            for name, rows in by_benchmark.items()
        ],
        "curves": pictures.of_training(experiment, stage_rows),
        "stages": stage_rows,
        "cost": cost(stage_rows, totals),
        "cost_pictures": pictures.of_cost(stage_rows),
        "data": sets,
        "data_pictures": pictures.of_data(
            experiment, train, segments, evaluations, benchmarks or {}
        ),
        "checks": checks,
        "versions": versions(environments),
        "machine": _machine(environments),
        "config": yaml.safe_dump(
            experiment.model_dump(mode="json"), sort_keys=False, allow_unicode=True
        ),
        "outcome": outcome(experiment, stage_rows),
    }
    text = markdown(content)
    with new_folder(final) as folder:
        (folder / "figures").mkdir()
        for picture in _all_pictures(content):
            file = folder / "figures" / f"{picture.name}.svg"
            file.write_text(picture.svg, encoding="utf-8")
            file.with_suffix(".png").write_bytes(picture.png)
        (folder / PAGE).write_text(page("report.html.j2", content), encoding="utf-8")
        (folder / "report.md").write_text(text, encoding="utf-8")
        write_json(folder / SUMMARY, without_nan(summary))
        aside = keep_aside(final, summary)
    return Report(final / PAGE, text, final, summary, aside)


def _made_of(
    settings: Sequence[Any], datasets: Sequence[Dataset], manifests: Sequence[Mapping[str, Any]]
) -> str:
    """The digest of all that a report shows, and of what draws it: the same again is not drawn."""
    folders = [Path(manifest["folder"]) for manifest in manifests]
    return digest_of(
        {
            "settings": settings,
            "data": [dataset.digest for dataset in datasets],
            # As text: what a run recorded may hold NaN.
            "manifests": json.dumps(
                [dict(each) for each in manifests], sort_keys=True, default=str
            ),
            "files": [
                file_digest(folder / name)
                for folder in folders
                for name in READ
                if (folder / name).is_file()
            ],
            "drawn by": [
                file_digest(file)
                for part in (__file__, metrics.__file__)
                for file in sorted(Path(part).parent.glob("*.*"))
            ],
            "with": version("matplotlib"),
        }
    )


def _before(folder: Path) -> dict[str, Any]:
    """The summary of the report that is there, if it is all there."""
    found = read_summary(folder)
    whole = all((folder / name).is_file() for name in (PAGE, "report.md"))
    return found if whole and any(folder.glob("figures/*.svg")) else {}


def _kept(manifest: Mapping[str, Any], output: Path | str) -> dict[str, Any]:
    """Where a stage or an evaluation lies, from the output folder, and its place in this run."""
    folder = Path(manifest["folder"]).absolute().relative_to(Path(output).absolute())
    names = ("name", "label", "position")
    return {"folder": str(folder), **{key: manifest[key] for key in names if key in manifest}}


def markdown(content: Mapping[str, Any]) -> str:
    """The report without figures: title, verdict, tables, command, versions and settings."""
    summary = content["summary"]
    title = _literal(f"{summary['experiment']}, seed {summary['seed']}")
    parts = [f"# {title}", "\n\n".join(map(_literal, summary["verdict"]))]
    if content["outcome"]:
        parts.append(f"**{_literal(content['outcome'])}**")
    parts.append("## Accuracy")
    if lacking := summary["unscored"]:
        names = _literal(", ".join(lacking))
        parts.append(f"The last checkpoint was not evaluated on {names} with these settings.")
    parts += [each["table"].markdown() for each in content["accuracy"]]
    parts += ["## Cost", content["cost"].markdown(), "## Data"]
    parts += [table.markdown() for table in content["data"]]
    parts += ["## Hand-off", *(table.markdown() for table in content["checks"])]
    parts += ["## Run it again", f"```bash\n{summary['command']}\n```", content["machine"]]
    parts += [content["versions"].markdown(), f"```yaml\n{content['config']}```"]
    return "\n\n".join(parts) + "\n"


def _literal(text: str) -> str:
    return Table.literal(text)


def _all_pictures(content: Mapping[str, Any]) -> list[pictures.Picture]:
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
