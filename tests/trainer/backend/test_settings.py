"""Our words to verl's words: what we ask for, and that verl's own configuration takes it."""

import inspect
import json
import pickle
import platform
import subprocess
import sys
from pathlib import Path

import pytest
from hydra.core.override_parser.overrides_parser import OverridesParser
from hypothesis import assume, example, given
from hypothesis import strategies as st
from omegaconf import OmegaConf

from conf import telemetry
from conf.load import choices, load
from conf.schema import Experiment, Hardware, Method, Selection, Stage
from tasks import preflight_method
from trainer.backend.reward import compute_score
from trainer.backend.settings import (
    micro_batch,
    overrides,
    settings,
)
from trainer.backend.surroundings import environment, ray_settings
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
    assert values["algorithm.adv_estimator"] == "stagecraft_rloo"
    assert values["+algorithm.stagecraft.estimator"] == "rloo"
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


def test_an_engine_may_tell_probabilities_within_the_nucleus():
    key = "+trainer.stagecraft.kl_tolerance"
    assert of(experiment())[key] == 1.0
    assert of(experiment(stages=[Stage(top_p=0.5)]))[key] == pytest.approx(1.0 + 0.6931, abs=1e-4)


def test_the_queue_takes_as_many_rollouts_as_a_step_has(compose):
    """Of verl's 100,000 the groups that come last would fail, and others take their places."""
    from transfer_queue.storage.simple_storage import StorageUnitData

    stage = Stage(batch_size=2048, mini_batch_size=2048, group_size=64)
    storage = compose(of(experiment(stages=[stage]))).transfer_queue.backend.SimpleStorage
    unit = StorageUnitData(storage.total_storage_size)
    unit.put_data({"uid": [0] * 131_072}, range(131_072))
    assert storage.num_data_storage_units == 1


def test_every_checkpoint_holds_what_a_resume_and_the_next_stage_need():
    contents = of(experiment())["actor_rollout_ref.actor.checkpoint.save_contents"]
    assert set(contents) == {"model", "optimizer", "extra", "hf_model"}


@pytest.mark.parametrize("ranks", [1, 2, 4])
def test_micro_batches_come_out_even_on_every_rank(ranks):
    values = of(experiment(hardware=Hardware(ranks=ranks, micro_batch=48)))
    micro = values["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"]
    assert micro <= 48 and (16 * 8 // ranks) % micro == 0
    micro = values["actor_rollout_ref.rollout.log_prob_micro_batch_size_per_gpu"]
    assert micro <= 48 and (16 * 8 // ranks) % micro == 0


@pytest.mark.parametrize(
    ("tokens", "context", "rollouts"), [(0, 100, 48), (4096, 100, 32), (4096, 900, 4), (64, 900, 1)]
)
def test_a_pass_is_bounded_by_tokens_too(tokens, context, rollouts):
    """The longest prompt and response count for each: 28 and `context`, of 96 rollouts."""
    stage = Stage(batch_size=8, mini_batch_size=8, group_size=12, context_length=context)
    hardware = Hardware(micro_batch=48, micro_tokens=tokens)
    data = {"max_prompt_length": 28}
    values = of(experiment(stages=[stage], hardware=hardware, data=data))
    for key in ("actor.ppo", "rollout.log_prob", "ref.log_prob"):
        found = values[f"actor_rollout_ref.{key}_micro_batch_size_per_gpu"]
        assert found == rollouts and (not tokens or found == 1 or found * (28 + context) <= tokens)


@pytest.mark.parametrize("name", choices("hardware"))
def test_what_a_gpu_is_told_of_precision_and_kernels(name):
    hardware = load("experiment=lab/smoke", f"hardware={name}").hardware
    for dtype in ("float32", "bfloat16"):
        told = environment(hardware.model_copy(update={"dtype": dtype}))
        on_gpu = hardware.device == "cuda"
        assert told.get("VLLM_USE_FLASHINFER_SAMPLER") == ("0" if on_gpu else None)
        exact = on_gpu and dtype == "float32"
        assert told.get("TRITON_F32_DEFAULT") == ("ieee" if exact else None)


def test_a_prime_share_is_cut_into_single_rollouts():
    assert micro_batch(31, 16) == 1


def test_the_trainer_process_calls_nobody_and_knows_our_plugin():
    variables = environment(Hardware())
    assert variables["HF_HUB_OFFLINE"] == "1"
    assert variables["VERL_PLATFORM"] == "cpu"
    assert variables["VERL_USE_EXTERNAL_MODULES"] == "trainer.backend.plugin"
    assert "VERL_PLATFORM" not in environment(Hardware(device="cuda", rollout="vllm"))


@pytest.mark.parametrize(("device", "rollout"), [("cpu", "torch"), ("cuda", "vllm")])
def test_a_ray_of_its_own_has_room_for_all_processes_of_a_rank(device, rollout):
    """verl asks for three CPUs a rank and one for each helper, and waits where there are fewer."""
    values = ray_settings(Hardware(device=device, rollout=rollout, ranks=2), Method())
    assert values["ray_kwargs.ray_init.num_cpus"] == 32
    # Of GPUs Ray counts those that there are; on a CPU ranks are placed by as many logical ones.
    assert values.get("+ray_kwargs.ray_init.num_gpus") == (2 if device == "cpu" else None)


def test_a_cluster_s_workers_call_nobody_either():
    """They were started by others: what they must not do goes with the job."""
    hardware = Hardware(ray_address="10.0.0.1:6379")
    values = ray_settings(hardware, Method())
    sent = {key.rpartition(".")[2]: value for key, value in values.items() if ".env_vars." in key}
    assert sent.items() >= {**telemetry.OFF, **environment(hardware, Method())}.items()


FREED = """
import resource
before = None
for _ in range(6):
    block = b"x" * 2**26
    del block
    faults = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
    before = before or faults
print(faults - before)
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="the settings are glibc's")
def test_memory_that_a_step_freed_is_the_next_ones():
    """Without it each block of 64 MiB is asked for anew: 16,384 pages, or 32 of 2 MiB."""
    anew = {}
    for device, rollout in (("cpu", "torch"), ("cuda", "vllm")):
        given = environment(Hardware(device=device, rollout=rollout))
        kept = {name: value for name, value in given.items() if name.startswith("MALLOC_")}
        done = subprocess.run(
            [sys.executable, "-c", FREED], env=kept, capture_output=True, text=True, check=True
        )
        anew[device] = int(done.stdout)
    assert anew["cpu"] < 100 < anew["cuda"]


@pytest.mark.parametrize(("device", "module"), [("cuda", "vllm_weights"), ("cpu", "vllm_cpu")])
def test_vllm_receives_weights_our_way(device, module):
    values = of(experiment(hardware=Hardware(device=device, rollout="vllm")))
    name = values["+actor_rollout_ref.rollout.engine_kwargs.vllm.worker_extension_cls"]
    assert name == f"trainer.backend.{module}.WorkerExtension"


@pytest.fixture(scope="module")
def compose():
    pytest.importorskip("verl")
    from conf.compose import compose

    return lambda values: compose("verl.trainer.config", "ppo_trainer", overrides(values))


@pytest.fixture(scope="module")
def quick(compose):
    """The same as `compose`, on one composition by Hydra: it takes 0.2 s and there are hundreds."""
    base = compose({})
    OmegaConf.set_struct(base, True)
    base = pickle.dumps(base)  # read faster than it is copied

    def overridden(values):
        config = pickle.loads(base)
        for key, value in values.items():
            added = key.startswith("+")
            assert not added or OmegaConf.select(config, key[1:]) is None, f"verl has {key[1:]}"
            # Without force_add, a key that verl does not have raises, as it does in Hydra.
            OmegaConf.update(config, key.lstrip("+"), value, force_add=added)
        return config

    return overridden


# Every recipe on the machine it names, and two on all.
CASES = [(name, None) for name in choices("experiment")] + [
    (name, hardware) for name in ("fastcurl", "lab/smoke") for hardware in choices("hardware")
]


@pytest.mark.parametrize(("name", "hardware"), CASES)
def test_verl_takes_every_stage_of_every_recipe_and_finds_it_valid(quick, name, hardware):
    """verl's ppo_trainer takes our settings, says what we asked for, and passes its own checks."""
    from verl.trainer.ppo.utils import need_reference_policy
    from verl.utils.config import omega_conf_to_dataclass, validate_config

    chosen = load(f"experiment={name}", *([f"hardware={hardware}"] if hardware else []))
    preflight_method.check(chosen)
    for position, stage in enumerate(chosen.stages):
        values = of(chosen, position)
        config = quick(values)
        for key, value in values.items():
            assert OmegaConf.select(config, key.lstrip("+")) == value, key
        reference = need_reference_policy(config)
        assert reference is (stage.kl_coefficient > 0)
        validate_config(config, use_reference_policy=reference, use_critic=False)
        actor = config.actor_rollout_ref.actor
        assert (actor.strategy, actor.optim.lr) == ("fsdp2", stage.learning_rate)
        rollout = omega_conf_to_dataclass(config.actor_rollout_ref.rollout)
        assert rollout.name == chosen.hardware.rollout
        assert_nothing_is_ignored(values)


@pytest.mark.parametrize("name", ["areal/1_5b_v0_1_1", "speed/speed_dapo_7b_dapo17k"])
def test_the_quick_way_gives_what_hydra_gives(compose, quick, name):
    values = of(load(f"experiment={name}"))
    slow, fast = compose(values), quick(values)
    assert OmegaConf.to_container(fast, resolve=False) == OmegaConf.to_container(
        slow, resolve=False
    )


# What verl 0.9.1's V1 trainer does not look at, and when. Ours never sets it then.
ACTOR = "actor_rollout_ref.actor"
NEVER_READ = {
    "algorithm.norm_adv_by_std_in_grpo": "only by verl's own grpo (ray_trainer.py)",
    "algorithm.gamma": "only by gae and verl's own reinforce_plus_plus",
    "algorithm.lam": "only by gae",
    "algorithm.filter_groups.enable": "not handed to a custom sampler (v1/trainer_base.py:146)",
    "algorithm.filter_groups.max_num_gen_batches": "never in V1 (v1/trainer_base.py:203)",
    f"{ACTOR}.clip_ratio": "only where clip_ratio_low or _high is null (core_algos.py)",
    f"{ACTOR}.grad_clip": "the FSDP engine reads optim.clip_grad",
    "data.val_batch_size": "validation takes the whole set",
}
READ_ONLY_IF = {
    f"{ACTOR}.kl_loss_coef": (f"{ACTOR}.use_kl_loss", True),
    f"{ACTOR}.kl_loss_type": (f"{ACTOR}.use_kl_loss", True),
    "algorithm.kl_penalty": ("algorithm.use_kl_in_reward", True),
    "algorithm.kl_ctrl.kl_coef": ("algorithm.use_kl_in_reward", True),
    f"{ACTOR}.loss_scale_factor": (f"{ACTOR}.loss_agg_mode", "seq-mean-token-sum-norm"),
    f"{ACTOR}.ppo_max_token_len_per_gpu": (f"{ACTOR}.use_dynamic_bsz", True),
    f"{ACTOR}.ppo_micro_batch_size_per_gpu": (f"{ACTOR}.use_dynamic_bsz", False),
}


def assert_nothing_is_ignored(values):
    assert not set(NEVER_READ) & set(values)
    for key, (switch, needed) in READ_ONLY_IF.items():
        assert key not in values or values[switch] == needed, key


@pytest.mark.parametrize(
    "method",
    [
        Method(kl_in="reward", kl_estimator="k1"),
        Method(loss_average="seq-mean-token-sum-norm", advantage="dr_grpo", dual_clip=None),
        Method(advantage="james_stein", advantage_settings={"variant": "corrected"}),
        Method(loss="clip_unless_far", loss_settings={"farthest": 2.0}, overlong_filter=True),
    ],
    ids=["kl_in_reward", "dr_grpo", "james_stein", "areal_loss"],
)
def test_every_way_of_a_method_reaches_verl_and_nothing_of_it_is_ignored(quick, method):
    values = of(experiment(method=method, stages=[Stage(kl_coefficient=0.001)]))
    assert_nothing_is_ignored(values)
    config = quick(values)
    actor = config.actor_rollout_ref.actor
    assert config.algorithm.stagecraft.settings == method.advantage_settings
    assert config.algorithm.use_kl_in_reward is (method.kl_in == "reward")
    assert actor.use_kl_loss is (method.kl_in == "loss")
    assert actor.clip_ratio_c == (method.dual_clip or 1e9)
    if method.loss_average == "seq-mean-token-sum-norm":
        assert actor.loss_scale_factor == 8192  # the context, not a micro-batch's longest


def test_a_loss_of_ours_stands_in_the_environment():
    assert "STAGECRAFT_LOSS" not in environment(Hardware(), Method())
    method = Method(loss="clip_unless_far", loss_settings={"farthest": 2.0})
    found = json.loads(environment(Hardware(), method)["STAGECRAFT_LOSS"])
    assert found == {"loss": "clip_unless_far", "settings": {"farthest": 2.0}}


def test_verl_refuses_a_setting_that_it_does_not_have(compose, quick):
    for way in (compose, quick):
        with pytest.raises(Exception, match="use_dynamic_size"):
            way({"actor_rollout_ref.actor.use_dynamic_size": True})


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
    assert of(chosen)["actor_rollout_ref.rollout.n"] == rows
    curriculum = make_curriculum(
        selection.model_dump(), [Prompt("a")], group_size=24, seed=0, steps=1
    )
    mini = stage.mini_batch_size * rows
    assert stage.batch_size * curriculum.rows_per_group / mini == updates
    micro = of(chosen)["actor_rollout_ref.actor.ppo_micro_batch_size_per_gpu"]
    assert mini % micro == 0
    assert json.loads(of(chosen)["+trainer.stagecraft.selection"]) == selection.model_dump()


@given(
    st.text(
        st.characters(min_codepoint=32, max_codepoint=126) | st.sampled_from("'\\${}é"), max_size=30
    )
)
@example("/data/R\\D")
@example("ends in \\")
@example("\\'${oc.env:HOME}")
def test_any_text_is_read_back_by_hydra_as_it_is(text):
    assume(text != "???")  # a missing value, which has no other form
    (line,) = overrides({"+key": text})
    (read,) = OverridesParser.create().parse_overrides([line])
    assert OmegaConf.create({"key": read.value()}).key == text
