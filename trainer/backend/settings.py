"""Our words to verl's words: one stage as overrides of verl's `ppo_trainer` configuration.

Plain data, so that reading or testing it needs no verl. A key that starts with `+` is not in
verl's own configuration and is added to it.
"""

import math
from pathlib import Path
from typing import Any

from conf.overrides import written
from conf.schema import Experiment, Hardware, Method, Stage
from trainer.backend.stop import STOP
from trainer.backend.surroundings import ray_settings
from trainer.functions import absolute

ROUTER = Path(__file__).with_name("router.yaml")
LOSS = "stagecraft"  # in verl's registry: a loss that is not verl's own
NO_DUAL_CLIP = 1e9  # verl cannot leave the dual clip out; its ratios end at e^20, below this
CHECKPOINTS_KEPT = 2  # verl deletes the old one before the new one is whole if only one is kept


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
    rows = experiment.selection.rows_per_prompt(stage.group_size)
    context = experiment.data.max_prompt_length + stage.context_length
    return {
        **_data(experiment, stage, prompts, seed),
        **_model(hardware, start),
        **_actor(stage, method, hardware),
        **_rollout(stage, hardware, context, seed, rows),
        **_passes(stage, hardware, context, rows),
        **_algorithm(stage, method),
        "critic.enable": False,
        **_reward(experiment, stage),
        "transfer_queue.backend.SimpleStorage.num_data_storage_units": 1,
        # verl's 100,000 rows bound nothing but how many prompts may be out at the same time.
        "transfer_queue.backend.SimpleStorage.total_storage_size": None,
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


def _model(hardware: Hardware, start: Path) -> dict[str, Any]:
    return {
        "actor_rollout_ref.model.path": str(start),
        "+actor_rollout_ref.model.override_config.attn_implementation": hardware.attention,
        "actor_rollout_ref.model.use_remove_padding": hardware.tokens_per_rank > 0,
        "actor_rollout_ref.model.enable_gradient_checkpointing": hardware.gradient_checkpointing,
    }


def _passes(stage: Stage, hardware: Hardware, context: int, rows: int) -> dict[str, Any]:
    """How much goes through the model at once: by tokens, or by rollouts of a mini-batch.

    Of a mini-batch in the passes without a gradient, too: a step whose prompts do not fill it is
    padded to whole ones.
    """
    actor, rollout, reference = (
        f"actor_rollout_ref.{role}" for role in ("actor", "rollout", "ref")
    )
    if hardware.tokens_per_rank > 0:
        most = max(hardware.tokens_per_rank, context)
        return {
            f"{actor}.use_dynamic_bsz": True,
            f"{actor}.ppo_max_token_len_per_gpu": most,
            f"{rollout}.log_prob_use_dynamic_bsz": True,
            f"{rollout}.log_prob_max_token_len_per_gpu": most,
            f"{reference}.log_prob_use_dynamic_bsz": True,
            f"{reference}.log_prob_max_token_len_per_gpu": most,
        }
    most = hardware.micro_batch
    if hardware.micro_tokens:
        most = min(most, max(1, hardware.micro_tokens // context))
    most = micro_batch(stage.mini_batch_size * rows // (hardware.ranks * hardware.nodes), most)
    return {
        f"{actor}.use_dynamic_bsz": False,
        f"{actor}.ppo_micro_batch_size_per_gpu": most,
        f"{rollout}.log_prob_use_dynamic_bsz": False,
        f"{rollout}.log_prob_micro_batch_size_per_gpu": most,
        f"{reference}.log_prob_micro_batch_size_per_gpu": most,
    }


def _actor(stage: Stage, method: Method, hardware: Hardware) -> dict[str, Any]:
    actor = "actor_rollout_ref.actor"
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
        f"{actor}.checkpoint.save_contents": ["model", "optimizer", "extra", "hf_model"],
        f"{actor}.checkpoint.load_contents": ["model", "optimizer", "extra"],
    }
    if hardware.dtype == "float32":
        for role in (actor, "actor_rollout_ref.ref"):
            result[f"+{role}.fsdp_config.mixed_precision.param_dtype"] = "fp32"
            result[f"{role}.fsdp_config.model_dtype"] = "fp32"
    return result


def _rollout(
    stage: Stage, hardware: Hardware, context: int, seed: int, rows: int
) -> dict[str, Any]:
    rollout = "actor_rollout_ref.rollout"
    on_cpu = hardware.device == "cpu"
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
        f"{rollout}.checkpoint_engine.update_weights_bucket_megabytes": 64 if on_cpu else 2048,
        f"{rollout}.agent.num_workers": 1 if on_cpu else 8,
        f"+{rollout}.agent.agent_loop_manager_class": "trainer.backend.group_loop.GroupLoopManager",
        f"{rollout}.router_config_path": str(ROUTER),
    }
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
    values = reward.model_dump(exclude={"name"})
    if reward.function:
        values["function"] = absolute(reward.function)
    workers = 0 if experiment.hardware.device == "cpu" else 8  # 0: within the agent loop worker
    function = "reward.custom_reward_function"
    return {
        "reward.num_workers": workers,
        "reward.reward_manager.source": "importlib",
        "reward.reward_manager.name": "RewardManager",
        "reward.reward_manager.module.path": "pkg://trainer.backend.reward_manager",
        f"{function}.path": "pkg://trainer.backend.reward",
        f"{function}.name": "compute_score",
        **{f"+{function}.reward_kwargs.{key}": value for key, value in values.items()},
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


def overrides(values: dict[str, Any]) -> list[str]:
    """Settings as Hydra overrides."""
    return [f"{key}={written(value)}" for key, value in values.items()]
