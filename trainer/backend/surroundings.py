"""What surrounds a trainer: its environment, and the Ray that it starts or joins."""

import json
from pathlib import Path
from typing import Any

from conf import telemetry
from conf.schema import Hardware, Method
from trainer.functions import absolute

PLUGIN = "trainer.backend.plugin"
LOSS_VARIABLE = "STAGECRAFT_LOSS"
KEPT = 2**32  # bytes: smaller blocks than this, freed on a CPU, stay with their process


def ray_settings(hardware: Hardware, method: Method) -> dict[str, Any]:
    """Those of Ray: one of its own on this machine, or one that is there and spans several."""
    ray_init = "ray_kwargs.ray_init"
    if hardware.ray_address:
        # Its processes were not started by us, so what they must know goes with the job.
        ours = {"PYTHONPATH": str(Path(__file__).parents[2])}
        variables = {**environment(hardware, method), **telemetry.OFF, **ours}
        return {
            f"+{ray_init}.address": hardware.ray_address,
            **{
                f"+{ray_init}.runtime_env.env_vars.{name}": value
                for name, value in variables.items()
            },
        }
    result: dict[str, Any] = {
        f"+{ray_init}.include_dashboard": False,
        # Logical ones: verl waits without a word for three to a rank and one to each helper.
        f"{ray_init}.num_cpus": 16 * hardware.ranks,
    }
    if hardware.device == "cpu":
        result[f"+{ray_init}.num_gpus"] = hardware.ranks
    return result


def environment(hardware: Hardware, method: Method | None = None) -> dict[str, str]:
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
    else:
        # vLLM would have nvcc compile it at every start, though none of our requests uses it.
        result["VLLM_USE_FLASHINFER_SAMPLER"] = "0"
        if hardware.dtype == "float32":
            # Else vLLM's attention multiplies with ten bits of mantissa, the trainer with 23.
            result["TRITON_F32_DEFAULT"] = "ieee"
    return result
