"""Two runs that were made for themselves, compared as a study of two arms would be."""

from pathlib import Path

from conf.load import checked
from conf.schema.study import Arm, Study
from tasks.arm_runs import ArmRun
from tasks.artifacts import read_json
from tasks.comparison import Comparison, compare
from tasks.sharing import Sharing, sharing


def pair(output: Path | str, one: str, other: str) -> tuple[Comparison, Sharing]:
    """Compare a run with another, by what they left on disk.

    Args:
        output: Folder that both were written under.
        one: The baseline: a run as its folder below reports/ is named, or the path of that folder.
        other: What is compared with it.

    Returns:
        The numbers, and which stages the two share.

    Raises:
        ValueError: there is no such run; it was written before reports said what they are of;
            both are the same.
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
    return found, sharing([(f"{run.arm} seed 0", run.settings) for run in runs])


def _summary(output: Path, name: str) -> tuple[Path, dict]:
    folder = output / "reports" / name
    folder = folder if folder.is_dir() else Path(name)
    path = folder / "summary.json"
    if not path.is_file():
        there = sorted(each.parent.name for each in output.glob("reports/*/summary.json"))
        raise ValueError(
            f"{name} is no run: found {', '.join(there) or 'none'} in {output / 'reports'}\n\n"
            "hint: name one of these, or another folder with --output"
        )
    summary = read_json(path)
    if "kept" not in summary:
        raise ValueError(
            f"{path} does not say which stages and evaluations it is of\n\n"
            "hint: write it anew with python -m flows.report and the run's settings"
        )
    return folder.absolute(), summary


def _run(folder: Path, summary: dict) -> ArmRun:
    output = folder.parents[1]
    read = {
        kind: [
            {**read_json(output / kept["folder"] / file), **kept, "folder": output / kept["folder"]}
            for kept in summary["kept"][kind]
        ]
        for kind, file in (("stages", "stage.json"), ("evaluations", "evaluation.json"))
    }
    # As arms both have seed 0: what is paired are the problems, the seeds are their own.
    return ArmRun(
        folder.name, 0, checked(summary["settings"]), summary["command"],
        read["stages"], read["evaluations"],
    )  # fmt: skip
