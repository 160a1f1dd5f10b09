"""A stage that ends early or collapses, as it lies on disk. The trainer is a stand-in."""

from pathlib import Path

import pytest

from conf.load import load
from tasks.artifacts import digest_of, read_json
from tasks.plan import plan
from tasks.results import stage_rows
from tasks.stages import identity
from tasks.status import status
from tasks.tables import cost
from tests.conftest import NoTracker
from trainer.backend.endings import Endings, refuse
from trainer.backend.launch import StageFailedError
from trainer.backend.resume import last_whole_step
from trainer.records import read_records

# The stand-in's rewards are 1/8, 2/8, 3/8, ...: above .4 in the mean of two from step 4 on.
EARLY = "{policy:any,when:[{metric:reward/mean,above:0.4,window:2}]}"


@pytest.fixture
def smoke(tmp_path):
    """Settings of the smoke experiment whose first stage makes six steps at most."""

    def settings(*overrides):
        steps = ["stages.0.steps=6", "stages.0.save_every=3"]
        return load("experiment=lab/smoke", f"output={tmp_path / 'out'}", *steps, *overrides)

    return settings


def early(*more):
    return [f"stages.0.transition={EARLY}", *more]


def test_a_stage_whose_condition_holds_is_finished_with_fewer_steps_and_says_why(
    smoke, train, capsys
):
    [stage] = train(smoke(*early()), stages=1, stop=(0, 4, None))
    assert (stage["outcome"], stage["steps"], stage["ended_by"]) == ("finished", 4, "transition")
    assert stage["counters"]["steps"] == 4 and stage["counters"]["prompts"] == 32
    [evidence] = stage["evidence"]
    assert evidence == {
        "metric": "reward/mean", "kind": "above", "bound": 0.4, "found": 0.4375, "first": 3,
        "last": 4,
    }  # fmt: skip
    said = "ended after step 4 of 6: reward/mean, its mean over steps 3 to 4, is above 0.4: 0.4375"
    assert said in capsys.readouterr().out
    experiment = smoke(*early())
    [row] = stage_rows(experiment, [stage])
    assert row["steps"] == 4 and row["ended_early"] == said
    assert cost([row], row).notes == [f"1-L1-64 {said}"]
    [shown] = status(experiment.output).stages
    assert (shown.outcome, shown.steps, shown.steps_asked) == ("finished", 4, 6)


def test_it_is_found_trained_and_the_next_stage_starts_from_it(smoke, train):
    experiment = smoke(*early())
    stages = train(experiment, stop=(0, 4, None))
    assert stages[1]["start"] == stages[0]["checkpoint"]
    again = train(experiment, stop=(0, 0, AssertionError("trained again")))
    assert [len(stage["attempts"]) for stage in again] == [1, 1]
    first, second = plan(experiment).stages
    assert first.state == second.state == "cached" and first.left["steps"] == 0
    assert any("ended after step 4 of 6" in reason for reason in first.why)


class Counting(NoTracker):
    """Notes how many steps each stage is told to come after."""

    def __init__(self):
        self.before = []

    def child_run(self, *arguments, **settings):
        self.before.append(settings["steps_before"])
        return super().child_run(*arguments, **settings)

    def found_stage(self, *arguments):
        self.before.append(arguments[-1])


def test_the_next_stages_curves_begin_after_the_steps_that_were_made(smoke, train):
    """Not after those that the stage before might have made: MLflow's curves and the report's."""
    first, again = Counting(), Counting()
    stages = train(smoke(*early()), stop=(0, 4, None), tracker=first)
    train(smoke(*early()), tracker=again)
    rows = stage_rows(smoke(*early()), stages)
    assert first.before == again.before == [row["first_step"] for row in rows] == [0, 4]


@pytest.mark.parametrize(
    ("made", "needed"),
    [(3, "holds 3 steps, needed 1 to 6"), (5, "holds 5 steps, needed 1 to 4")],
)
def test_steps_too_few_or_past_the_end_are_an_error(smoke, train, made, needed):
    with pytest.raises(StageFailedError, match=needed):
        train(smoke(*early()), stages=1, stop=(0, made, None))


def test_without_a_transition_fewer_steps_are_an_error_as_ever(smoke, train):
    with pytest.raises(StageFailedError, match="holds 4 steps, needed 1 to 6"):
        train(smoke(), stages=1, stop=(0, 4, None))


def test_an_interrupted_stage_decides_as_one_that_was_not(smoke, train):
    experiment = smoke(*early())
    with pytest.raises(KeyboardInterrupt):
        train(experiment, stages=1, stop=(0, 3, KeyboardInterrupt()))
    [resumed] = train(experiment, stages=1, stop=(0, 4, None))
    assert [attempt["outcome"] for attempt in resumed["attempts"]] == ["interrupted", "finished"]
    [other] = train(
        smoke(*early(), "output=" + experiment.output + "-2"), stages=1, stop=(0, 4, None)
    )
    for key in ("steps", "ended_by", "evidence", "counters", "digest"):
        assert resumed[key] == other[key]


def test_a_transition_and_an_alarm_are_part_of_what_a_stage_is(smoke):
    def digest(*overrides):
        experiment = smoke(*overrides)
        return digest_of(identity(experiment, experiment.stages[0], "d", "s"))

    assert digest("stages.0.transition.policy=fixed", "stages.0.alarm.not_finite=true") == digest()
    assert "transition" not in identity(smoke(), smoke().stages[0], "d", "s")["stage"]
    different = {
        digest(),
        digest(*early()),
        digest("stages.0.transition={policy:all,when:[{metric:reward/mean,above:0.4,window:2}]}"),
        digest("stages.0.alarm.not_finite=false"),
        digest("stages.0.alarm.when=[{metric:entropy,below:0.1,window:3}]"),
    }
    assert len(different) == 5


def test_a_plan_says_that_a_stage_may_end_early(smoke):
    experiment = smoke(*early(), "stages.0.alarm.when=[{metric:entropy,below:0.1,window:3}]")
    first, second = plan(experiment).stages
    assert first.may_end == (
        "may end before its 6 steps, when the mean of reward/mean over 2 steps is above 0.4"
    )
    assert first.alarm == "is stopped when the mean of entropy over 3 steps is below 0.1"
    assert second.may_end == second.alarm == ""


# --- A collapse -----------------------------------------------------------------------------------

ALARM = "stages.0.alarm.when=[{metric:reward/mean,above:0.4,window:2}]"


def collapse(folder, experiment):
    """What verl's trainer does where the alarm goes off: see `Endings`."""
    stage = experiment.stages[0]
    endings = Endings(folder / "metrics.jsonl", stage.model_dump(), stage.steps)
    for record in read_records(folder / "metrics.jsonl"):
        endings.check(record)
        found = endings.collapse()
        if found:
            refuse(found, last_whole_step(folder))


def test_a_collapse_stops_the_stage_at_the_last_checkpoint_of_before(smoke, train):
    experiment = smoke(ALARM, "stages.0.save_every=1")
    with pytest.raises(KeyboardInterrupt):  # a checkpoint of step 2, then one of step 4
        train(experiment, stages=1, stop=(0, 2, KeyboardInterrupt()))
    with pytest.raises(KeyboardInterrupt):
        train(experiment, stages=1, stop=(0, 4, KeyboardInterrupt()))
    [folder] = (Path(experiment.output) / "stages").iterdir()
    assert last_whole_step(folder) == 4
    with pytest.raises(RuntimeError, match="step 4: collapsed") as error:
        collapse(folder, experiment)
    assert "reward/mean, its mean over steps 3 to 4, is above 0.4: 0.4375" in str(error.value)
    assert "hint: the stage is back at the checkpoint of step 2" in str(error.value)
    assert last_whole_step(folder) == 2
    alarm = read_json(folder / "alarm.json")
    assert (alarm["step"], alarm["good"]) == (4, 2)
    first = plan(experiment).stages[0]
    assert (first.state, first.after_step) == ("resume", 2)


def test_a_failed_stage_s_attempt_keeps_what_showed_the_collapse(smoke, train):
    experiment = smoke(ALARM)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, stages=1, stop=(0, 4, KeyboardInterrupt()))
    [folder] = (Path(experiment.output) / "stages").iterdir()
    with pytest.raises(RuntimeError) as error:
        collapse(folder, experiment)
    with pytest.raises(StageFailedError):  # no checkpoint of before: it begins anew
        train(experiment, stages=1, stop=(0, 4, StageFailedError(str(error.value))))
    attempt = read_json(folder / "stage.json")["attempts"][-1]
    assert attempt["first_step"] == 1 and "collapsed" in attempt["reason"]
    assert attempt["alarm"] == read_json(folder / "alarm.json")


def test_a_new_attempt_forgets_the_alarm_of_the_one_before(smoke, train, tmp_path):
    experiment = smoke(ALARM)
    with pytest.raises(KeyboardInterrupt):
        train(experiment, stages=1, stop=(0, 4, KeyboardInterrupt()))
    [folder] = (Path(experiment.output) / "stages").iterdir()
    with pytest.raises(RuntimeError):
        collapse(folder, experiment)
    stage = experiment.stages[0]
    assert Endings(folder / "metrics.jsonl", stage.model_dump(), 6).resume() is None
    assert not (folder / "alarm.json").exists()
