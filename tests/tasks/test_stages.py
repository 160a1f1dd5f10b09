import fcntl
import json
import os
import re
import shutil
import subprocess
import sys
import threading
import time
from contextlib import contextmanager, suppress
from pathlib import Path
from types import SimpleNamespace

import pytest

from conf.load import load
from tasks import stages
from tasks import train_stage as training
from tasks.again import move_aside
from tasks.artifacts import digest_of, read_json
from tasks.attempts import attempt_id, records_of
from tasks.stages import (
    alone,
    experiment_of,
    finished,
    held,
    held_for_deletion,
    holder,
    identity,
    moved_aside,
    read_manifest,
    stage_folder,
    stage_folders,
)
from tasks.unreferenced import unreferenced
from tests.conftest import NoTracker
from trainer.backend.ahead import ray_settings
from trainer.backend.settings import settings

ROOT = Path(__file__).parents[2]


@pytest.fixture
def smoke(tmp_path):
    return load("experiment=lab/smoke", f"output={tmp_path / 'out'}")


@pytest.fixture
def folder(smoke, train) -> Path:
    """A finished stage."""
    [stage] = train(smoke, stages=1)
    return stage["folder"]


def whose(experiment, data="d", start="s"):
    return digest_of(identity(experiment, experiment.stages[0], data, start))


def test_what_a_stage_learns_from_is_its_identity_and_where_it_runs_is_not():
    usual = whose(load("experiment=lab/smoke"))
    for same in ("output=x", "name=y", "stages.0.name=z", "stages.0.save_every=9",
                 "hardware.threads=1", "hardware.micro_batch=4", "stages.1.steps=9"):  # fmt: skip
        assert whose(load("experiment=lab/smoke", same)) == usual, same
    for other in ("seed=1", "stages.0.steps=3", "method.clip_high=0.3", "hardware.dtype=bfloat16",
                  "data.max_prompt_length=40", "stages.0.temperature=0.9"):  # fmt: skip
        assert whose(load("experiment=lab/smoke", other)) != usual, other
    assert whose(load("experiment=lab/smoke"), data="e") != usual
    assert whose(load("experiment=lab/smoke"), start="t") != usual


def test_a_finished_stage_says_which_experiment_trained_it(folder):
    manifest = finished(folder)
    assert manifest["experiment"] == {"name": "lab_smoke", "seed": 0}
    assert experiment_of(folder, manifest) == ("lab_smoke", 0)
    assert manifest["digest"] == digest_of(manifest["identity"])
    assert stage_folder(folder.parents[1], "renamed", manifest["digest"]) == folder


def test_every_field_of_a_stage_is_documented(folder):
    text = (ROOT / "docs" / "stage.md").read_text()
    manifest = read_json(folder / "stage.json")
    fields = [*manifest, *manifest["attempts"][0], *manifest["identity"], "reason"]
    fields += [f"settings.{name}" for name in manifest["settings"]]
    fields += [f"{name}.digest" for name in ("data", "start", "checkpoint")]
    undocumented = {name for name in fields if f"`{name}`" not in text and f"`{name}." not in text}
    assert undocumented == set()


def test_an_older_stage_tells_its_experiment_by_the_trainers_settings(folder):
    manifest = read_json(folder / "stage.json")
    del manifest["experiment"]
    assert experiment_of(folder, manifest) == ("", 0)
    settings = {"verl": {"trainer.project_name": "older"}}
    (folder / "settings.json").write_text(json.dumps(settings))
    assert experiment_of(folder, manifest) == ("older", 0)


@pytest.mark.parametrize(
    ("damage", "said"),
    [
        (lambda text: text[: len(text) // 2], "no JSON"),
        (lambda text: "", "no JSON"),
        (lambda text: "[1]", "list"),
        (lambda text: text.replace('"kind": "stage"', '"kind": "dataset"'), "'dataset'"),
        (lambda text: text.replace('"attempts"', '"tries"'), "'attempts'"),
        (lambda text: text.replace('"attempts": [', '"attempts": [7, '), "'attempts'"),
        (lambda text: text.replace('"seed": 0', '"seed": 1'), "identity"),
        (lambda text: "\x00" * len(text), "no JSON"),
    ],
    ids=[
        "half-written",
        "empty",
        "no object",
        "wrong kind",
        "a field gone",
        "no attempt",
        "changed",
        "zeros",
    ],
)
def test_a_damaged_manifest_is_kept_aside_and_its_stage_trained_to_its_end_again(
    smoke, train, folder, capsys, damage, said
):
    whole = (folder / "stage.json").read_text()
    (folder / "stage.json").write_text(damage(whole))
    assert finished(folder) is None
    [aside] = folder.glob("stage.json.corrupt-*")
    assert aside.read_text() == damage(whole)
    told = capsys.readouterr().out
    assert said in told and aside.name in told and not (folder / "stage.json").exists()
    assert finished(folder) is None and capsys.readouterr().out == ""  # told once

    [again] = train(smoke, stages=1)
    assert finished(folder)["steps"] == again["steps"] == 2
    assert [attempt["first_step"] for attempt in again["attempts"]] == [3]  # nothing made twice


def test_bytes_that_are_no_text_are_damage_too(folder):
    (folder / "stage.json").write_bytes(b"\xff\xfe\x00")
    manifest, complaint = read_manifest(folder)
    assert manifest is None and "was damaged" in complaint


def test_a_checkpoint_that_changed_or_went_makes_a_stage_unfinished(folder, capsys):
    weights = folder / "checkpoint" / "model.safetensors"
    text = weights.read_text()
    weights.write_text(text[:-1])
    assert finished(folder) is None and "is not what its manifest says" in capsys.readouterr().out
    weights.write_text(text)
    assert finished(folder)
    shutil.rmtree(folder / "checkpoint")
    assert finished(folder) is None and "is missing" in capsys.readouterr().out


def test_a_stage_with_a_name_like_one_that_was_moved_aside_is_a_stage(smoke, train):
    experiment = load("experiment=lab/smoke", f"output={smoke.output}", "stages.0.name=a.old-b")
    [stage] = train(experiment, stages=1)
    output, folder = Path(smoke.output), stage["folder"]
    assert stage_folders(output) == [folder] and moved_aside(output) == []
    assert not [one for one in unreferenced(output, older_than=-1) if one.path == str(folder)]
    run = SimpleNamespace(
        tags={"stagecraft.config_digest": stage["digest"]}, attempt=attempt_id(stage, 0)
    )
    assert len(records_of(output, run)) == 2
    aside = move_aside(folder, time.time())
    assert stage_folders(output) == [] and moved_aside(output) == [aside]
    assert len(records_of(output, run)) == 2


def test_an_interrupted_stage_is_not_finished_and_needs_no_words(smoke, train, capsys):
    with pytest.raises(KeyboardInterrupt):
        train(smoke, stages=1, stop=(0, 1, KeyboardInterrupt()))
    [folder] = stage_folders(Path(smoke.output))
    capsys.readouterr()
    assert finished(folder) is None and capsys.readouterr().out == ""
    assert read_json(folder / "stage.json")["outcome"] == "interrupted"


@pytest.mark.parametrize("error", [KeyboardInterrupt(), RuntimeError("MLflow is strange")])
def test_a_stage_has_finished_before_mlflow_hears_of_it_and_stays_so(smoke, train, error):
    said = []

    class Away(NoTracker):
        @contextmanager
        def child_run(self, *given, **settings):
            with super().child_run(*given, **settings) as run:
                yield run
            [folder] = stage_folders(Path(smoke.output))
            said.append(read_json(folder / "stage.json"))
            raise error

    with pytest.raises(type(error)):
        train(smoke, stages=1, tracker=Away())
    [folder] = stage_folders(Path(smoke.output))
    assert said == [read_json(folder / "stage.json")]
    [attempt] = said[0]["attempts"]
    assert said[0]["outcome"] == attempt["outcome"] == "finished" and "reason" not in attempt
    assert said[0]["wall_seconds"] == attempt["ended"] - attempt["started"]
    assert finished(folder)["steps"] == 2


def test_no_attempt_ends_before_it_began_though_the_clock_be_set_back(smoke, train, monkeypatch):
    clock = iter([5000.0, 1400.0, 1401.0])
    monkeypatch.setattr(training, "time", SimpleNamespace(time=lambda: next(clock)))
    [stage] = train(smoke, stages=1)
    assert stage["wall_seconds"] == 0.0
    assert [(one["started"], one["ended"]) for one in stage["attempts"]] == [(5000.0, 5000.0)]


def test_who_holds_a_stage_is_known_while_it_does(tmp_path):
    folder = tmp_path / "stages" / "a-0123"
    assert holder(folder) == ""
    with alone(folder):
        assert holder(folder) == str(os.getpid())
        with held_for_deletion(folder) as ours:
            assert not ours
    assert holder(folder) == ""
    with held_for_deletion(folder) as ours:
        assert ours


def test_a_stage_with_two_names_is_made_once(tmp_path, monkeypatch, capsys):
    """Both look for its folder before either has made one, if nothing keeps them from it."""
    digest, looked, made = "0123456789abcdef", threading.Barrier(2), []
    look = stages.stage_folder

    def slow(*words):
        found = look(*words)
        with suppress(threading.BrokenBarrierError):
            looked.wait(0.3)
        return found

    monkeypatch.setattr(stages, "stage_folder", slow)

    def make(name):
        with held(tmp_path, name, digest) as folder:
            made.append((folder.name, holder(folder), (folder / "made").exists()))
            (folder / "made").touch()

    both = [threading.Thread(target=make, args=(name,)) for name in ("warm-up", "first")]
    for one in both:
        one.start()
    for one in both:
        one.join(20)
    [first, second] = made
    assert first == (second[0], str(os.getpid()), False) and second[1:] == (str(os.getpid()), True)
    assert [path.name for path in (tmp_path / "stages").iterdir()] == [first[0]]
    # "?": asked before it had said so.
    waiting = rf"-0123456789ab is being made by process ({os.getpid()}|\?): waiting for it"
    assert re.search(waiting, capsys.readouterr().out)


def test_what_a_killed_process_left_of_its_lock_is_no_stage_and_keeps_nobody(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tasks.stages import held\n"
        "with held(Path(sys.argv[1]), 'a', 'ab' * 32): os.kill(os.getpid(), 9)\n"
    )
    subprocess.run([sys.executable, "-c", code, tmp_path], cwd=ROOT)
    left = [path.name for path in (tmp_path / "stages").iterdir()]
    assert sorted(left) == [".abababababab.lock", "a-abababababab"]
    assert [folder.name for folder in stage_folders(tmp_path)] == ["a-abababababab"]
    with held(tmp_path, "b", "ab" * 32) as folder:
        assert folder.name == "a-abababababab"
    assert stage_folders(tmp_path) == list((tmp_path / "stages").iterdir())


def test_the_lock_of_a_killed_process_is_free(tmp_path):
    code = (
        "import os, sys; from pathlib import Path; from tasks.stages import alone\n"
        "with alone(Path(sys.argv[1])): print('held', flush=True); os.kill(os.getpid(), 9)\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, tmp_path / "s"], cwd=ROOT, capture_output=True, text=True
    )
    assert done.stdout == "held\n" and done.returncode == -9
    assert holder(tmp_path / "s") == ""
    with alone(tmp_path / "s"):
        assert holder(tmp_path / "s") == str(os.getpid())


def test_what_a_killed_flow_left_at_work_is_waited_for(tmp_path, capsys):
    code = (
        "import sys; from pathlib import Path; from trainer.holding import hold\n"
        "hold(Path(sys.argv[1]), 'trainer'); print('works', flush=True); sys.stdin.read()\n"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code, tmp_path],
        cwd=ROOT,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as left:
        assert left.stdout.readline() == b"works\n"
        with held_for_deletion(tmp_path) as ours:
            assert not ours
        held = threading.Event()

        def wait():
            with alone(tmp_path):
                held.set()

        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not held.wait(0.5)
        left.kill()
        waiting.join(20)
    assert held.is_set()
    said = capsys.readouterr().out
    assert said == f"{tmp_path.name}: the trainer of a killed run is still ending: waiting for it\n"
    with held_for_deletion(tmp_path) as ours:
        assert ours


def test_one_who_waited_for_a_stage_that_was_deleted_holds_the_new_one(tmp_path):
    folder, held = tmp_path / "s", threading.Event()
    folder.mkdir()
    with (folder / "lock").open("w") as file:
        fcntl.flock(file, fcntl.LOCK_EX)

        def wait():
            with alone(folder):
                held.set()
                release.wait(20)

        release = threading.Event()
        waiting = threading.Thread(target=wait)
        waiting.start()
        assert not held.wait(0.3)
        os.replace(folder, tmp_path / "away")
    try:
        assert held.wait(20)
        assert holder(folder) == str(os.getpid()) and holder(tmp_path / "away") == ""
    finally:
        release.set()
        waiting.join()


@pytest.mark.parametrize(
    ("overrides", "variables", "begins"),
    [
        ([], {}, True),
        (["hardware=gpu1"], {}, False),
        (["hardware.ray_address=10.0.0.1:6379"], {}, False),
        ([], {"RAY_ADDRESS": "10.0.0.1:6379"}, False),
    ],
)
def test_a_trainer_is_begun_ahead_where_it_has_a_ray_of_its_own_on_a_cpu(
    overrides, variables, begins, monkeypatch
):
    given = []
    monkeypatch.setattr(training, "begin_ahead", lambda *words: given.append(words))
    monkeypatch.delenv("RAY_ADDRESS", raising=False)
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    experiment = load("experiment=lab/smoke", *overrides)
    training.begin(experiment)
    assert len(given) == begins
    for ray, environment, grace in given:
        values = settings(experiment, 0, start=Path("s"), prompts=Path("p"), folder=Path("f"))
        assert ray_settings(values) == ray, "what its stage will be started with"
        assert environment["VERL_PLATFORM"] == "cpu" and grace == experiment.hardware.stop_grace
