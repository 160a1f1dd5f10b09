"""The papers' numbers, and that each recipe has its twin and its single-stage arm."""

import re
from functools import cache

import pytest

from conf import load as settings
from conf.load import FOLDER, choices
from tasks.amounts import amounts

load = cache(settings.load)  # 0.1 s each

RECIPES = [name for name in choices("experiment") if not name.startswith("lab/")]


def stages(name):
    return load(f"experiment={name}").stages


def total(name, what):
    selection = load(f"experiment={name}").selection
    return sum(amounts(stage, stage.steps, selection)[what] for stage in stages(name))


def twin(name):
    for size in ("_1_5b_", "_7b_"):
        if name.startswith("speed/"):
            name = name.partition(size)[0]
    return f"lab/{name}"


def test_fastcurl_preview_is_860_steps_of_128_prompts_and_1720_updates():
    assert total("fastcurl", "prompts") == 110_080 == 860 * 128
    assert total("fastcurl", "updates") == 1_720
    assert total("fastcurl", "rollouts") == 1_177_600


@pytest.mark.parametrize("name", [n for n in RECIPES if n.startswith(("fastcurl", "deepscaler"))])
def test_prompts_over_1024_tokens_are_left_out_as_the_scripts_do(name):
    """max_prompt_length of their scripts, and the filter of their trainer (ray_trainer.py)."""
    experiment = load(f"experiment={name}")
    assert experiment.data.train.name == "fastcurl_train"
    assert experiment.data.max_prompt_length == 1024
    assert experiment.gates.overlong_prompts == "drop"
    # Of all rows, though: the files were divided before any was left out.
    assert experiment.data.segmentation.threshold == 247


@pytest.mark.parametrize(("name", "steps"), [("fastcurl_v2", 1_710), ("fastcurl_v3", 2_620)])
def test_its_successors_are_as_long_as_the_readme_says(name, steps):
    assert total(name, "prompts") / 128 == steps
    *preview, last = stages(name)
    assert [s.steps for s in preview] == [160, 590, 230, 580] and last.kl_coefficient == 0


def test_knights_and_knaves_are_seen_three_times():
    """run_knk.sh: 3 epochs in batches of 32, of the two sizes that the data's file names say."""
    experiment = load("experiment=jspo/knights_knaves")
    rows = sum(int(re.search(r"num(\d+)", file)[1]) for file in experiment.data.train.files)
    assert rows == 1_200
    [stage] = experiment.stages
    assert stage.steps == 3 * (rows // stage.batch_size) == 111


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_says_where_its_sources_disagree(name):
    notes = load(f"experiment={name}").notes
    known = {"fastcurl": "stage_4", "deepscaler": "kl_sign", "speed": "updates", "jspo": "ceiling"}
    known["areal"] = "baseline"
    [family] = [family for family in known if name.startswith(family)]
    assert known[family] in notes and all(len(note) > 40 for note in notes.values())


def test_deepscaler_is_1750_steps_of_128_and_3500_updates():
    assert total("deepscaler", "prompts") == 1_750 * 128
    assert total("deepscaler", "updates") == 3_500
    assert [s.steps for s in stages("deepscaler")] == [1_040, 480, 230]


@pytest.mark.parametrize(
    "name", [name for name in RECIPES if name.startswith(("fastcurl", "deepscaler"))]
)
def test_fastcurl_and_deepscaler_have_the_plain_clipped_loss_of_their_trainer(name):
    experiment = load(f"experiment={name}")
    method = experiment.method
    assert (method.advantage, method.loss, method.dual_clip) == ("grpo", "clip", None)
    assert "method.dual_clip=3" in experiment.notes["clip"]
    assert load("experiment=lab/smoke").method.dual_clip == 3


def test_areal_makes_one_update_a_step_then_four():
    for name, updates, rate in (("v0_1", 1, 1e-6), ("v0_1_1", 4, 1e-5)):
        experiment = load(f"experiment=areal/1_5b_{name}")
        assert total(f"areal/1_5b_{name}", "rollouts") == 437 * 1024 * 8  # 3.58 M
        assert {s.batch_size // s.mini_batch_size for s in experiment.stages} == {updates}
        assert {s.learning_rate for s in experiment.stages} == {rate}
        assert (experiment.reward.right, experiment.reward.wrong) == (5, -5)
        assert experiment.stages[0].warmup_steps == round(0.02 * 390)
    zero = load("experiment=areal/7b_zero")
    assert [stage.warmup_steps for stage in zero.stages] == [round(0.02 * 200)]
    assert (zero.reward.right, zero.reward.wrong) == (1, 0)


@pytest.mark.parametrize("name", [name for name in RECIPES if name.startswith("areal/")])
def test_areal_says_what_of_warm_up_form_and_prompt_is_not_as_published(name):
    experiment = load(f"experiment={name}")
    assert experiment.reward.think == "optional" and "has to be closed" in experiment.notes["form"]
    assert "2 %" in experiment.notes["warmup"] and "data.instruction" in experiment.notes["prompt"]


def test_areal_is_scored_on_the_40_problems_of_amc_that_its_figures_are_of():
    experiment = load("experiment=areal/1_5b_v0_1")
    assert "40 problems here" in experiment.notes["amc"]
    sets = {one.name: one.path for one in experiment.evaluation.benchmarks}
    others = {one.name: one.path for one in load("experiment=fastcurl").evaluation.benchmarks}
    assert sets["amc2023_40"] == "math-ai/amc23"
    assert all(sets[name] == others[name] for name in sets.keys() & others.keys())


def test_the_ablation_s_sixth_experiment_is_preview():
    assert stages("fastcurl_ablation/6") == stages("fastcurl")
    ninth = [(s.prompts, s.context_length, s.group_size) for s in stages("fastcurl_ablation/9")]
    assert ninth == [
        ("L1", 8192, 8), ("L2", 16384, 8), ("L3", 24576, 8), ("L2", 16384, 16), ("L2", 8192, 16)
    ]  # fmt: skip


@pytest.mark.parametrize("arm", ["rloo", "speed_rloo", "dapo", "speed_dapo"])
def test_speed_has_four_arms_on_two_models_and_three_data_sets(arm):
    found = [name for name in RECIPES if name.startswith(f"speed/{arm}_")]
    assert len(found) == 6
    for name in found:
        experiment = load(f"experiment={name}")
        [stage] = experiment.stages
        sizes = (stage.batch_size, stage.group_size, stage.context_length, stage.warmup_steps)
        assert sizes == (16, 24, 3072, 10)
        assert experiment.method.dual_clip == 10 and experiment.method.weight_decay == 0.1
        assert experiment.method.clip_high == (0.28 if "dapo" in arm else 0.2)
        assert experiment.reward.overlong_share * 3072 == pytest.approx(512 * ("dapo" in arm))
        assert experiment.selection.name == {"rloo": "uniform", "dapo": "dapo"}.get(arm, "speed")


def test_every_staged_recipe_has_an_arm_of_one_stage_with_its_compute():
    staged = [name for name in RECIPES if len(stages(name)) > 1]
    assert {"fastcurl", "deepscaler"} <= set(staged)
    for name in (f"{prefix}{name}" for name in staged for prefix in ("", "lab/")):
        several, one = (load(f"experiment={arm}") for arm in (name, f"{name}_single"))
        [single] = one.stages
        step = amounts(single, 1, one.selection)["tokens_at_most"]
        apart = abs(total(name, "tokens_at_most") - total(f"{name}_single", "tokens_at_most"))
        assert apart <= step / 2, name
        assert several.method == one.method and several.reward == one.reward, name


@pytest.mark.parametrize("name", RECIPES)
def test_a_recipe_trains_on_its_rows_as_they_were_published(name):
    several = load(f"experiment={name}")
    acts = {gate: what for gate, what in several.gates if what in ("drop", "keep-first")}
    if several.data.train.name == "numinamath_1_5":
        assert acts["ungradable_answers"] == "drop"  # proofs
    else:
        assert set(acts) <= {"overlong_prompts"}
    for arm in (f"{name}_single", f"lab/{name}_single"):
        if arm in choices("experiment"):
            staged = load(f"experiment={arm.removesuffix('_single')}")
            one = load(f"experiment={arm}")
            assert (one.data, one.gates, one.evaluation) == (
                staged.data, staged.gates, staged.evaluation
            )  # fmt: skip


def test_a_chosen_evaluation_is_the_whole_evaluation():
    """No recipe sets a part of it that would outlast the choice of another."""
    for name in ("deepscaler", "areal/7b_zero", "speed/dapo_7b_numina", "jspo/knights_knaves"):
        assert load(f"experiment={name}", "evaluation=sober").evaluation == (
            load("experiment=fastcurl", "evaluation=sober").evaluation
        )


def traits(experiment):
    """What of its stages a twin may leave out or change, by the word that says so."""
    first = experiment.stages[0].group_size
    return {
        "KL": [stage.kl_coefficient > 0 for stage in experiment.stages],
        "entropy": [stage.entropy_coefficient > 0 for stage in experiment.stages],
        "update": [stage.batch_size // stage.mini_batch_size for stage in experiment.stages],
        "rollouts": [stage.group_size / first for stage in experiment.stages],
        "warm-up": [stage.warmup_steps > 0 for stage in experiment.stages],
    }


@pytest.mark.parametrize("name", RECIPES)
def test_what_a_twin_leaves_out_its_curriculum_says(name):
    paper, lab = (traits(load(f"experiment={arm}")) for arm in (name, twin(name)))
    text = (FOLDER / "experiment" / f"{twin(name)}.yaml").read_text()
    curriculum = re.search(r"override /curriculum: (\S+)", text)[1]
    said = (FOLDER / "curriculum" / f"{curriculum}.yaml").read_text().partition("\nstages:")[0]
    assert [word for word in paper if paper[word] != lab[word] and word not in said] == []


@pytest.mark.parametrize("name", RECIPES)
def test_every_recipe_has_a_twin_of_the_same_sets_lengths_and_method_in_the_lab(name):
    paper, lab = load(f"experiment={name}"), load(f"experiment={twin(name)}")
    assert lab.hardware.device == "cpu" and lab.model.path == "lab"
    assert paper.method == lab.method and paper.selection == lab.selection
    assert [s.prompts for s in paper.stages] == [s.prompts for s in lab.stages]
    order = [[s.context_length for s in experiment.stages] for experiment in (paper, lab)]
    ranks = [[sorted(set(lengths)).index(length) for length in lengths] for lengths in order]
    assert ranks[0] == ranks[1]


@pytest.mark.parametrize(
    ("hardware", "parameters"), [("gpu1", 1.8e9), ("gpu8", 1.8e9), ("gpu8_7b", 7.6e9)]
)
def test_half_of_what_a_stop_is_given_is_enough_to_save_at_200_mb_a_second(hardware, parameters):
    """Weights twice and Adam's moments in float32; the other half is for the end of an update."""
    given = load("experiment=lab/smoke", f"hardware={hardware}").hardware.stop_grace
    assert 16 * parameters / 200e6 <= given / 2
