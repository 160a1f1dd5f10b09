"""What the trainer writes down of a step, without verl's engines."""

from types import SimpleNamespace

import pytest

from conf.schema import Selection
from trainer.backend import stage_trainer
from trainer.records import read_records
from trainer.selection import Bounds, Prompt, Stream, make_curriculum
from trainer.selection.simulator import Simulator, constant
from trainer.transitions import Ending


@pytest.mark.parametrize(
    ("steps", "done"), [(1, None), (9, Ending(1, []))], ids=["its steps", "its transition"]
)
def test_of_a_stage_that_ends_every_group_is_told_of_those_that_still_waited_too(
    tmp_path, monkeypatch, steps, done
):
    """By either end. All that was drawn and generated is in the record of groups, then."""
    curriculum = make_curriculum(
        Selection(name="speed", speed={"screening": 2}).model_dump(),
        [Prompt(f"p{i}") for i in range(60)],
        group_size=4,
        seed=0,
        steps=steps,
    )
    stream = Stream(curriculum, Bounds(4, 16, 1, 64))
    monkeypatch.setattr(stage_trainer, "keep_probe", lambda *_: None)
    stream.tried = 9.0  # few qualified of late: more are screened than there are places
    trainer = stage_trainer.StageTrainer.__new__(stage_trainer.StageTrainer)
    for name in ("metrics", "order", "groups"):
        setattr(trainer, f"{name}_file", tmp_path / f"{name}.jsonl")
    trainer.stream, trainer.total_training_steps, trainer.updated_batch = stream, steps, None
    trainer._record = lambda batch, metrics, step: ({"step": step, **stream.ledger.record()}, {})
    trainer.train_dataloader = SimpleNamespace(state_dict=dict)
    trainer.replay_buffer = SimpleNamespace(keep=lambda uids: None)
    trainer.checkpoint_manager = SimpleNamespace(sleep_replicas=lambda: None)
    trainer.endings = SimpleNamespace(
        check=lambda record: None, collapse=lambda: None, done=lambda: done
    )
    Simulator(stream, constant([0.5] * 60)).step(1)
    trainer._compute_metrics(None, {}, {}, 1, 0)
    records = read_records(tmp_path / "metrics.jsonl")
    told = [group for one in read_records(tmp_path / "groups.jsonl") for group in one["groups"]]
    waited = [group for group in told if group["fate"] == "waiting"]
    assert len(waited) == records[-1]["selection/waiting"] > 0
    assert sorted(group["number"] for group in told) == list(range(stream.number))
    assert sum(group["tokens"] for group in told) == sum(r["tokens/generated"] for r in records)
