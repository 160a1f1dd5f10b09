"""The report of a study, or of a pair of runs: one page that works from disk, and as markdown."""

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any

from tasks import study_plots as plots
from tasks import study_tables as tables
from tasks.artifacts import new_folder, write_json
from tasks.comparison import Comparison
from tasks.lineage import lineage
from tasks.page import page, without_nan
from tasks.pictures import Picture, file_name
from tasks.report import Report
from tasks.sharing import Sharing
from tasks.study_verdict import verdict
from tasks.tables import Table, versions
from tasks.words import percent, things

TRAINING = (
    # metric, title, vertical axis, against, is a share
    ("reward/mean", "Reward", "mean reward of a rollout", "updates", False),
    ("reward/mean", "Reward", "mean reward of a rollout", "tokens_generated", False),
    ("reward/mean", "Reward", "mean reward of a rollout", "device_seconds", False),
    ("response_length/mean", "Response length", "mean tokens of a rollout", "updates", False),
    ("truncated_share", "Truncated responses", "rollouts cut off (%)", "updates", True),
    ("zero_variance_share", "Groups without contrast", "all right or all wrong (%)",
     "updates", True),
    ("entropy", "Entropy", "entropy per token (nats)", "updates", False),
)  # fmt: skip


def write_study_report(
    found: Comparison, shared: Sharing, *, folder: Path | str, command: str
) -> Report:
    """Write the report of a comparison.

    What failed or was not recorded is said in it, and stops nothing.

    Args:
        found: The numbers.
        shared: Which stages the runs share.
        folder: Where it goes; replaced if it exists.
        command: The command that made this study, to the letter.

    Returns:
        `tasks.report.Report`, its summary with `verdict`, `missing`, `benchmarks` by arm, `runs`.
    """
    content = _content(found, shared, command)
    final = Path(folder)
    text = markdown(content)
    with new_folder(final) as aside:
        (aside / "figures").mkdir()
        for picture in _all_pictures(content):
            file = aside / "figures" / f"{picture.name}.svg"
            file.write_text(picture.svg, encoding="utf-8")
            file.with_suffix(".png").write_bytes(picture.png)
        (aside / "report.html").write_text(page("study.html.j2", content), encoding="utf-8")
        (aside / "report.md").write_text(text, encoding="utf-8")
        write_json(aside / "summary.json", without_nan(content["summary"]))
    return Report(final / "report.html", text, final, content["summary"])


def _content(found: Comparison, shared: Sharing, command: str) -> dict[str, Any]:
    study = found.study
    records = [each for run in found.runs for each in (*run.stages, *run.evaluations)]
    return {
        "summary": {
            "study": study.name,
            "question": study.question,
            "arms": [arm.name for arm in study.arms],
            "baseline": study.reference.name,
            "seeds": found.seeds(),
            "command": command,
            "written": datetime.now().astimezone().isoformat(timespec="seconds"),
            "verdict": verdict(found, shared),
            "missing": found.missing,
            "benchmarks": {
                name: {"base": on.base, "arms": on.arms} for name, on in found.benchmarks.items()
            },
            "runs": [_run(run) for run in found.runs],
            "sharing": {"alone": shared.alone, "shared": shared.shared},
        },
        "level": f"{100 * study.level:g} %",
        "compared": things(comparisons(found), "comparison"),
        "accuracy": [_on(found, name) for name in found.benchmarks],
        "average": tables.average(found),
        "spent": tables.budgets(found),
        "curves": [
            Picture(
                f"{file_name(metric)}-{file_name(budget)}", figure
            )
            for metric, title, unit, budget, share in TRAINING
            if (figure := plots.training(found, metric, title, unit, budget, share=share))
        ],
        "problems": [
            Picture(f"problems-{file_name(on.name)}-{file_name(arm.name)}", figure)
            for on in found.benchmarks.values()
            for arm in study.arms
            if (figure := plots.by_problem(found, on, arm.name))
        ],
        "lineage": Picture("lineage", lineage(study, shared)),
        "saved": _saved(shared),
        "differences": tables.differences(found),
        "commands": tables.commands(found),
        "versions": versions(records),
        "determinism": determinism(found),
    }  # fmt: skip


def comparisons(found: Comparison) -> int:
    """How many differences the study tests, which is what Holm corrects for."""
    arms = [arm for on in found.benchmarks.values() for arm in on.arms.values()]
    return sum(bool(arm["difference"]) for arm in arms)


def _on(found: Comparison, name: str) -> dict[str, Any]:
    on, file, compared = found.benchmarks[name], file_name(name), comparisons(found)
    drawn = [
        (
            f"accuracy-{file}",
            plots.scores(found, on),
            f"Lines are {100 * found.study.level:g} % intervals, cut at 0 and 100 %.",
        ),
        (
            f"difference-{file}",
            plots.differences(found, on),
            f"Lines are {100 * found.study.level:g} % intervals of one comparison. Grey: "
            "differences that this design misses more than 2 times in 10"
            + (f", corrected for {things(compared, 'comparison')}." if compared > 1 else "."),
        ),
    ]
    costs = [
        (f"learning-{file}-{file_name(budget)}", plots.learning(found, on, budget), "")
        for budget in plots.AXES
    ]
    costs += [
        (
            f"frontier-{file}",
            plots.frontier(found, on, "tokens_generated"),
            "One mark for each seed. Grey: the best score up to each number of tokens.",
        )
    ]
    return {
        "table": tables.scores(found, on),
        "matched": tables.matched(found, on),
        "targets": tables.targets(found, on),
        "pictures": [Picture(*each) for each in drawn if each[1]],
        "curves": [Picture(*each) for each in costs if each[1]],
    }


def _run(run: Any) -> dict[str, Any]:
    return {
        "arm": run.arm,
        "seed": run.settings.seed,
        "command": run.command,
        "failure": run.failure,
        "stages": [Path(stage["folder"]).name for stage in run.stages],
        "evaluations": [Path(each["folder"]).name for each in run.evaluations],
        "cost": run.costs().get(len(run.settings.stages) - 1),
    }


def _saved(shared: Sharing) -> str:
    saved = shared.saved("steps_at_128")
    if not saved:
        return "These arms share no stages."
    return (
        f"Sharing stages saved {percent(saved)} of the prompts, and "
        f"{percent(shared.saved('tokens_at_most'))} of the tokens if all responses had full length."
    )


def determinism(found: Comparison) -> str:
    """How far the same command gives the same numbers again."""
    hardware = [run.settings.hardware for run in found.runs]
    if all(one.device == "cpu" and one.rollout == "torch" for one in hardware):
        return (
            "Determinism: each response has a seed of its own and all arithmetic is on CPUs; the "
            "same machine, versions and number of threads give the same results."
        )
    return (
        "Determinism: each response has a seed of its own, but the engine's batches change the "
        "rounding of probabilities, so another run draws different responses and its scores "
        "differ by chance."
    )


def markdown(content: Mapping[str, Any]) -> str:
    """The report without figures."""
    summary, literal = content["summary"], Table.literal
    parts = [f"# {literal(summary['study'])}", literal(summary["question"])]
    parts += [literal(each) for each in summary["verdict"]]
    parts += [f"**{literal(each)}**" for each in summary["missing"]]
    parts.append("## Accuracy")
    parts += [each["table"].markdown() for each in content["accuracy"]]
    parts += [content["average"].markdown()] if content["average"] else []
    parts.append("## Accuracy and cost")
    for each in content["accuracy"]:
        parts += [each[kind].markdown() for kind in ("matched", "targets") if each[kind]]
    parts += [content["spent"].markdown(), "## What was compared", content["saved"]]
    parts += [content["differences"].markdown(), "## Run it again"]
    parts += [f"```bash\n{summary['command']}\n```", content["determinism"]]
    parts += [content["commands"].markdown(), content["versions"].markdown()]
    return "\n\n".join(part for part in parts if part) + "\n"


def _all_pictures(content: Mapping[str, Any]) -> list[Picture]:
    of = [p for each in content["accuracy"] for p in (*each["pictures"], *each["curves"])]
    return [*of, *content["curves"], *content["problems"], content["lineage"]]
