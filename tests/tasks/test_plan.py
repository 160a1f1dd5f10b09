import shutil
import time
from pathlib import Path

import pytest

from conf.load import load
from conf.schema import Experiment, Selection, Stage
from conf.schema.selection import USES
from tasks.again import move_aside
from tasks.amounts import amounts
from tasks.differences import differences
from tasks.disk import checkpoint_bytes, parameters, size
from tasks.plan import plan
from tasks.stages import alone
from trainer.backend.settings import settings
from trainer.lab import BASE
from trainer.selection import Prompt, make_curriculum


@pytest.fixture
def smoke(tmp_path):
    """Settings of the smoke experiment, with overrides, that write below the test's folder."""

    def settings(*overrides):
        return load("experiment=lab/smoke", f"output={tmp_path / 'out'}", *overrides)

    return settings


def files(folder: Path) -> set[tuple[str, int]]:
    return {(str(path), path.stat().st_mtime_ns) for path in folder.rglob("*")}


def test_on_an_empty_output_everything_is_to_run_and_nothing_is_made(smoke, tmp_path):
    found = plan(smoke())
    assert not (tmp_path / "out").exists()
    first, second = found.stages
    assert [stage.state for stage in found.stages] == ["to run", "to run"]
    assert first.why == [
        "data: the prompt sets of lab_train are not there yet",
        "no stage of this name was trained before",
    ]
    assert "start: stage 1, 1-L1-64, to be trained" in second.why
    assert first.digest is None and second.folder is None
    # 2 steps of 8 prompts with 4 rollouts of at most 64 tokens, in one update each
    assert first.expected == first.left == {
        "steps": 2, "updates": 2, "prompts": 16, "rollouts": 64, "tokens_at_most": 64 * 64,
        "steps_at_128": 16 / 128,
    }  # fmt: skip
    assert found.left["tokens_at_most"] == 64 * 64 + 64 * 96
    whole = checkpoint_bytes(smoke().stages[0], parameters(BASE))
    assert first.disk_bytes == first.disk_to_come == whole
    assert found.disk_to_come == 2 * whole and found.disk_free > 0 and not found.refused


def test_a_trained_experiment_is_all_cached(smoke, train, tmp_path):
    train(smoke())
    before = files(tmp_path)
    found = plan(smoke())
    assert [stage.state for stage in found.stages] == ["cached", "cached"]
    assert found.left == dict.fromkeys(found.left, 0) and found.disk_to_come == 0
    assert found.stages[1].why == [f"trained already: {Path(found.stages[1].folder).name}"]
    assert files(tmp_path) == before  # looked, touched nothing


def test_a_changed_field_is_named_and_what_follows_waits_for_it(smoke, train):
    old = train(smoke())
    found = plan(smoke("stages.0.steps=3", "method.clip_high=0.3"))
    first, second = found.stages
    assert (first.state, first.nearest) == ("to run", old[0]["folder"].name)
    assert [(c.field, c.before, c.after) for c in first.changes] == [
        ("stage.steps", 2, 3),
        ("method.clip_high", 0.2, 0.3),
    ]
    assert [c.field for c in second.changes] == ["method.clip_high"]
    assert second.why == ["start: stage 1, 1-L1-64, to be trained"]


def test_a_later_stage_alone_changes_and_the_first_stays_cached(smoke, train):
    train(smoke())
    first, second = plan(smoke("stages.1.steps=5")).stages
    assert first.state == "cached" and second.state == "to run"
    assert [(c.field, c.before, c.after) for c in second.changes] == [("stage.steps", 2, 5)]
    assert second.left["steps"] == 5


def test_a_changed_upstream_is_named_as_such(smoke, train):
    one = train(smoke())
    other = train(smoke("stages.0.steps=3"), stages=1)
    _, second = plan(smoke("stages.0.steps=3")).stages
    [change] = second.changes
    assert change.field == "start"
    assert change.before == one[0]["checkpoint"]["digest"][:12]
    assert change.after == other[0]["checkpoint"]["digest"][:12]
    assert change.remark == (
        f"changed upstream: was {one[0]['folder'].name}, now {other[0]['folder'].name}"
    )


def test_other_prompts_are_a_change_of_data(smoke, train):
    train(smoke(), stages=1)
    train(smoke("data.train.seed=5", "seed=7"), stages=1)
    first, _ = plan(smoke("data.train.seed=5")).stages
    # From either stage one field differs: the later one is the nearest.
    assert [change.field for change in first.changes] == ["seed"]
    first, _ = plan(smoke("data.train.seed=5", "seed=7", "data.train.rows=70")).stages
    assert first.why[0] == "data: the prompt sets of lab_train are not there yet"


def test_the_nearest_stage_is_the_one_with_the_fewest_differences(smoke, train):
    near = train(smoke("stages.0.steps=3"), stages=1)[0]
    train(smoke("stages.0.steps=4", "seed=1"), stages=1)
    first, _ = plan(smoke("stages.0.steps=5")).stages
    assert first.nearest == near["folder"].name and len(first.changes) == 1


def test_an_interrupted_stage_resumes_and_says_after_which_step(smoke, train):
    with pytest.raises(KeyboardInterrupt):
        train(smoke("stages.0.steps=6"), stop=(0, 4, KeyboardInterrupt()))
    first, _ = plan(smoke("stages.0.steps=6")).stages
    assert (first.state, first.after_step) == ("resume", 4)
    assert first.left == amounts(smoke().stages[0], 2, smoke().selection)
    assert first.expected["steps"] == 6
    # What was saved stays until the trainer that goes on has saved once, too: a state more.
    whole, state = first.disk_bytes, 16 * parameters(BASE)
    assert first.disk_to_come == whole + state - size(Path(first.folder))


def test_a_stage_that_a_process_holds_is_running(smoke, train):
    with pytest.raises(KeyboardInterrupt):
        train(smoke(), stop=(0, 1, KeyboardInterrupt()))
    [folder] = (Path(smoke().output) / "stages").iterdir()
    with alone(folder):
        first, _ = plan(smoke()).stages
    assert first.state == "running" and first.held_by
    assert plan(smoke()).stages[0].state == "resume"


def test_a_stage_whose_checkpoint_is_gone_is_to_be_made_again_and_says_so(smoke, train):
    stages = train(smoke())
    shutil.rmtree(stages[0]["folder"] / "checkpoint")
    first, second = plan(smoke()).stages
    assert first.state == "resume" and first.after_step == 2 and "is missing" in first.why[0]
    assert second.state == "to run"
    assert second.why[1] == (
        f"matches {stages[1]['folder'].name} in all that is known yet: used again if it gets "
        "the same start"
    )


def test_a_stage_that_was_moved_aside_is_trained_anew(smoke, train):
    [stage] = train(smoke(), stages=1)
    move_aside(stage["folder"], before=time.time())
    first, _ = plan(smoke()).stages
    assert (first.state, first.nearest) == ("to run", "")


def test_a_damaged_manifest_is_told_and_its_stage_goes_on(smoke, train):
    folder = train(smoke(), stages=1)[0]["folder"]
    (folder / "stage.json").write_text("{")
    found = plan(smoke())
    assert found.stages[0].state == "resume"
    assert "was damaged" in found.remarks[0] and list(folder.glob("stage.json.corrupt-*"))
    assert plan(smoke()).remarks == []


def test_what_the_pipeline_would_refuse_is_told_with_the_plan(smoke):
    found = plan(smoke("stages.0.group_size=1", "stages.0.batch_size=8"))
    assert "no baseline" in found.refused and len(found.stages) == 2


def test_a_plan_of_what_only_this_machine_cannot_run_shows_the_engines_settings(smoke, monkeypatch):
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", "")
    found = plan(smoke("hardware=gpu1"))
    assert "hardware" in found.refused and found.stages[0].settings["trainer.device"] == "cuda"


SPEED = {
    "": {},
    "as published": {"updates": "as_published"},
    "continuation": {"rows": "continuation"},
}


@pytest.mark.parametrize("name", [*USES, *(f"speed {kind}" for kind in SPEED if kind)])
def test_updates_and_rollouts_are_those_that_the_curriculum_and_verl_make(name):
    """verl's: rows of the batch over rows of a mini-batch, `rollout.n` for each of its prompts."""
    chosen, _, kind = name.partition(" ")
    selection = Selection(name=chosen, speed=SPEED[kind])
    stage = Stage(batch_size=16, mini_batch_size=8, group_size=24, steps=10)
    experiment = Experiment(name="x", stages=[stage], selection=selection)
    values = settings(experiment, 0, start=Path("s"), prompts=Path("p"), folder=Path("f"))
    mini = values["actor_rollout_ref.rollout.n"]
    mini *= values["actor_rollout_ref.actor.ppo_mini_batch_size"]
    curriculum = make_curriculum(
        selection.model_dump(), [Prompt("a", 1)], group_size=24, seed=0, steps=10
    )
    rows = 10 * 16 * curriculum.rows_per_group
    found = amounts(stage, 10, selection)
    assert (found["rollouts"], found["updates"]) == (rows, rows / mini)


def test_a_model_on_the_hub_is_not_fetched(smoke, monkeypatch, tmp_path):
    monkeypatch.setenv("HF_HUB_CACHE", str(tmp_path / "hub"))
    found = plan(smoke("model.path=nobody/no-such-model"))
    assert found.stages[0].why[1] == "start: nobody/no-such-model is not on this machine yet"
    assert found.disk_to_come is None and found.stages[0].disk_bytes is None


def test_fields_that_come_and_go_are_differences_and_unknown_ones_are_not():
    before = {"stage": {"steps": 1, "old": 2}, "data": "a", "start": "b"}
    after = {"stage": {"steps": 1, "new": 3}, "data": "", "start": "c"}
    found = differences(before, after, unknown={"data"})
    assert [(c.field, c.before, c.after) for c in found] == [
        ("stage.new", None, 3),
        ("start", "b", "c"),
        ("stage.old", 2, None),
    ]
    assert differences(before, before) == []
