"""Two runs that were made for themselves, compared as a study of two arms would be."""

from collections.abc import Callable
from pathlib import Path

from conf.load import checked
from conf.schema.study import Arm, Study
from tasks.arm_runs import ArmRun
from tasks.artifacts import read_json
from tasks.comparison import Comparison, compare
from tasks.evaluations import read_evaluation
from tasks.sharing import Sharing, sharing
from tasks.stages import read_manifest

SUMMARY = "summary.json"


def pair(output: Path | str, one: str, other: str) -> tuple[Comparison, Sharing]:
    """Compare a run with another, by what they left on disk.

    Args:
        output: Folder that both were written under.
        one: The baseline: a run as its folder below reports/ is named, or the path of that folder.
        other: What is compared with it.

    Returns:
        The numbers, and which stages the two share.

    Raises:
        ValueError: there is no such run; its report is damaged, or of before reports said what
            they are of; a stage or a score of it is no longer there; both are the same.
    """
    summaries = [_summary(Path(output), name) for name in (one, other)]
    runs = [_run(folder, summary) for folder, summary in summaries]
    if summaries[0][0] == summaries[1][0]:
        raise ValueError(f"{one} is compared with itself\n\nhint: name two runs")
    study = Study(
        name="pair",
        question=f"Is {runs[1].arm} better than {runs[0].arm}?",
        arms=[Arm(name=run.arm) for run in runs],
        seeds=[0],
    )
    found = compare(study, runs)
    return found, sharing(
        [(f"{run.arm} seed 0", run.settings) for run in runs],
        [[str(stage["folder"].resolve()) for stage in run.stages] for run in runs],
    )


def _summary(output: Path, name: str) -> tuple[Path, dict]:
    folder = output / "reports" / name
    folder = folder if folder.is_dir() else Path(name)
    path = folder / SUMMARY
    if not path.is_file():
        there = sorted(each.parent.name for each in output.glob(f"reports/*/{SUMMARY}"))
        raise ValueError(
            f"{name} is no run: found {', '.join(there) or 'none'} in {output / 'reports'}\n\n"
            "hint: name one of these, or another folder with --output"
        )
    summary = read_json(path)
    if not isinstance(summary, dict) or "kept" not in summary:
        raise ValueError(
            f"{path} does not say which stages and evaluations it was made of\n\n"
            "hint: write it anew with python -m flows.report and the run's settings"
        )
    return folder.absolute(), summary


def _run(folder: Path, summary: dict) -> ArmRun:
    output = folder.parents[1]
    try:
        stages, evaluations = (
            [
                _made(folder.name, output / one["folder"], read, summary["command"])
                | {**one, "folder": output / one["folder"]}
                for one in summary["kept"][kind]
            ]
            for kind, read in (("stages", read_manifest), ("evaluations", read_evaluation))
        )
        # As arms both have seed 0: what is paired are the problems, the seeds are their own.
        return ArmRun(
            folder.name, 0, checked(summary["settings"]), summary["command"], stages, evaluations
        )
    except (KeyError, TypeError) as error:
        raise ValueError(
            f"{folder / SUMMARY} is damaged: {error}\n\n"
            "hint: delete it, and write it anew with python -m flows.report and the run's settings"
        ) from error


def _made(run: str, folder: Path, read: Callable, command: str) -> dict:
    """The manifest of a stage or of an evaluation that a run consists of."""
    manifest, complaint = read(folder)
    outcome = manifest.get("outcome", "finished") if manifest else complaint or "it was deleted"
    if outcome != "finished":
        raise ValueError(
            f"{run} was made of {folder}, which is not finished: {outcome}\n\n"
            f"hint: this makes what is missing, and only that: {command}"
        )
    return manifest
