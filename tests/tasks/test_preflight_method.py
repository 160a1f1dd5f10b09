import pytest

from conf.load import ConfigError, load
from tasks.preflight_method import check, warnings


def smoke(*overrides):
    return load("experiment=lab/smoke", *overrides)


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method.advantage=grop"], "method.advantage: found 'grop', needed one of grpo"),
        (["method.loss=clop"], "did you mean clip?"),
        (["method.advantage_settings.epsilo=1"], "did you mean epsilon?"),
        (["method=rloo", "method.advantage_settings.epsilon=1"], "which rloo does not take"),
        (["method.advantage_settings.epsilon=abc"], "method.advantage: grpo fails, given rewards"),
        (["method=james_stein", "method.advantage_settings.variant=best"], "found 'best'"),
        (["method=james_stein", "stages.0.group_size=1"], "found 1 rollout, needed 2"),
        (["method=rloo", "stages.1.group_size=1"], "a rollout has no baseline"),
        (["method=maxrl", "reward=areal"], "found maxrl with rewards below 0"),
        (
            ["method=maxrl", "method.kl_in=reward", "stages.0.kl_coefficient=0.01"],
            "found maxrl with rewards below 0",
        ),
        # Nothing would look at these.
        (["method.kl_in=reward"], "no stage has a KL term: there is no reference"),
        (["method.kl_estimator=k1"], "found k1, but no stage has a KL term"),
        # Refused by the schema.
        (["method.dual_clip=1.1"], "within the clip range that ends at 1.2"),
        (["method.clip_low=1.2"], "method.clip_low"),
        (["stages.1.reference=keep"], "no reference is asked for: kl_coefficient is 0"),
        (["stages.0.warmup_steps=2"], "the learning rate is never reached"),
        (["stages.0.transition.policy=any"], "policy is any, but when has no conditions"),
        (["stages.0.alarm.when=[{metric:reward,below:0,window:1}]"], "'reward/mean'"),
        (["stages.0.alarm.when=[{below:0,window:3}]"], "alarm.when.0: reward/mean below"),
        (["stages.0.alarm.when=[{belo:0,window:1}]"], "did you mean stages.0.alarm.when.0.below"),
    ],
)
def test_what_cannot_work_or_would_be_ignored_is_refused(overrides, told):
    with pytest.raises(ConfigError, match="hint: ") as refused:
        check(smoke(*overrides))
    assert told in str(refused.value)


@pytest.mark.parametrize(
    "overrides",
    [
        ["method.kl_in=reward", "method.kl_estimator=k1", "stages.0.kl_coefficient=0.001"],
        ["method=reinforce_plus_plus", "stages.0.group_size=1", "stages.1.group_size=1"],
        ["method=james_stein", "method.advantage_settings.variant=corrected"],
        ["method=areal"],
    ],
)
def test_what_works_is_not(overrides):
    check(smoke(*overrides))


@pytest.mark.parametrize(
    ("overrides", "told"),
    [
        (["method=james_stein", "selection=dapo"], "selection=dapo takes those groups out"),
        (["method=james_stein", "selection=greso"], "selection=greso takes those groups out"),
        (
            ["method=james_stein", "stages.0.batch_size=4", "stages.0.mini_batch_size=4"],
            "4 prompts",
        ),
        (
            ["selection=dapo", "stages.1.alarm.when=[{metric:reward/mean,below:0.1,window:1}]"],
            "2-L2-96: its transition or alarm watches reward/mean",
        ),
        (["reward.right=0"], "so right answers are not what training rewards"),
        (["method=dapo"], "the clip 0.2/0.28 never acts"),
        (["method=dr_grpo", "method.overlong_filter=true"], "verl divides by all rollouts"),
    ],
)
def test_what_may_not_be_meant_is_told(overrides, told):
    assert any(told in warning for warning in warnings(smoke(*overrides)))


def test_nothing_is_told_of_a_usual_method():
    assert warnings(load("experiment=lab/fastcurl")) == []
