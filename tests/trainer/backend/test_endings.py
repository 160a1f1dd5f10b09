"""What the trainer does where a stage ends early or collapses."""

import json
import math
from types import SimpleNamespace

import pytest

from conf.schema import Stage
from trainer.backend.endings import CollapsedError, Endings, alarm_of, refuse
from trainer.backend.settings import checkpoints_kept
from trainer.records import append_record

ABOVE = {"metric": "reward/mean", "above": 0.34, "window": 2}


def endings(folder, steps=9, **settings) -> Endings:
    stage = Stage(steps=steps, **settings)
    return Endings(folder / "metrics.jsonl", stage.model_dump(), steps)


def record(step, **more):
    return {"step": step, "reward/mean": step / 10, "loss": 0.1, "entropy": 1.0, **more}


def test_a_stage_that_had_ended_when_it_was_killed_makes_no_more_steps(tmp_path):
    settings = {"transition": {"policy": "any", "when": [ABOVE]}}
    lived = endings(tmp_path, **settings)
    assert lived.resume() is None
    for step in (1, 2, 3, 4):
        lived.check(record(step))
        append_record(tmp_path / "metrics.jsonl", record(step))
        assert (lived.done() is not None) == (step == 4)
        assert endings(tmp_path, **settings).resume() == (4 if step == 4 else None)


def test_a_collapse_is_on_the_disk_before_it_is_raised(tmp_path):
    watched = endings(tmp_path, alarm={"when": [ABOVE]})
    for step in (1, 2, 3):
        watched.check(record(step))
        assert watched.collapse() is None and alarm_of(tmp_path) is None
    watched.check(record(4))
    found = watched.collapse()
    alarm = alarm_of(tmp_path)
    assert (alarm["step"], alarm["good"]) == (4, 2)
    assert alarm["evidence"] == found.as_json()
    with pytest.raises(CollapsedError, match=r"step 4: collapsed[\s\S]*hint: .* its start"):
        refuse(found, 0)
    assert endings(tmp_path, alarm={"when": [ABOVE]}).resume() is None
    assert alarm_of(tmp_path) is None


@pytest.mark.parametrize("metric", ["loss", "grad_norm", "entropy", "reward/mean"])
@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_what_is_no_number_is_refused_unless_that_is_switched_off(tmp_path, metric, value):
    bad = record(1, **{metric: value})
    with pytest.raises(FloatingPointError, match=f"step 1: {metric} is {value}"):
        endings(tmp_path).check(bad)
    endings(tmp_path, alarm={"not_finite": False}).check(bad)


def test_as_many_checkpoints_are_kept_as_the_alarm_looks_back_over():
    """One is always older than the window, whatever step the alarm goes off at."""
    for window in range(1, 13):
        for every in range(1, 7):
            stage = Stage(
                steps=30, save_every=every, alarm={"when": [{"below": 0, "window": window}]}
            )
            kept = checkpoints_kept(stage)
            for step in range(window + every, 31):
                saved = list(range(every, step + 1, every))[-kept:]
                assert min(saved) <= step - window
    assert checkpoints_kept(Stage()) == 2


def test_the_export_is_of_the_step_that_ended_the_stage(tmp_path):
    pytest.importorskip("verl")
    from trainer.backend.run import steps_of

    stage = Stage(steps=9, transition={"policy": "any", "when": [ABOVE]})
    trainer = SimpleNamespace(
        total_training_steps=9,
        stagecraft=SimpleNamespace(
            metrics_file=str(tmp_path / "metrics.jsonl"),
            endings=json.dumps(stage.model_dump(include={"transition", "alarm"})),
        ),
    )
    assert steps_of(trainer) == 9
    for step in range(1, 5):
        append_record(tmp_path / "metrics.jsonl", record(step))
    assert steps_of(trainer) == 4
