import os
import shutil
import sys
import threading
import time
from pathlib import Path

import pytest

from tasks.again import move_aside
from tasks.artifacts import new_folder, write_json
from tasks.download import download
from tasks.journal import Journal
from tasks.plan import plan
from tasks.stages import alone, finished
from tasks.unreferenced import delete, unreferenced


@pytest.fixture
def output(tmp_path) -> Path:
    return tmp_path / "out"


def age(folder: Path, days: float = 2) -> None:
    then = time.time() - 86_400 * days
    for path in (folder, *folder.rglob("*")):
        os.utime(path, (then, then))


def listed(output: Path, **settings) -> set[str]:
    return {str(Path(i.path).relative_to(output)) for i in unreferenced(output, **settings)}


def score(output: Path, name: str, checkpoint: dict, data: str = "d") -> Path:
    folder = output / "evaluations" / name
    checkpoint = {key: str(value) for key, value in checkpoint.items()}
    manifest = {
        "kind": "evaluation", "checkpoint": checkpoint, "data_digest": data, "benchmark": "x",
        "sampling": {"samples": 1}, "problems": 1, "seconds": 1.0, "environment": {},
        "metrics": {"k": 1, "avg_at_k": 0.5, "pass_at_k": 0.5, "truncated_share": 0.0},
    }  # fmt: skip
    write_json(folder / "evaluation.json", manifest)
    return folder


def test_of_a_finished_run_only_the_trainers_state_is_not_needed(smoke, train, output):
    stages = train(smoke())
    score(output, "on-first", stages[0]["checkpoint"])
    score(output, "on-base", stages[0]["start"])
    age(output)
    verl = {f"stages/{stage['folder'].name}/verl" for stage in stages}
    assert listed(output) == verl
    for item in unreferenced(output):
        assert delete(item).spared == "" and not Path(item.path).exists()
    assert listed(output) == set()
    assert [stage.state for stage in plan(smoke()).stages] == ["cached", "cached"]


def test_a_kept_experiment_keeps_everything(smoke, train, output):
    train(smoke())
    train(smoke("seed=1"), stages=1)
    age(output)
    assert len(listed(output)) == 3
    assert len(listed(output, keep=[smoke()])) == 1
    assert listed(output, keep=[smoke(), smoke("seed=1")]) == set()


def test_an_unfinished_stage_is_listed_after_a_day_unless_an_experiment_needs_it(
    smoke, train, output
):
    with pytest.raises(KeyboardInterrupt):
        train(smoke(), stop=(0, 1, KeyboardInterrupt()))
    [folder] = (output / "stages").iterdir()
    name = f"stages/{folder.name}"
    assert listed(output) == set()
    assert listed(output, older_than=0) == {name}
    age(output)
    assert listed(output) == {name}
    assert listed(output, keep=[smoke()]) == set()
    (folder / "trainer.log").write_text("a line")  # it is written to again
    assert listed(output) == set()


def test_what_a_process_holds_is_never_deleted(smoke, train, output):
    with pytest.raises(KeyboardInterrupt):
        train(smoke(), stop=(0, 1, KeyboardInterrupt()))
    [folder] = (output / "stages").iterdir()
    age(output)
    [free] = unreferenced(output)
    with alone(folder):
        [held] = unreferenced(output, older_than=-60)
        assert held.spared == f"held by process {os.getpid()}"
        assert delete(held) == held
        # Listed while it was free, taken since.
        assert delete(free).spared == "a process holds its stage"
        assert (folder / "stage.json").is_file()
    assert delete(free).spared == "" and not folder.exists()
    assert list((output / "stages").iterdir()) == []


def test_a_stage_that_finished_since_it_was_listed_stays(smoke, train, output):
    with pytest.raises(KeyboardInterrupt):
        train(smoke(), stop=(0, 1, KeyboardInterrupt()))
    [item] = unreferenced(output, older_than=0)
    [stage] = train(smoke(), stages=1)
    assert delete(item).spared == "it was finished meanwhile" and finished(stage["folder"])


def test_the_state_of_a_stage_whose_checkpoint_was_damaged_stays(smoke, train, output):
    [stage] = train(smoke(), stages=1)
    (stage["folder"] / "checkpoint" / "model.safetensors").write_text("cut")
    [item] = unreferenced(output, older_than=0)
    assert delete(item).spared == "its stage is not finished any more"
    assert (stage["folder"] / "verl").is_dir()


def test_the_trainers_state_is_listed_after_a_day(smoke, train, output):
    train(smoke(), stages=1)
    assert listed(output) == set() and len(listed(output, older_than=0)) == 1


def test_the_optimizer_that_an_unfinished_stage_is_to_carry_on_is_spared(smoke, train, output):
    carried = smoke("stages.1.optimizer=carry")
    [first] = train(carried, stages=1)
    (first["folder"] / "verl/global_step_2/actor/optim_world_size_1_rank_0.pt").touch()
    with pytest.raises(KeyboardInterrupt):
        train(carried, stop=(1, 1, KeyboardInterrupt()))
    age(output)
    [state] = [item for item in unreferenced(output) if item.path.endswith("verl")]
    assert delete(state).spared.startswith("2-L2-96-") and "carries it on" in state.spared
    age(output)
    stages = train(carried)  # it goes on
    age(output)
    assert all(delete(item).spared == "" for item in unreferenced(output))
    assert not any((stage["folder"] / "verl").exists() for stage in stages)


def test_what_a_run_at_work_may_need_stays(smoke, train, output):
    train(smoke(), stages=1)
    train(smoke("data.train.rows=70", "seed=9"), stages=1)
    shutil.rmtree(next(f for f in (output / "stages").iterdir() if '"seed": 9' in
                       (f / "stage.json").read_text()))  # fmt: skip
    age(output)
    free = unreferenced(output)
    assert len(free) == 6 and not any(item.spared for item in free)
    journal = Journal.begin(output, "lab_smoke", "sqlite:///x.db", name="run")
    told = f"the run of process {os.getpid()} may need it"
    with journal.held():
        [state] = unreferenced(output)
        assert state.path.endswith("verl") and state.spared == told
        assert {delete(item).spared for item in free} == {told}  # it began after they were listed
        assert all(Path(item.path).is_dir() for item in free)
    assert len(unreferenced(output)) == 6


def test_leftovers_of_interrupted_writes_are_found_where_they_arise(smoke, train, output):
    [stage] = train(smoke(), stages=1)
    shutil.rmtree(stage["folder"] / "verl")
    folder = stage["folder"]
    with new_folder(output / "evaluations" / "lab-1") as aside:
        leftovers = [aside.with_name(".lab-2.0123456789ab"), folder / ".stage.json.0123456789ab"]
        leftovers += [folder / "prompts.part", folder / "checkpoint.part"]
    for path in leftovers:
        path.mkdir()
        (path / "x").write_text("half")
    assert listed(output) == set()  # it may still be written to
    age(output)
    found = unreferenced(output)
    assert {item.path for item in found} == {str(path) for path in leftovers}
    assert {item.bytes for item in found} == {4}
    for item in found:
        delete(item)
    assert listed(output) == set() and finished(folder)


def test_a_stage_that_was_moved_aside_is_listed_with_its_time(smoke, train, output):
    [stage] = train(smoke(), stages=1)
    score(output, "old", stage["checkpoint"])
    moved = move_aside(stage["folder"], before=time.time())
    assert listed(output) == set()
    train(smoke(), stages=1)
    (stage["folder"] / "checkpoint" / "model.safetensors").write_text("other weights")
    age(output)
    name = f"stages/{moved.name}"
    assert listed(output) == {name, f"stages/{stage['folder'].name}/verl"}
    [item] = [item for item in unreferenced(output) if item.path == str(moved)]
    with alone(moved):
        assert delete(item).spared
    assert delete(item).spared == "" and not moved.exists()


def test_responses_of_a_checkpoint_that_is_gone_are_listed_unless_a_process_holds_them(output):
    work = output / "generations" / "lab_test-0123456789ab"
    gone = {"path": str(output / "stages/a-1/checkpoint"), "digest": "x"}
    with alone(work):
        write_json(work / "generations.json", {"kind": "generations", "checkpoint": gone})
        age(output)
        [held] = unreferenced(output)
        assert held.path == str(work) and delete(held).spared.startswith("held by process")
    [free] = unreferenced(output)
    assert delete(free).spared == "" and not work.exists()


def test_a_score_is_not_needed_once_its_checkpoint_is_gone(smoke, train, output):
    stages = train(smoke())
    gone = score(output, "gone", {"path": str(output / "stages/a-1/checkpoint"), "digest": "x"})
    score(output, "base", {"path": "models/base", "digest": "another base"})
    score(output, "second", stages[1]["checkpoint"])
    for stage in stages:
        shutil.rmtree(stage["folder"] / "verl")
    age(output)
    assert listed(output) == {"evaluations/gone"}
    age(gone, days=0)
    assert listed(output) == set()


def test_a_score_of_a_checkpoint_that_is_gone_is_known_where_the_folder_was_moved(output):
    old = "/nowhere/out/stages/a-1/checkpoint"
    journal = Journal.begin(output, "lab", "", name="run")
    child = journal.child("stage", "a", tags={"stagecraft.config_digest": "y"})
    child.checkpoint = {"path": old, "digest": "x", "step": 2}
    journal.write()
    score(output, "gone", {"path": old, "digest": "x"})
    score(output, "of-another-folder", {"path": old, "digest": "z"})
    assert listed(output, older_than=0) == {"evaluations/gone"}


def test_scores_of_a_stage_with_a_damaged_manifest_stay(smoke, train, output):
    [stage] = train(smoke(), stages=1)
    score(output, "first", stage["checkpoint"])
    (stage["folder"] / "stage.json").write_text("{")
    assert "evaluations/first" not in listed(output, older_than=0)


def test_a_checkpoint_whose_manifest_was_damaged_is_shown_and_spared(smoke, train, output):
    [stage] = train(smoke(), stages=1)
    (stage["folder"] / "stage.json").write_text("{")
    age(output)
    assert listed(output) == set()  # damaged only now
    age(output)
    [item] = [item for item in unreferenced(output) if item.path == str(stage["folder"])]
    assert delete(item).spared == "its checkpoint may be whole" and stage["folder"].is_dir()


def test_data_that_nothing_used_is_listed_and_a_family_stays_together(smoke, train, output):
    train(smoke(), stages=1)  # uses L1 only: L2, L3, the whole set and the test set stay
    used = {f"data/{path.name}" for path in (output / "data").iterdir()}
    train(smoke("data.train.rows=70", "seed=9"), stages=1)
    more = {f"data/{path.name}" for path in (output / "data").iterdir()} - used
    assert len(used) == 6 and len(more) == 5  # both were compared with the same test set
    for folder in (output / "stages").iterdir():
        shutil.rmtree(folder / "verl")
    age(output)
    assert listed(output) == set()
    shutil.rmtree(next(f for f in (output / "stages").iterdir() if '"seed": 9' in
                       (f / "stage.json").read_text()))  # fmt: skip
    assert listed(output) == more
    assert listed(output, keep=[smoke("data.train.rows=70", "seed=9")]) == set()


def test_a_folder_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no folder .*nowhere\n\nhint: "):
        unreferenced(tmp_path / "nowhere")


def test_a_run_is_listed_once_mlflow_has_it_and_its_stages_are_gone(smoke, train, output):
    stages = train(smoke())
    for stage in stages:
        shutil.rmtree(stage["folder"] / "verl")
    journal = Journal.begin(output, "lab_smoke", "sqlite:///x.db", name="run")
    digests = [stage["digest"] for stage in stages]
    for digest in digests:
        journal.child("stage", "1-L1", tags={"stagecraft.config_digest": digest}).end("finished")
    journal.run.end("finished")
    journal.delivered = True
    journal.write()
    run = f"runs/{journal.run.id}"
    age(output)
    assert listed(output) == set()
    shutil.rmtree(stages[0]["folder"])
    assert run not in listed(output)  # one of its stages is there
    shutil.rmtree(stages[1]["folder"])
    assert run in listed(output)
    journal.delivered = False
    journal.write()
    age(output)
    assert run not in listed(output)  # nobody else knows of it
    journal.delivered = True
    journal.write()
    age(output)
    [item] = [one for one in unreferenced(output) if one.path.endswith(run)]
    with alone(output / run):
        assert delete(item).spared
    assert delete(item).spared == "" and not (output / run).exists()


def test_a_card_goes_with_the_data_that_it_describes(smoke, train, output):
    train(smoke(), stages=1)
    sets = [path.name for path in (output / "data").iterdir()]
    card = output / "data" / "lab-0123-card"
    write_json(card / "data_card.json", {"sets": {name: {"folder": name} for name in sets}})
    shutil.rmtree(next((output / "stages").iterdir()) / "verl")
    age(output)
    assert listed(output) == set()
    write_json(card / "data_card.json", {"sets": {"L1": {"folder": "lab-gone"}}})
    age(output)
    assert listed(output) == {f"data/{card.name}"}


def test_a_run_that_begins_while_data_are_deleted_waits_and_finds_none_of_them(
    smoke, output, monkeypatch
):
    settings = smoke()
    download(settings.data.train, settings.data, output)
    [item] = unreferenced(output, older_than=0)
    assert item.idle and not item.spared
    found = []

    def run() -> None:
        with Journal.begin(output, "lab", "", name="run").held():
            found.append(Path(item.path).exists())

    begins = threading.Thread(target=run)
    module = sys.modules[unreferenced.__module__]
    remove = module._remove

    def slow(path: Path) -> None:
        begins.start()
        begins.join(0.3)  # it would be done by now
        remove(path)

    monkeypatch.setattr(module, "_remove", slow)
    assert delete(item).spared == ""
    begins.join(10)
    assert found == [False]


def test_data_are_not_deleted_while_runs_are_at_work_however_many(smoke, output):
    settings = smoke()
    kept = download(settings.data.train, settings.data, output)
    [item] = unreferenced(output, older_than=0)
    first, second = (Journal.begin(output, "lab", "", name=name) for name in ("a", "b"))
    with first.held():
        with second.held():
            assert delete(item).spared
        assert delete(item).spared == f"the run of process {os.getpid()} may need it"
    assert kept.folder.is_dir()
    assert delete(item).spared == "" and not kept.folder.exists()
