"""The GPU benchmark's launches: kept one by one, none made twice, counted by whole rounds."""

import json
import sys

import pytest

from benchmarks import gpu


@pytest.fixture
def made(monkeypatch, tmp_path):
    """Launches that take no time: which were made. A third argument makes one fail."""
    launched = []

    def measured(system, work, folder):
        if launched == measured.fails_at:
            folder.mkdir(parents=True)
            (folder / "log").write_text("no memory")
            raise RuntimeError("ended with exit code 1")
        launched.append((system, work.response))
        keys = ("launch_s", "launch_cpu_s", "step_s", "step_cpu_s", "peak_gib")
        seconds = {"ours": 2.0, "stock": 3.0}[system]
        return {**dict.fromkeys(keys, seconds), "parts": {"generate": seconds / 2}}

    measured.fails_at = None
    monkeypatch.setattr(gpu, "measured", measured)
    monkeypatch.setattr(gpu, "random_model", lambda name, folder, *_: folder)
    launched_by = {"of": measured, "launched": launched, "output": tmp_path / "gpu"}

    def run(*words):
        words = ["--tiny", "--rounds", "2", "--output", str(tmp_path / "gpu"), *words]
        monkeypatch.setattr(sys, "argv", ["benchmarks.gpu", *words])
        monkeypatch.setattr(sys, "orig_argv", ["python", "-m", "benchmarks.gpu", *words])
        gpu.main()

    run.__dict__.update(launched_by)
    return run


def test_one_launch_a_command_comes_to_the_same_as_all_in_one(made, capsys):
    for number in range(1, 9):
        made("--launches", "1")
        assert len(made.launched) == number
        assert made.output.with_suffix(".json").exists() == (number > 1)
    assert made.launched == [(system, size) for size in (8, 16) for _ in (1, 2)
                             for system in ("ours", "stock")]  # fmt: skip
    found = json.loads(made.output.with_suffix(".json").read_text())["results"]
    assert [len(each["rounds"]) for each in found] == [2, 2]
    assert found[0]["summary"]["stock"]["step_s_of_ours"] == 1.5
    page = made.output.with_suffix(".md").read_text()
    assert all(each["size"] in page for each in found)
    made()
    assert len(made.launched) == 8, "none is made twice"


def test_a_launch_that_fails_keeps_its_log_and_those_before_it(made):
    made.of.fails_at = [("ours", 8)]
    with pytest.raises(RuntimeError, match="exit code 1"):
        made()
    assert (made.output.parent / "gpu-failed.log").read_text() == "no memory"
    made.of.fails_at = None
    made()
    assert len(made.launched) == 8


def test_launches_of_other_code_or_steps_are_not_counted(made, monkeypatch):
    made()
    monkeypatch.setattr(gpu, "code", lambda: "other")
    made("--launches", "1")
    assert len(made.launched) == 9


@pytest.mark.parametrize("name", ["0.5B", "1.5B"])
def test_each_step_has_as_many_tokens_and_no_pass_more_than_are_said(name):
    works = gpu.works(name, [*gpu.LENGTHS, gpu.AROUND], 5)
    *long, around = works
    assert {work.tokens for work in long} == {gpu.TOKENS}
    assert around.prompts * around.rollouts == 2048
    assert all(work.micro_batch * work.response <= gpu.PASS for work in works)
