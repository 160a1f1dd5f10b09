"""Values that are each allowed, and together would do nothing or harm."""

import re

import pytest

from conf.load import ConfigError, load


def refused(*overrides: str) -> str:
    with pytest.raises(ConfigError, match="\n\nhint: ") as refusal:
        load("experiment=lab/smoke", *overrides)
    return str(refusal.value)


@pytest.mark.parametrize(("solved", "hopeless"), [(0.5, 0.6), (0.5, 0.5), (0.1, 0.9)])
def test_limits_between_which_no_pass_rate_lies_are_refused(solved, hopeless):
    said = refused(f"stages.1.drop_solved={solved}", f"stages.1.drop_hopeless={hopeless}")
    assert re.match(rf"stages\.1: drop_hopeless is {hopeless}, drop_solved {solved}: no pass", said)
    assert said.endswith("hint: lower drop_hopeless or raise drop_solved")


@pytest.mark.parametrize(("solved", "hopeless"), [(1, 0), (0.6, 0.5), (0.5, "null"), ("null", 0.5)])
def test_limits_that_leave_prompts_are_taken(solved, hopeless):
    limits = [f"stages.1.drop_solved={solved}", f"stages.1.drop_hopeless={hopeless}"]
    assert load("experiment=lab/smoke", *limits).stages[1].drop_solved in (solved, None)


UNREAD = [
    # What a rule does not look at.
    (
        ["quantiles=[0.3]"],
        "found quantiles [0.3], which rule=length does not read, needed rule=tok",
    ),
    (["bands=[0,0.5,1]"], "found bands [0.0, 0.5, 1.0], which rule=length does not read, needed"),
    (["samples=3"], "found samples 3, which rule=length does not read, needed rule=pass_rate"),
    (["rule=tokens", "temperature=1"], "found temperature 1.0, which rule=tokens does not read"),
    (
        ["rule=whole", "threshold=100"],
        "found threshold 100, which rule=whole does not read, needed",
    ),
    (["rule=level", "length_of=repr_chat"], "found length_of 'repr_chat', which rule=level does"),
]
OWN = ["data.train.kind=file", "data.train.path=a.jsonl"]


@pytest.mark.parametrize(("given", "said"), UNREAD)
def test_what_the_rule_of_segmentation_does_not_read_is_refused(given, said):
    lines = [f"data.segmentation.{one}" for one in given]
    assert refused(*lines, "stages.0.prompts=all").startswith(f"data.segmentation: {said}")


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["split=test"], "found split 'test', which kind=file does not read, needed kind=lab or k"),
        (["rows=9"], "found rows 9, which kind=file does not read, needed kind=lab\n\nhint: set"),
        (["seed=3"], "found seed 3, which kind=file does not read, needed kind=lab\n\nhint: set"),
    ],
)
def test_what_a_file_does_not_read_is_refused(given, said):
    assert refused(*OWN, *(f"data.train.{one}" for one in given)).startswith(f"data.train: {said}")
    together = f"{{name:mine,kind:file,path:a.jsonl,{given[0].replace('=', ':')}}}"
    assert refused(f"data.train={together}").startswith(f"data.train: {said}")
    listed = refused(f"evaluation.benchmarks=[{{name:b}},{together}]")
    assert listed.startswith(f"evaluation.benchmarks.1: {said}")


@pytest.mark.parametrize(
    "given",
    [
        OWN,  # rows of the lab's file are left over
        [*OWN, "data.train.split=train", "data.train.seed=0"],  # the defaults
        [*OWN, "data.train.held_out=5", "data.train.seed=3"],  # which are held out
        ["data=fastcurl", "data.segmentation.rule=whole"],  # its threshold is left over
        ["data=numinamath_cot", "data.segmentation.rule=length"],
        ["reward=dapo", "reward.overlong_share=0"],
        ["data.segmentation.rule=tokens", "data.segmentation.quantiles=[0.3]"],
        ["hardware.offload=true", "stages.0.temperature=1", "method.kl_estimator=k1"],
    ],
    ids=" ".join,
)
def test_what_is_read_or_left_over_from_a_file_is_taken(given):
    assert load("experiment=lab/smoke", *given).name == "lab_smoke"


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (["speed.screening=2"], "found speed {'screening': 2}, which name=uniform does not read"),
        (["e2h={levels:3}"], "found e2h {'levels': 3}, which name=uniform does not read, needed"),
        (["name=dapo", "speed.ahead=true"], "found speed {'ahead': True}, which name=dapo does"),
    ],
)
def test_what_a_selection_does_not_read_is_refused(given, said):
    text = refused(*(f"selection.{one}" for one in given))
    assert text.startswith(f"selection: {said}") and "hint: choose selection=" in text


def test_what_a_selection_reads_or_a_file_leaves_over_is_taken():
    load("experiment=lab/smoke", "selection=dapo", "selection.bounds.low=0.1")
    load("experiment=lab/smoke", "selection=speed", "selection.name=uniform")
    load("experiment=lab/smoke", "selection.speed.screening=4")  # the default


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("batch_size=8", "hint: did you mean stages.0.batch_size or evaluation.batch_size?"),
        ("steps=8", "hint: did you mean stages.0.steps?"),
        ("clip_high=0.3", "hint: did you mean method.clip_high?"),
        ("curriculum.stages.0.steps=3", "hint: did you mean stages.0.steps?"),
        ("curriculum.0.steps=3", "hint: did you mean stages.0.steps?"),
        ("stages[0].steps=3", "found 'stages[0].steps' before the =, needed a key"),
        ("stages.1-L1-64.steps=3", "found 'stages.1-L1-64.steps' before the =, needed a key"),
        ("stages+=[{name:c}]", "found 'stages+' before the =, needed a key"),
        ("-m", "found '-m', which is Hydra's own, needed key=value\n\nhint: run once for each"),
        ("--cfg", "found '--cfg', which is Hydra's own, needed key=value\n\nhint: python -m conf"),
        ("--config-name=x", "hint: experiment= chooses a file of conf/experiment"),
        ("output=", "output: found '', needed a text"),
        ("name=x_${seed}", "not found\n\nhint: ${...} finds what a file of conf/ or another"),
        ("evaluation.benchmarks=[]", "evaluation.benchmarks: found [], needed 1 at least"),
    ],
)
def test_what_hydra_has_otherwise_and_keys_without_their_part_get_what_is_meant(given, said):
    assert said in refused(given)


def test_a_penalty_over_no_share_of_the_context_is_refused():
    said = refused("reward.overlong_penalty=2")
    assert said.startswith("reward: found overlong_penalty 2.0 and overlong_share 0, over which")
    both = load("experiment=lab/smoke", "reward.overlong_penalty=2", "reward.overlong_share=0.1")
    assert both.reward.overlong_penalty == 2


@pytest.mark.parametrize(
    "key",
    ["seed", "stages.0.steps", "stages.0.learning_rate", "stages.1.drop_solved", "reward.memory",
     "data.segmentation.threshold", "evaluation.benchmarks.0.rows"],
)  # fmt: skip
def test_a_switch_where_a_number_is_asked_for_is_refused(key):
    for value in (True, False):
        said = refused(f"{key}={str(value).lower()}")
        assert said.startswith(f"{key}: found {value}, needed ") and f"hint: {key}" in said


def test_a_switch_in_a_list_of_numbers_is_refused():
    assert "found [0.5, True], needed a number" in refused(
        "data.segmentation.rule=tokens", "data.segmentation.quantiles=[0.5,true]"
    )
