import os
import re
from pathlib import Path

import pytest

from conf.load import load
from tasks.artifacts import read_json, write_json
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
    assert (run.name, run.seed, run.begun, run.finished, run.report) == (
        "lab_smoke", 0, 2, 2, str(page)
    )  # fmt: skip


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
    assert (run.name, run.seed, run.begun) == ("twin", 3, 0)
