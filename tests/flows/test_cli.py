import json
import os
import subprocess
import sys
import time
import tomllib
from importlib import import_module
from pathlib import Path

import pytest

from conf.load import load
from flows.cli import main, table

ROOT = Path(__file__).parents[2]


@pytest.fixture
def smoke(tmp_path):
    return load("experiment=lab/smoke", f"output={tmp_path / 'out'}")


@pytest.fixture
def output(smoke) -> str:
    return smoke.output


def test_the_command_is_installed_and_leads_here():
    scripts = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["scripts"]
    module, _, name = scripts["stagecraft"].partition(":")
    assert getattr(import_module(module), name) is main


def test_looking_loads_neither_trainer_nor_flow_nor_tracking(tmp_path):
    code = (
        "import sys; from flows.cli import main\n"
        f"main(['plan', 'experiment=lab/smoke', 'output={tmp_path}/out'])\n"
        f"main(['status', '--output', '{tmp_path}']); main(['gc', '--output', '{tmp_path}'])\n"
        "heavy = {'torch', 'verl', 'ray', 'prefect', 'mlflow', 'transformers', 'datasets'}\n"
        "sys.exit(f'loaded {heavy & sys.modules.keys()}' if heavy & sys.modules.keys() else 0)\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert not (tmp_path / "out").exists()


def test_a_plan_is_a_table_with_reasons(smoke, output, train, capsys):
    train(smoke)
    capsys.readouterr()
    settings = ["experiment=lab/smoke", f"output={output}", "stages.1.steps=20"]
    assert main(["plan", *settings]) == 0
    text = capsys.readouterr().out
    cached, to_run, both, left = text.splitlines()[4:8]
    assert cached.split()[:2] == ["1-L1-64", "cached"]
    assert to_run.split()[:8] == ["2-L2-96", "to", "run", "20", "20", "160", "640", "61,440"]
    assert both.split()[:3] == ["all", "stages", "22"]
    assert left.split()[:4] == ["left", "to", "do", "20"]
    assert "stage.steps: 2 -> 20" in text and "differs from " in text


def test_a_plan_for_machines_is_json_wherever_the_option_stands(smoke, output, train, capsys):
    with pytest.raises(KeyboardInterrupt):
        train(smoke, stop=(0, 1, KeyboardInterrupt()))
    capsys.readouterr()
    assert main(["plan", "experiment=lab/smoke", "--json", f"output={output}"]) == 0
    found = json.loads(capsys.readouterr().out)
    first = found["stages"][0]
    assert (first["state"], first["after_step"], first["left"]["steps"]) == ("resume", 1, 1)
    assert found["left"]["steps"] == 3
    assert main(["plan", "experiment=lab/smoke", f"output={output}"]) == 0
    assert "resume after step 1" in capsys.readouterr().out


def test_a_recipe_s_plan_says_what_it_comes_to_and_where_its_sources_disagree(tmp_path):
    """860 steps of 128 prompts and 1,720 updates: FastCuRL's README, and its scripts."""
    command = [sys.executable, "-m", "flows.plan", "experiment=fastcurl", f"output={tmp_path}"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    text = done.stdout
    [line] = [line for line in text.splitlines() if line.startswith("all stages")]
    assert line.split()[2:6] == ["1,560", "1,720", "110,080", "1,177,600"]
    assert line.split()[-2] == "860"
    row = next(line for line in text.splitlines() if line.startswith("data.max_response_length"))
    assert row.split()[1:] == ["8192", "16384", "24576", "16384"]
    assert "the sources disagree:\n" in text and "  stage_4: stage 4 is 24K with 8" in text


def test_all_of_verl_s_settings_are_shown_when_asked_for(output, capsys):
    settings = ["experiment=lab/smoke", f"output={output}", "stages.1.steps=20"]
    main(["plan", *settings])
    some = capsys.readouterr().out
    main(["plan", *settings, "--settings"])
    whole = capsys.readouterr().out
    main(["plan", *settings, "--json"])
    found = json.loads(capsys.readouterr().out)
    given = found["stages"][1]["settings"]
    assert given["trainer.total_training_steps"] == 20
    lines = {line.split()[0] for line in whole.splitlines() if line}
    assert {name.lstrip("+") for name in given} <= lines
    assert "more: add --settings" in some
    assert "add --settings" not in whole and found["stages"][1]["expected"]["steps_at_128"] == 1.25


def test_a_plan_says_what_may_end_a_stage_early(output, capsys):
    ends = "stages.1.transition={policy:all,when:[{metric:entropy,below:0.2,window:3}]}"
    main(["plan", "experiment=lab/smoke", f"output={output}", "stages.1.steps=9", ends])
    assert (
        "  may end before its 9 steps, when the mean of entropy over 3 steps is below 0.2\n"
        in capsys.readouterr().out
    )


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["plan", "experiment=lab/fastcrl"], "did you mean lab/fastcurl"),
        (["plan"], "experiment: found none"),
        (["plan", "experiment=lab/smoke", "stages.0.stepz=1"], "stages.0.stepz: no such key"),
        (["gc", "--output", "nowhere/at/all"], "no folder"),
        (["reindex", "--output", "nowhere/at/all"], "no folder"),
    ],
)
def test_a_slip_is_refused_with_a_hint(arguments, said, capsys):
    assert main(arguments) == 2
    error = capsys.readouterr().err
    assert said in error and "hint: " in error


def test_help_on_a_part_of_the_settings_is_told_by_plan(capsys):
    for words in (["--help", "stages.0.steps"], ["experiment=lab/smoke", "-h", "stages.0.steps"]):
        assert main(["plan", *words]) == 0
        assert capsys.readouterr().out.startswith("stages.N.steps  int, steps, default 100")
    assert main(["plan", "--help", "experiment"]) == 0
    assert "lab/fastcurl_ablation/9" in capsys.readouterr().out
    assert main(["plan", "--help", "stagess"]) == 2
    assert "hint: did you mean stages" in capsys.readouterr().err


def test_settings_that_the_pipeline_refuses_are_planned_and_refused(output, capsys):
    arguments = ["plan", "experiment=lab/smoke", f"output={output}", "stages.0.group_size=1"]
    assert main(arguments) == 2
    told = capsys.readouterr()
    assert "1-L1-64" in told.out and "a run would be refused" in told.err
    assert "verl's setting" not in told.out  # a table of nothing


@pytest.mark.parametrize("arguments", [[], ["plan", "--no"], ["status", "x=1"], ["nothing"]])
def test_an_unknown_argument_shows_the_usage(arguments, capsys):
    with pytest.raises(SystemExit) as ended:
        main(arguments)
    assert ended.value.code == 2 and "usage: stagecraft" in capsys.readouterr().err


def test_a_plan_is_told_how_its_folder_is_given(capsys):
    with pytest.raises(SystemExit):
        main(["plan", "experiment=lab/smoke", "--output", "mine"])
    assert capsys.readouterr().err.endswith("; a plan takes output=FOLDER\n")


@pytest.mark.parametrize("command", ["plan", "status", "gc", "reindex", "up", "down"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit) as ended:
        main([command, "--help"])
    assert ended.value.code == 0
    assert f"usage: stagecraft {command}" in capsys.readouterr().out


def test_status_shows_runs_stages_and_why_one_failed(smoke, output, train, capsys):
    assert main(["status", "--output", output]) == 0
    assert "no runs and no stages yet" in capsys.readouterr().out
    with pytest.raises(RuntimeError):
        train(smoke, stop=(1, 1, RuntimeError("the disk is full\nmore")))
    capsys.readouterr()
    assert main(["status", "--output", output]) == 0
    text = capsys.readouterr().out
    assert "lab_smoke seed 0" in text and " 1/?" in text
    assert "failed" in text and "the disk is full" in text and "more" not in text
    assert main(["status", "--output", output, "--json"]) == 0
    assert [stage["outcome"] for stage in json.loads(capsys.readouterr().out)["stages"]] == [
        "finished",
        "failed",
    ]


@pytest.mark.parametrize("command", ["status", "gc", "reindex", "down"])
def test_a_folder_of_ones_home_is_meant_by_a_tilde(command, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("HOME", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    main([command, "--output=~/none yet"])
    told = capsys.readouterr()
    assert f"{tmp_path}/none yet" in told.out + told.err and not Path("~").exists()


def test_gc_deletes_only_when_told(smoke, output, train, capsys):
    [stage] = train(smoke, stages=1)
    state = stage["folder"] / "verl"
    capsys.readouterr()
    command = ["gc", "--output", output, "--older-than", "0"]
    assert main(command) == 0
    assert str(state) in capsys.readouterr().out and state.is_dir()
    assert main([*command, "--delete", "--keep", "experiment=lab/smoke"]) == 0
    assert "nothing that is not needed" in capsys.readouterr().out and state.is_dir()
    assert main([*command, "--delete", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)[0]["path"] == str(state)
    assert not state.exists() and (stage["folder"] / "checkpoint").is_dir()


def test_gc_keeps_what_an_experiment_needs_in_any_folder(tmp_path, capsys):
    folder = str(tmp_path / "R&D it's")
    Path(folder).mkdir()
    assert main(["gc", "--output", folder, "--keep", "experiment=lab/smoke"]) == 0
    assert capsys.readouterr().out == f"{folder} holds nothing that is not needed\n"


def test_gc_spares_what_is_young(smoke, output, train, capsys):
    with pytest.raises(KeyboardInterrupt):
        train(smoke, stop=(0, 1, KeyboardInterrupt()))
    [folder] = (Path(output) / "stages").iterdir()
    hours_ago = time.time() - 5 * 3_600
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (hours_ago, hours_ago))
    capsys.readouterr()
    assert main(["gc", "--output", output, "--delete"]) == 0 and folder.is_dir()
    said = capsys.readouterr().out
    assert said.startswith(f"{output} holds nothing older than 24 h that is not needed; ")
    assert said.endswith(" MiB in 1 place is newer (--older-than 0)\n")
    assert main(["gc", "--output", output, "--delete", "--older-than", "4"]) == 0
    assert not folder.exists() and "deleted" in capsys.readouterr().out


def test_reindex_says_what_it_added(smoke, output, train, tmp_path, capsys):
    train(smoke)
    store = f"sqlite:///{tmp_path}/fresh.db"
    capsys.readouterr()
    assert main(["reindex", "--output", output, "--store", store]) == 0
    assert capsys.readouterr().out == (
        f"{store}: added 2 runs of stages and 0 of evaluations; 0 were there\n"
    )


def test_a_damaged_manifest_stops_no_command(smoke, output, train, tmp_path, capsys):
    folders = [stage["folder"] for stage in train(smoke)]
    store = f"sqlite:///{tmp_path}/fresh.db"
    for arguments in (
        ["plan", "experiment=lab/smoke", f"output={output}"],
        ["status", "--output", output],
        ["gc", "--output", output],
        ["reindex", "--output", output, "--store", store],
    ):
        (folders[0] / "stage.json").write_text('{"kind": "stage", "na')
        capsys.readouterr()
        assert main(arguments) == 0
        assert list(folders[0].glob("stage.json.corrupt-*"))
        told = capsys.readouterr()
        assert "stage.json.corrupt-" in told.out + told.err, arguments


def test_a_table_lines_up():
    lines = table([["what", "size"], ["a", "1"], ["longer", "1,000"]], left=1)
    assert lines == ["what     size", "------  -----", "a           1", "longer  1,000"]
