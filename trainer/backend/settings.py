"""Our words to verl's words: one stage as overrides of verl's `ppo_trainer` configuration.

Plain data, so that reading or testing it needs no verl. A key that starts with `+` is not in
verl's own configuration and is added to it.
"""

import json
import math
from pathlib import Path
from typing import Any

from conf.overrides import written
from conf.schema import Experiment, Method, Stage
from trainer.backend.stop import STOP
from trainer.functions import absolute

PLUGIN = "trainer.backend.plugin"
ROUTER = Path(__file__).with_name("router.yaml")
STATE = "stagecraft.json"  # our part of a checkpoint, beside verl's
TRACKER = "latest_checkpointed_iteration.txt"  # verl resumes at the step that it names
LOSS = "stagecraft"  # in verl's registry: a loss that is not verl's own
LOSS_VARIABLE = "STAGECRAFT_LOSS"
NO_DUAL_CLIP = 1e9  # verl cannot leave the dual clip out; its ratios end at e^20, below this
KEPT = 2**32  # bytes: smaller blocks than this, freed on a CPU, stay with their process
CHECKPOINTS_KEPT = 2  # verl deletes the old one before the new one is whole if only one is kept


def rows_per_prompt(experiment: Experiment, stage: Stage) -> int:
    """Rollouts of a prompt that train: verl sizes mini-batches by them (`rollout.n`).

    SPEED as published sizes them by its screening alone, and so makes more updates of a batch.
    """
    selection = experiment.selection
    if selection.name in ("speed", "speed_mopps"):
        if selection.speed.updates == "as_published":
            return selection.speed.screening
        if selection.speed.rows == "continuation":
            return stage.group_size - selection.speed.screening
    return stage.group_size


def checkpoints_kept(stage: Stage) -> int:
    """Checkpoints that a stage keeps: enough that one is older than the windows of its alarm."""
    longest = max((condition.window for condition in stage.alarm.when), default=0)
    return max(CHECKPOINTS_KEPT, 1 + math.ceil(longest / stage.save_every))


def micro_batch(rollouts: int, most: int) -> int:
    """The largest number of rollouts per forward pass that divides a rank's share, up to `most`.

    verl cuts a rank's share into equal parts and raises where that does not come out even.

    >>> micro_batch(256, 128), micro_batch(32, 128), micro_batch(96, 64)
    (128, 32, 48)
    """
    return max(size for size in range(1, min(rollouts, most) + 1) if rollouts % size == 0)


def settings(
    experiment: Experiment,
    position: int,
    *,
    start: Path,
    prompts: Path,
    folder: Path,
    optimizer_from: Path | None = None,
    reference: Path | None = None,
) -> dict[str, Any]:
    """verl's configuration of one stage.

    Args:
        experiment: Its stages, method, hardware and seed.
        position: Which of its stages, from 0.
        start: Checkpoint folder (Hugging Face format) to start from.
        prompts: Parquet in verl's columns.
        folder: Where verl keeps its state; our metrics file stands beside it.
        optimizer_from: verl's checkpoint folder whose optimizer a new stage takes over, if any.
        reference: Model folder of the reference policy, where that is not `start`.

    Returns:
        Dotted keys of verl's `ppo_trainer` and their values.
    """
    stage, method, hardware = experiment.stages[position], experiment.method, experiment.hardware
    seed = experiment.seed_of(stage)
    rows = rows_per_prompt(experiment, stage)
    context = experiment.data.max_prompt_length + stage.context_length
    return {
        **_data(experiment, stage, prompts, seed),
        **_model(hardware, start),
        **_actor(stage, method, hardware, context, rows),
        **_rollout(stage, hardware, context, seed, rows),
        **_algorithm(stage, method),
        "critic.enable": False,
        **_reward(experiment, stage),
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        **_loop(experiment, stage, folder),
        "+trainer.stagecraft.metrics_file": str(folder / "metrics.jsonl"),
        "+trainer.stagecraft.probability_tolerance": hardware.probability_tolerance,
        # An engine may tell probabilities within the nucleus: up to so much more.
        "+trainer.stagecraft.kl_tolerance": hardware.kl_tolerance - math.log(stage.top_p),
        "+trainer.stagecraft.selection": experiment.selection.model_dump_json(),
        "+trainer.stagecraft.group_size": stage.group_size,
        "+trainer.stagecraft.seed": seed,
        "+trainer.stagecraft.seeded": hardware.seeded,
        "+trainer.stagecraft.overlong_filter": method.overlong_filter,
        "+trainer.stagecraft.endings": stage.model_dump_json(include={"transition", "alarm"}),
        "+trainer.stagecraft.optimizer_from": optimizer_from and str(optimizer_from),
        **({"+actor_rollout_ref.reference_from": str(reference)} if reference else {}),
    }


def last_saved_step(verl_folder: Path) -> int:
    """The last step whose checkpoint is whole, or 0; verl writes its tracker after all others.

    It empties the file first. Killed or looked at between, the newest checkpoint is whole.
    """
    tracker = verl_folder / TRACKER
    if not tracker.exists():
        return 0
    text = tracker.read_text()
    if text:
        return int(text)
    whole = verl_folder.glob("global_step_*/data.pt")
    return max((int(path.parent.name.rpartition("_")[2]) for path in whole), default=0)


def _algorithm(stage: Stage, method: Method) -> dict[str, Any]:
    """Advantages and the KL term. Only what verl looks at: it ignores the rest silently."""
    actor = "actor_rollout_ref.actor"
    in_reward = stage.kl_coefficient > 0 and method.kl_in == "reward"
    in_loss = stage.kl_coefficient > 0 and method.kl_in == "loss"
    result = {
        "algorithm.adv_estimator": f"stagecraft_{method.advantage.rpartition(':')[2]}",
        "+algorithm.stagecraft.estimator": absolute(method.advantage),
        "+algorithm.stagecraft.settings": dict(method.advantage_settings),
        "algorithm.use_kl_in_reward": in_reward,
        "algorithm.rollout_correction": None,  # it would only count what nobody reads
        f"{actor}.use_kl_loss": in_loss,
        f"{actor}.entropy_coeff": stage.entropy_coefficient,
        f"{actor}.clip_ratio_low": method.clip_low,
        f"{actor}.clip_ratio_high": method.clip_high,
        f"{actor}.clip_ratio_c": method.dual_clip or NO_DUAL_CLIP,
        f"{actor}.policy_loss.loss_mode": "vanilla" if method.loss == "clip" else LOSS,
        f"{actor}.loss_agg_mode": method.loss_average,
    }
    if in_reward:
        result["algorithm.kl_penalty"] = method.kl_estimator
        result["algorithm.kl_ctrl.type"] = "fixed"
        result["algorithm.kl_ctrl.kl_coef"] = stage.kl_coefficient
    if in_loss:
        result[f"{actor}.kl_loss_type"] = method.kl_estimator
        result[f"{actor}.kl_loss_coef"] = stage.kl_coefficient
    if method.loss_average == "seq-mean-token-sum-norm":
        # Not set, verl divides by the longest response of each micro-batch.
        result[f"{actor}.loss_scale_factor"] = stage.context_length
    return result


def _data(experiment: Experiment, stage: Stage, prompts: Path, seed: int) -> dict[str, Any]:
    return {
        "data.train_files": str(prompts),
        "data.val_files": str(prompts),  # verl wants one; it is never validated on
        "data.train_batch_size": stage.batch_size,
        "data.max_prompt_length": experiment.data.max_prompt_length,
        "data.max_response_length": stage.context_length,
        "data.shuffle": True,
        "data.seed": seed,
        "data.dataloader_num_workers": 0,
        "data.filter_overlong_prompts": False,  # refused before training, never dropped silently
        "data.truncation": "error",
        "data.return_raw_chat": True,
    }


def _model(hardware, start: Path) -> dict[str, Any]:
    return {
        "actor_rollout_ref.model.path": str(start),
        "+actor_rollout_ref.model.override_config.attn_implementation": hardware.attention,
        "actor_rollout_ref.model.use_remove_padding": hardware.tokens_per_rank > 0,
        "actor_rollout_ref.model.enable_gradient_checkpointing": hardware.gradient_checkpointing,
    }


def _actor(stage: Stage, method, hardware, context: int, rows: int) -> dict[str, Any]:
    actor = "actor_rollout_ref.actor"
    ranks = hardware.ranks * hardware.nodes
    micro = micro_batch(stage.mini_batch_size * rows // ranks, hardware.micro_batch)
    dynamic = hardware.tokens_per_rank > 0
    result = {
        f"{actor}.strategy": "fsdp2",  # fsdp1 does not run on a CPU; one strategy everywhere
        f"{actor}.use_torch_compile": False,
        f"{actor}.fsdp_config.use_torch_compile": False,
        "actor_rollout_ref.ref.fsdp_config.use_torch_compile": False,
        f"{actor}.fsdp_config.param_offload": hardware.offload,
        f"{actor}.fsdp_config.optimizer_offload": hardware.offload,
        f"{actor}.optim.lr": stage.learning_rate,
        f"{actor}.optim.weight_decay": method.weight_decay,
        f"{actor}.optim.betas": [method.adam_beta1, method.adam_beta2],
        f"{actor}.optim.override_optimizer_config": {"eps": method.adam_epsilon},
        f"{actor}.optim.lr_warmup_steps": stage.warmup_steps,
        f"{actor}.optim.lr_warmup_steps_ratio": 0.0,
        f"{actor}.optim.clip_grad": method.gradient_clip,
        f"{actor}.ppo_epochs": 1,
        f"{actor}.ppo_mini_batch_size": stage.mini_batch_size,
        f"{actor}.use_dynamic_bsz": dynamic,
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{actor}.checkpoint.load_contents": ["model", "optimizer", "extra"],
    }
    if dynamic:
        result[f"{actor}.ppo_max_token_len_per_gpu"] = max(hardware.tokens_per_rank, context)
    else:
        result[f"{actor}.ppo_micro_batch_size_per_gpu"] = micro
    if hardware.dtype == "float32":
        for role in (actor, "actor_rollout_ref.ref"):
            result[f"+{role}.fsdp_config.mixed_precision.param_dtype"] = "fp32"
            result[f"{role}.fsdp_config.model_dtype"] = "fp32"
    return result


def _rollout(stage: Stage, hardware, context: int, seed: int, rows: int) -> dict[str, Any]:
    rollout = "actor_rollout_ref.rollout"
    on_cpu = hardware.device == "cpu"
    dynamic = hardware.tokens_per_rank > 0
    result = {
        f"{rollout}.name": hardware.rollout,
        f"{rollout}.n": rows,
        f"{rollout}.temperature": stage.temperature,
        f"{rollout}.top_p": stage.top_p,
        f"{rollout}.top_k": -1,
        f"{rollout}.dtype": hardware.dtype,
        f"{rollout}.seed": seed,
        f"{rollout}.calculate_log_probs": True,
        f"{rollout}.tensor_model_parallel_size": hardware.tensor_parallel,
        f"{rollout}.gpu_memory_utilization": hardware.memory_share,
        f"{rollout}.max_model_len": context,
        f"{rollout}.max_num_batched_tokens": max(8192, context),
        f"{rollout}.log_prob_use_dynamic_bsz": dynamic,
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": 64 if on_cpu else 2048,
        f"{rollout}.agent.num_workers": 1 if on_cpu else 8,
        f"+{rollout}.agent.agent_loop_manager_class": "trainer.backend.group_loop.GroupLoopManager",
        f"{rollout}.router_config_path": str(ROUTER),
    }
    if dynamic:
        result[f"{rollout}.log_prob_max_token_len_per_gpu"] = max(hardware.tokens_per_rank, context)
        result["actor_rollout_ref.ref.log_prob_use_dynamic_bsz"] = True
        result["actor_rollout_ref.ref.log_prob_max_token_len_per_gpu"] = max(
            hardware.tokens_per_rank, context
        )
    else:
        # Of a mini-batch: a step whose prompts do not fill it is padded to whole ones.
        per_rank = stage.mini_batch_size * rows // (hardware.ranks * hardware.nodes)
        micro = micro_batch(per_rank, hardware.micro_batch)
        result[f"{rollout}.log_prob_micro_batch_size_per_gpu"] = micro
        result["actor_rollout_ref.ref.log_prob_micro_batch_size_per_gpu"] = micro
    if on_cpu:
        result |= {
            f"{rollout}.enforce_eager": True,
            f"{rollout}.free_cache_engine": False,
            f"+{rollout}.enable_sleep_mode": False,
            f"{rollout}.max_num_seqs": 256,
        }
    if hardware.rollout == "vllm":
        module = "vllm_cpu" if on_cpu else "vllm_weights"
        extension = f"trainer.backend.{module}.WorkerExtension"
        result[f"+{rollout}.engine_kwargs.vllm.worker_extension_cls"] = extension
    return result


def _reward(experiment: Experiment, stage: Stage) -> dict[str, Any]:
    reward = experiment.reward
    workers = 0 if experiment.hardware.device == "cpu" else 8  # 0: within the agent loop worker
    function = "reward.custom_reward_function"
    return {
        "reward.num_workers": workers,
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "RewardManager",
        "reward.reward_manager.module.path": "pkg://trainer.backend.reward_manager",
        f"{function}.path": "pkg://trainer.backend.reward",
        f"{function}.name": "compute_score",
        **{
            f"+{function}.reward_kwargs.{key}": value
            for key, value in reward.model_dump(exclude={"name"}).items()
        },
        f"+{function}.reward_kwargs.context_length": stage.context_length,
        f"+{function}.reward_kwargs.reward_workers": max(1, workers),
    }


def _loop(experiment: Experiment, stage: Stage, folder: Path) -> dict[str, Any]:
    hardware = experiment.hardware
    return {
        "trainer.use_v1": True,
        "trainer.v1.trainer_mode": "stagecraft",
        "trainer.v1.sampler.custom_sampler.path": "pkg://trainer.backend.replay_buffer",
        "trainer.v1.sampler.custom_sampler.name": "PromptReplayBuffer",
        "+trainer.v1.sampler.sampler_kwargs.stop_file": str(folder / STOP),
        "trainer.nnodes": hardware.nodes,
        "trainer.n_gpus_per_node": hardware.ranks,
        "trainer.device": hardware.device,
        "trainer.project_name": experiment.name,
        "trainer.experiment_name": stage.name,
        "trainer.logger": [],
        "trainer.val_before_train": False,
        "trainer.test_freq": -1,
        "trainer.save_freq": stage.save_every,
        "trainer.max_actor_ckpt_to_keep": checkpoints_kept(stage),
        "trainer.resume_mode": "auto",
        "trainer.default_local_dir": str(folder / "verl"),
        "trainer.total_training_steps": stage.steps,
        "trainer.total_epochs": stage.steps + 1,  # verl stops at whichever comes first
        **ray_settings(hardware, experiment.method),
    }


def ray_settings(hardware, method: Method) -> dict[str, Any]:
    """Those of Ray: one of its own on this machine, or one that is there and spans several."""
    ray_init = "ray_kwargs.ray_init"
    if hardware.ray_address:
        # Its processes were not started by us, so what they must know goes with the job.
        variables = {**environment(hardware, method), "PYTHONPATH": str(Path(__file__).parents[2])}
        return {
            f"+{ray_init}.address": hardware.ray_address,
            **{
                f"+{ray_init}.runtime_env.env_vars.{name}": value
                for name, value in variables.items()
            },
        }
    result: dict[str, Any] = {f"+{ray_init}.include_dashboard": False}
    if hardware.device == "cpu":
        result[f"{ray_init}.num_cpus"] = 16 * hardware.ranks
        result[f"+{ray_init}.num_gpus"] = hardware.ranks
    return result


def environment(hardware, method: Method | None = None) -> dict[str, str]:
    """Environment of the trainer process: platform, plugin, threads, no look-ups on the Hub.

    Args:
        hardware: Where it runs.
        method: For a loss that is not verl's own; None: none is trained.
    """
    result = {
        "VERL_USE_EXTERNAL_MODULES": PLUGIN,
        "VERL_USE_EXTERNAL_PLUGINS": "none",
        "HF_HUB_OFFLINE": "1",  # everything was downloaded before; nothing may be fetched now
        "TOKENIZERS_PARALLELISM": "false",
        "TQ_NUM_THREADS": "1",  # threads of one small copy; more only adds a warning to each
        "RAY_DEDUP_LOGS": "1",
        "PYTHONUNBUFFERED": "1",
        "RAY_prestart_worker_first_driver": "0",  # idle ones, as many as there are logical cores
    }
    if method and method.loss != "clip":
        chosen = {"loss": absolute(method.loss), "settings": dict(method.loss_settings)}
        result[LOSS_VARIABLE] = json.dumps(chosen)
    if hardware.device == "cpu":
        result |= {
            "VERL_PLATFORM": "cpu",
            "CUDA_VISIBLE_DEVICES": "",  # taken away: Ray refuses logical GPUs where it is set
            "OMP_NUM_THREADS": str(hardware.threads),
            "OMP_WAIT_POLICY": "PASSIVE",
            "KMP_BLOCKTIME": "0",
            # Memory that one step frees is the next one's: to ask the system for it anew, and have
            # it cleared page by page, takes a fifth of an update of a small model. glibc's.
            "MALLOC_ARENA_MAX": "1",  # what one thread frees, another finds
            "MALLOC_MMAP_THRESHOLD_": str(KEPT),
            "MALLOC_TRIM_THRESHOLD_": str(KEPT),
            "VLLM_CPU_KVCACHE_SPACE": str(hardware.kv_cache_gib),
            "VLLM_CPU_OMP_THREADS_BIND": "nobind",
        }
    return result


def overrides(values: dict[str, Any]) -> list[str]:
    """Settings as Hydra overrides."""
    return [f"{key}={written(value)}" for key, value in values.items()]
