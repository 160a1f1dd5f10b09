import os
import re
import shutil
from pathlib import Path

import pytest

from conf.load import load
from tasks.artifacts import read_json, write_json
from tasks.journal import Journal, journals
from tasks.labels import flat
from tasks.stages import alone, stage_folders
from tasks.status import status


@pytest.fixture
def smoke(tmp_path):
    def settings(*overrides):
        return load("experiment=lab/smoke", f"output={tmp_path / 'out'}", *overrides)

    return settings


def test_an_empty_folder_has_neither_runs_nor_stages(tmp_path):
    found = status(tmp_path / "nothing")
    assert (found.runs, found.stages, found.remarks) == ([], [], [])


def test_finished_stages_and_their_run_are_shown_in_order(smoke, train, tmp_path):
    folders = [stage["folder"].name for stage in train(smoke())]
    page = tmp_path / "out" / "reports" / "lab_smoke-seed0" / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>")
    found = status(tmp_path / "out")
    assert [stage.folder for stage in found.stages] == folders
    first = found.stages[0]
    assert (first.outcome, first.steps, first.steps_asked) == ("finished", 2, 2)
    assert first.reward == 0.25 and first.checkpoint == "there" and first.reason == ""
    assert first.bytes > 100 and first.seconds >= 0 and first.when > 1.7e9
    [run] = found.runs
    # No run is recorded here, so how many stages it was to have is not known.
    assert (run.name, run.seed, run.stages, run.finished, run.report) == (
        "lab_smoke", 0, None, 2, str(page)
    )  # fmt: skip


def recorded(settings, stages, what="") -> None:
    """The journal of a run that made or found stages."""
    name = f"{settings.name} seed {settings.seed}{what}"
    journal = Journal.begin(Path(settings.output), settings.name, "", name=name)
    journal.folder = journal.folder.with_name(f"{len(journals(Path(settings.output))):02}")
    journal.run.params = flat(settings)
    for stage in stages:
        tags = {"stagecraft.config_digest": stage["digest"]}
        journal.child("stage", stage["name"], tags=tags).end("finished")
    journal.write()


def counted(output) -> list[tuple]:
    return [(run.name, run.finished, run.stages) for run in status(output).runs]


def test_stages_are_counted_of_those_that_the_last_run_has(smoke, train, tmp_path):
    output = tmp_path / "out"
    recorded(smoke(), [])  # interrupted before its first stage
    assert counted(output) == [("lab_smoke", 0, 2)]
    before = train(smoke("seed=0", "stages.1.steps=3"))
    recorded(smoke("stages.1.steps=3"), before)
    mine = train(smoke())
    recorded(smoke(), mine)
    recorded(smoke("evaluation.samples=9"), [], ", evaluation")  # trains nothing
    assert len(stage_folders(output)) == 3
    assert counted(output) == [("lab_smoke", 2, 2)]
    recorded(smoke("name=twin"), mine)
    assert counted(output) == [("lab_smoke", 2, 2), ("twin", 2, 2)]
    shutil.rmtree(mine[1]["folder"])
    assert counted(output) == [("lab_smoke", 1, 2), ("twin", 1, 2)]


def test_stages_that_were_trained_one_by_one_count_together(smoke, train, tmp_path):
    for stage in train(smoke()):
        recorded(smoke(), [stage], f", stage {stage['name']}")
    assert counted(tmp_path / "out") == [("lab_smoke", 2, 2)]


def test_why_a_stage_failed_is_told_in_one_line(smoke, train, tmp_path):
    with pytest.raises(RuntimeError):
        train(smoke(), stop=(0, 1, RuntimeError("out of memory\nat line 7")))
    [stage] = status(tmp_path / "out").stages
    assert (stage.outcome, stage.reason) == ("failed", "out of memory")
    assert (stage.steps, stage.steps_asked, stage.checkpoint) == (1, 2, "not yet")


def test_running_interrupted_and_killed_are_told_apart(smoke, train, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(smoke(), stop=(0, 1, KeyboardInterrupt()))
    [folder] = stage_folders(tmp_path / "out")
    assert status(tmp_path / "out").stages[0].outcome == "interrupted"

    write_json(folder / "stage.json", {**read_json(folder / "stage.json"), "outcome": "running"})
    with alone(folder):
        assert status(tmp_path / "out").stages[0].outcome == f"running (process {os.getpid()})"
    killed = status(tmp_path / "out").stages[0]
    assert killed.outcome == "killed" and "goes on from its last checkpoint" in killed.reason


def test_a_finished_stage_without_checkpoint_says_so(smoke, train, tmp_path):
    [stage] = train(smoke(), stages=1)
    os.rename(stage["folder"] / "checkpoint", tmp_path / "away")
    assert status(tmp_path / "out").stages[0].checkpoint == "gone"


def test_damaged_files_are_told_and_stop_nothing(smoke, train, tmp_path):
    stages = train(smoke())
    (stages[0]["folder"] / "stage.json").write_text('{"kind": "sta')
    (stages[1]["folder"] / "metrics.jsonl").write_text("{broken\n")
    (Path(smoke().output) / "stages" / "empty-0123456789ab").mkdir()
    found = status(tmp_path / "out")
    by_name = {re.sub(r"-\w{12}$", "", stage.folder): stage for stage in found.stages}
    assert by_name["1-L1-64"].outcome == "unknown" and by_name["empty"].outcome == "unknown"
    assert (by_name["2-L2-96"].outcome, by_name["2-L2-96"].steps) == ("finished", 0)
    assert len(found.remarks) == 1 and "kept as stage.json.corrupt-" in found.remarks[0]


def test_a_report_of_stages_that_others_trained_is_shown(smoke, tmp_path):
    page = tmp_path / "out" / "reports" / "twin-seed3" / "report.html"
    page.parent.mkdir(parents=True)
    page.write_text("<p>")
    [run] = status(tmp_path / "out").runs
    assert (run.name, run.seed, run.stages, run.finished) == ("twin", 3, None, 0)
