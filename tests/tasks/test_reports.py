"""Which reports are replaced, which are kept, and who finds which."""

import json
import shutil

import pytest

from tasks.artifacts import digest_of
from tasks.report import write_report
from tasks.reports import kept_aside, of_settings, reports
from tasks.status import status

pytestmark = pytest.mark.usefixtures("plain_figures")


@pytest.fixture
def run(tmp_path, made_up_run):
    stages = (("short", "L1", 64), ("middle", "L2", 128))
    return made_up_run(
        tmp_path, steps=2, problems=12, samples=2, stages=stages, recorded=("reward/mean",)
    )


def write(run, *, stages=2, evaluations=3, **changed):
    """The report of the first stages and scores, with settings of the evaluation changed."""
    evaluation = run.experiment.evaluation.model_copy(update=changed)
    parts = {"stages": run.given["stages"][:stages]}
    parts["evaluations"] = run.given["evaluations"][:evaluations]
    experiment = run.experiment.model_copy(update={"evaluation": evaluation})
    return write_report(experiment, **run.given | parts)


def elsewhere(run):
    """The same run scored anew: its scores lie in other folders."""
    for each in run.given["evaluations"]:
        moved = each["folder"].with_name(f"other-{each['folder'].name}")
        each["folder"] = shutil.copytree(each["folder"], moved, dirs_exist_ok=True)


def test_what_a_report_has_more_of_replaces_it(run, tmp_path):
    write(run, stages=1, evaluations=2)
    assert write(run).aside == ""
    assert [folder.name for folder in (tmp_path / "reports").iterdir()] == ["lab_fastcurl-seed0"]


def test_a_report_with_other_settings_is_kept_with_what_differs(run, tmp_path):
    first = write(run)
    elsewhere(run)
    second = write(run, temperature=0.9)
    [aside] = kept_aside(second.folder)
    assert json.loads((aside / "summary.json").read_text())["written"] == first.summary["written"]
    head, *changed, hint = second.aside.splitlines()
    assert head.startswith(f"the report that was there is kept: {aside / 'report.html'}; ")
    assert changed == ["  evaluation.temperature: 0.6 -> 0.9"] and "name=..." in hint
    assert "temperature: 0.9" in (second.folder / "report.md").read_text()

    # Readers of runs see one; who looks for settings finds theirs, and any other the newest.
    assert reports(tmp_path) == [second.folder]
    assert [one.report for one in status(tmp_path).runs if one.report] == [str(second.html)]
    wanted = [one.summary["settings"] for one in (first, second)]
    assert [of_settings(second.folder, digest_of(one)) for one in wanted] == [aside, second.folder]
    assert of_settings(second.folder, "unknown") == second.folder


def test_reports_that_take_turns_are_kept_once_each(run):
    there = run.given["evaluations"]
    for turn in range(4):
        run.given["evaluations"] = [dict(each) for each in there]
        if turn % 2:
            elsewhere(run)
        last = write(run, temperature=0.6 + 0.3 * (turn % 2))
        assert len(kept_aside(last.folder)) == min(turn, 2)
    assert last.aside, "where the one before is kept is told each time"


def test_a_report_of_fewer_stages_leaves_the_larger_one(run):
    whole = write(run)
    part = write(run, stages=1, evaluations=2)
    [aside] = kept_aside(whole.folder)
    head, *lost = part.aside.splitlines()
    assert head.endswith("; it alone shows:") and lost == [
        "  evaluations/lab-middle", "  stages/middle-0123456789ab"
    ]  # fmt: skip
    assert "middle" in (aside / "report.md").read_text().partition("## Data")[0]


def test_a_report_says_on_which_benchmarks_nothing_was_evaluated(run):
    written = write(run, evaluations=0)
    assert written.summary["unscored"] == ["lab"]
    for name in ("report.html", "report.md"):
        text = (written.folder / name).read_text()
        assert "The last checkpoint was not evaluated on lab with these settings." in text
    assert write(run).summary["unscored"] == []
