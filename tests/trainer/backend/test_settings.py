"""Our words to verl's words: what we ask for, and that verl's own configuration takes it."""

import inspect
import json
from pathlib import Path

import pytest

from conf.load import choices, load
from conf.schema import Experiment, Hardware, Method, Selection, Stage
from trainer.backend.reward import compute_score
from trainer.backend.settings import (
    environment,
    micro_batch,
    overrides,
    rows_per_prompt,
    settings,
)
from trainer.selection import Prompt, make_curriculum

FOLDER = Path("/runs/a stage, with 'quotes'=1")


def of(experiment: Experiment, position: int = 0) -> dict:
    return settings(
        experiment,
        position,
        start=Path("/models/base"),
        prompts=FOLDER / "prompts.parquet",
        folder=FOLDER,
    )


def experiment(**changes) -> Experiment:
    stage = Stage(context_length=64, steps=7, batch_size=32, mini_batch_size=16, group_size=8)
    return Experiment(**{"stages": [stage], "seed": 3} | changes)


def test_a_stage_says_the_same_in_both_languages():
    values = of(experiment(method=Method(advantage="rloo", clip_high=0.28)))
    assert values["data.max_response_length"] == 64
    assert values["data.train_batch_size"] == 32
    assert values["actor_rollout_ref.actor.ppo_mini_batch_size"] == 16
    assert values["actor_rollout_ref.rollout.n"] == 8
    assert values["trainer.total_training_steps"] == 7
    assert values["trainer.total_epochs"] > 7  # verl stops at whichever comes first
    assert values["algorithm.adv_estimator"] == "rloo"
    assert values["actor_rollout_ref.actor.clip_ratio_high"] == 0.28
    assert values["data.seed"] == values["actor_rollout_ref.rollout.seed"] == 3


def test_stages_on_the_same_prompts_draw_them_in_different_orders():
    stages = [Stage(name="a"), Stage(name="b")]
    of_both = [of(experiment(stages=stages), position)["data.seed"] for position in (0, 1)]
    assert of_both[0] != of_both[1]


def test_without_a_kl_term_no_reference_is_kept():
    assert of(experiment())["actor_rollout_ref.actor.use_kl_loss"] is False
    values = of(experiment(stages=[Stage(kl_coefficient=0.001)]))
    assert values["actor_rollout_ref.actor.use_kl_loss"] is True
    assert values["actor_rollout_ref.actor.kl_loss_coef"] == 0.001


def test_every_checkpoint_holds_what_a_resume_and_the_next_stage_need():
    contents = of(experiment())["actor_rollout_ref.actor.checkpoint.save_contents"]
    assert set(contents) == {"model", "optimizer", "extra", "hf_model"}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_micro_batches_come_out_even_on_every_rank(ranks):
    values = of(experiment(hardware=Hardware(ranks=ranks, micro_batch=48)))
    micro = values["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"]
    assert micro <= 48 and (16 * 8 // ranks) % micro == 0
    micro = values["actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"]
    assert micro <= 48 and (32 * 8 // ranks) % micro == 0


def test_a_prime_share_is_cut_into_single_rollouts():
    assert micro_batch(31, 16) == 1


def test_the_trainer_process_calls_nobody_and_knows_our_plugin():
    variables = environment(Hardware())
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["VERL_PLATFORM"] == "cpu"
    assert variables["VERL_USE_EXTERNAL_MODULES"] == "trainer.backend.plugin"
    assert "VERL_PLATFORM" not in environment(Hardware(device="cuda", rollout="vllm"))


@pytest.fixture(scope="module")
def compose():
    pytest.importorskip("verl")
    from conf.compose import compose

    return lambda values: compose("verl.trainer.config", "ppo_trainer", overrides(values))


CASES = [(name, hardware) for name in choices("experiment") for hardware in choices("hardware")]


@pytest.mark.parametrize(("name", "hardware"), CASES)
def test_verl_takes_every_stage_of_every_experiment_on_every_machine(compose, name, hardware):
    """verl's own ppo_trainer composes with our settings and then says what we asked for."""
    chosen = load(f"experiment={name}", f"hardware={hardware}")
    for position in range(len(chosen.stages)):
        values = of(chosen, position)
        config = compose(values)
        for key, value in values.items():
            node = config
            for part in key.lstrip("+").split("."):
                node = node[part]
            assert node == value, key


def test_verl_refuses_a_setting_that_it_does_not_have(compose):
    with pytest.raises(Exception, match="use_dynamic_size"):
        compose({"actor_rollout_ref.actor.use_dynamic_size": True})


@pytest.mark.parametrize(("name", "hardware"), CASES)
def test_verl_finds_every_composed_configuration_valid(compose, name, hardware):
    """verl's own checks, and those of the classes that its workers make of actor and rollout."""
    from verl.trainer.ppo.utils import need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    chosen = load(f"experiment={name}", f"hardware={hardware}")
    for position, stage in enumerate(chosen.stages):
        config = compose(of(chosen, position))
        reference = need_reference_policy(config)
        assert reference is (stage.kl_coefficient > 0)
        validate_config(config, use_reference_policy=reference, use_critic=False)
        actor = omega_conf_to_dataclass(config.actor_rollout_ref.actor)
        rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        assert (actor.strategy, actor.optim.lr) == ("fsdp2", stage.learning_rate)
        assert (rollout.name, rollout.n) == (chosen.hardware.rollout, stage.group_size)


def test_verl_calls_the_reward_in_a_thread():
    """It awaits what is `async` in its event loop, which a comparison would hold up."""
    assert not inspect.iscoroutinefunction(compute_score)


@pytest.mark.parametrize(
    ("selection", "rows", "updates"),
    [
        (Selection(name="uniform"), 24, 1),
        (Selection(name="speed"), 24, 1),
        (Selection(name="speed", speed={"updates": "as_published"}), 4, 6),
        (Selection(name="speed", speed={"rows": "continuation"}), 20, 1),
        (Selection(name="shuffle_r1"), 24, 1),
    ],
)
def test_a_mini_batch_is_sized_by_the_rollouts_that_train(selection, rows, updates):
    """SPEED's published 16 prompts of 4 + 20 rollouts: six updates a step, its baseline one."""
    stage = Stage(batch_size=16, mini_batch_size=16, group_size=24)
    chosen = experiment(stages=[stage], selection=selection)
    assert of(chosen)["actor_rollout_ref.rollout.n"] == rows_per_prompt(chosen, stage) == rows
    curriculum = make_curriculum(
        selection.model_dump(), [Prompt("a")], group_size=24, seed=0, steps=1
    )
    mini = stage.mini_batch_size * rows
    assert stage.batch_size * curriculum.rows_per_group / mini == updates
    micro = of(chosen)["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"]
    assert mini % micro == 0
    assert json.loads(of(chosen)["+trainer.stagecraft.selection"]) == selection.model_dump()
