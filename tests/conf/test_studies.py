"""Every shipped study composes; what its arms share is what a hand count says."""

import re

import pytest

from conf.load import ConfigError, choices, load
from conf.schema.study import Arm, Study
from conf.studies import load_study, runs
from tasks.sharing import sharing


def labelled(study: Study) -> list:
    return [(run.label, run.settings) for run in runs(study)]


@pytest.mark.parametrize("name", choices("study"))
def test_every_study_composes_and_has_a_lab_twin(name):
    found = runs(load_study(name, ["seeds=[0]"]))
    assert len({run.settings.name for run in found}) == len(found)
    if not name.startswith("lab_"):
        assert f"lab_{name}" in choices("study")


def test_the_nine_experiments_share_63_percent_of_their_steps():
    """Steps of 128 prompts: 7,740 alone; 160 + 295 + 115 + 410 + 115 + 6 x 290 = 2,835 shared."""
    found = sharing(labelled(load_study("fastcurl_ablation", ["seeds=[0]"])))
    assert found.alone["steps_at_128"] == 7740
    assert found.shared["steps_at_128"] == 2835
    assert found.saved("steps_at_128") == pytest.approx(0.634, abs=0.001)
    assert [len(stage.runs) for stage in found.stages[:3]] == [9, 8, 7]


def test_nothing_is_shared_across_seeds_methods_or_prompts():
    plain = load("experiment=lab/smoke")
    others = [
        load("experiment=lab/smoke", change)
        for change in ("seed=1", "method=rloo", "data.train.seed=5", "stages.0.steps=3")
    ]
    for other in others:
        assert sharing([("plain", plain), ("other", other)]).saved("steps") == 0
    renamed = load("experiment=lab/smoke", "name=other", "stages.0.name=x", "output=elsewhere")
    assert sharing([("plain", plain), ("other", renamed)]).saved("steps") == 0.5


def test_other_benchmarks_are_other_prompts_where_gates_drop_what_overlaps_with_them():
    for gates, saved in (("default", 0), ("as_published", 0.5)):
        one, other = (
            load("experiment=lab/smoke", f"gates={gates}",
                 f"evaluation.benchmarks=[{{name: {name}, split: test}}]")
            for name in ("lab_test", "lab_other")
        )  # fmt: skip
        assert sharing([("one", one), ("other", other)]).saved("steps") == saved


def test_another_seed_of_evaluation_is_another_measurement_of_pass_rates():
    whole = ["stages.0.prompts=all", "stages.1.prompts=all"]
    for rule, saved in (("pass_rate", 0), ("level", 0.5)):
        rows = [f"data.segmentation.rule={rule}", *whole]
        one, other = (
            load("experiment=lab/smoke", *rows, f"evaluation.seed={seed}") for seed in (0, 1)
        )
        assert sharing([("one", one), ("other", other)]).saved("steps") == saved


@pytest.mark.parametrize("name", ["curricula", "lab_curricula"])
def test_arms_that_compare_curricula_train_on_the_same_rows(name):
    first, *others = [run.settings for run in runs(load_study(name, ["seeds=[0]"]))]
    for other in others:
        assert other.data == first.data
        assert other.gates == first.gates
        assert other.model == first.model


def test_a_target_that_no_arm_is_scored_on_is_refused():
    study = Study(arms=[Arm(experiment="lab/smoke")], targets={"lab_test": 0.5, "math5OO": 0.8})
    with pytest.raises(ConfigError, match="targets has math5OO, needed one of lab_test\n\nhint: "):
        runs(study)


def test_the_command_of_a_run_composes_the_run():
    study = load_study("lab_fastcurl_ablation", ["seeds=[3]"])
    for run in runs(study, "/data/R&D/it's")[:2]:
        assert run.settings.output == "/data/R&D/it's"
        assert load(f"experiment={run.arm.experiment}", *run.overrides) == run.settings


def test_a_stage_may_be_like_another_with_differences():
    study = Study(arms=[Arm(experiment="lab/smoke", stages=[{"like": 2, "steps": 7}])])
    [stage] = runs(study)[0].settings.stages
    assert (stage.name, stage.steps, stage.context_length) == ("1-L2-96", 7, 96)


@pytest.mark.parametrize(
    ("stages", "said"),
    [
        ([{"like": 3}], "arm arm: stages.0.like: found 3, needed a number from 1 to 2"),
        ([{"steps": 3}], "stages.0.like: not there(.|\\n)*curriculum=mine"),
        ([{"like": 1, "stepz": 3}], "stepz"),
    ],
)
def test_a_stage_that_is_like_none_is_refused(stages, said):
    with pytest.raises(ConfigError, match=said):
        runs(Study(arms=[Arm(experiment="lab/smoke", stages=stages)]))


def test_settings_that_are_not_the_studys_go_to_every_arm():
    study = load_study("lab_smoke", ["seeds=[4]", "evaluation.samples=3"])
    assert study.seeds == [4]
    assert {run.settings.evaluation.samples for run in runs(study)} == {3}
    with pytest.raises(ConfigError, match="experiment: cannot be set for a study"):
        load_study("lab_smoke", ["experiment=lab/fastcurl"])


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("evaluation.top_p=0.95", "evaluation.top_p of a is 1.0, of b 0.95: needed the same"),
        ("evaluation=lab", "evaluation.benchmarks of a is "),
        ("evaluation.boxed=false", "evaluation.boxed of a is True, of b False"),
    ],
)
def test_arms_that_would_be_scored_differently_are_refused(setting, told):
    first = Arm(name="a", experiment="lab/smoke")
    arms = [first, Arm(name="b", experiment="lab/smoke", overrides=[setting])]
    with pytest.raises(ConfigError, match=rf"{re.escape(told)}(.|\n)*hint: "):
        runs(Study(arms=arms))
    alike = Arm(name="b", experiment="lab/smoke", overrides=["evaluation.batch_size=7"])
    assert len(runs(Study(arms=[first, alike], seeds=[0]))) == 2


@pytest.mark.parametrize("targets", ["{lab_test:0.7}", "{lab_test: 0.7}"])
def test_a_key_of_a_study_is_read_as_hydra_reads_it(targets):
    own = [f"targets={targets}", "seeds=[0, 7]", "question='Is it so: or not?'", "level=0.9"]
    study = load_study("lab_smoke", own)
    assert (study.targets, study.seeds, study.level) == ({"lab_test": 0.7}, [0, 7], 0.9)
    assert study.question == "Is it so: or not?"


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("seeds=[0,1", r"seeds: found '\[0,1', which cannot be read"),
        ("seeds=0", r"seeds: found 0, needed a valid list\n\nhint: as in seeds=\[0\]$"),
        ("level=2", r"level: found 2, needed less than 1\n\nhint: as in level=0\.95$"),
        ("targets.lab_test=0.5", r"needed the whole\n\nhint: as in targets=\{lab_test:0\.5\}$"),
        ("seeds=0,1", "seeds: found several values in 'seeds=0,1', needed one"),
        ("~seeds", "seeds: "),
        ("seeds", "'seeds' is no override"),
        ("name=a b", "name: found 'a b', needed letters, digits, "),
    ],
)
def test_a_malformed_key_of_a_study_is_refused_in_words(override, said):
    with pytest.raises(ConfigError, match=said):
        load_study("lab_smoke", [override])


@pytest.mark.parametrize(
    ("override", "hint"),
    [
        ("seed=1", r"as in seeds=\[1\]"),
        ("+seed=1", "as in seeds"),
        ("name=x", "an arm's own `name`"),
    ],
)
def test_what_every_run_gets_from_its_study_is_no_override(override, hint):
    said = (
        rf"arm short: found '\+?{override.lstrip('+')}' among the overrides, .*\n\nhint: .*{hint}"
    )
    arm = Arm(name="short", experiment="lab/smoke")
    with pytest.raises(ConfigError, match=said):
        runs(Study(arms=[arm.model_copy(update={"overrides": [override]})]))
    with pytest.raises(ConfigError, match=said):
        runs(Study(arms=[arm], overrides=[override]))


def test_overrides_that_are_one_text_are_no_letters(tmp_path, monkeypatch):
    (tmp_path / "study").mkdir()
    file = tmp_path / "study" / "mine.yaml"
    monkeypatch.setattr("conf.files.FOLDER", tmp_path)
    for text, where in (
        ("overrides: seed=1", "overrides"),
        ("arms: [{name: a, overrides: seed=1}]", "arms.0.overrides"),
    ):
        file.write_text(text)
        said = rf"^{where}: found 'seed=1', needed a valid list\n\nhint: .*\[seed=1\]$"
        with pytest.raises(ConfigError, match=said):
            load_study("mine")
