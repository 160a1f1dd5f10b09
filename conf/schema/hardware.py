"""What it runs on."""

from typing import Literal

from conf.schema.knobs import Knobs, knob


class Hardware(Knobs):
    """What it runs on. None of it changes what is learned, but for rounding."""

    name: str = knob("cpu", "Name of the overlay, for tables.", "name")
    device: Literal["cpu", "cuda"] = knob("cpu", "Where the trainer's tensors live.", "choice")
    rollout: Literal["torch", "vllm"] = knob("torch", "Engine that samples rollouts.", "choice")
    ranks: int = knob(1, "Trainer processes (GPUs) per node.", "processes", gt=0)
    nodes: int = knob(1, "Machines.", "nodes", gt=0)
    dtype: Literal["float32", "bfloat16"] = knob(
        "float32", "Type of weights in training and rollout.", "type"
    )
    attention: Literal["sdpa", "flash_attention_2", "eager"] = knob(
        "sdpa", "Attention kernel.", "choice"
    )
    tensor_parallel: int = knob(1, "Ranks that share one rollout engine.", "ranks", gt=0)
    memory_share: float = knob(0.6, "Share of GPU memory given to vLLM.", "share", gt=0, le=1)
    kv_cache_gib: int = knob(1, "KV cache of vLLM on a CPU.", "GiB", gt=0)
    micro_batch: int = knob(
        128, "Rollouts per forward pass on a rank, where tokens_per_rank is 0.", "rollouts", gt=0
    )
    micro_tokens: int = knob(
        0,
        "Tokens per forward pass on a rank, where tokens_per_rank is 0: a rollout counts as the "
        "longest prompt and response. 0: micro_batch alone bounds it.",
        "tokens",
        ge=0,
    )
    tokens_per_rank: int = knob(
        0, "Tokens per forward pass (dynamic batches, padding removed); 0: off.", "tokens", ge=0
    )
    gradient_checkpointing: bool = knob(False, "Recompute activations to save memory.", "switch")
    offload: bool = knob(False, "Keep parameters and optimizer on the host between uses.", "switch")
    threads: int = knob(1, "OpenMP threads of each trainer process on a CPU.", "threads", gt=0)
    probability_tolerance: float = knob(
        1e-3,
        "Largest difference of rollout and trainer probabilities; more fails the stage (float32).",
        "probability",
        gt=0,
    )
    kl_tolerance: float = knob(
        1.0,
        "Largest size of a step's KL(engine || trainer), beside what a nucleus makes; more fails "
        "the stage, in any dtype.",
        "nats per token",
        gt=0,
    )
    seeded: bool = knob(
        True,
        "Draw each rollout from a seed of its own, so that a resumed stage draws what it would "
        "have; vLLM on a GPU is slower with it.",
        "switch",
    )
    stop_grace: int = knob(
        12,
        "Time, at most, that a trainer told to stop has to end an update, which nothing breaks "
        "off, and to save its last whole step.",
        "seconds",
        ge=0,
    )
    ray_address: str = knob(
        "", "Ray cluster to join, host:port; none: one of its own on this machine.", "address"
    )
    stall_timeout: int = knob(
        1800, "A stage with no step and no log line for this long is stopped.", "seconds", gt=0
    )
