"""Every knob of an experiment, with its type, its default, its unit and what it does.

The YAML files under conf/ only fill these models in, and code outside conf/ only sees them
filled. Unknown keys and wrong values are refused.

Lengths are in tokens, durations in seconds, sizes in prompts or rollouts as the unit says.
"""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, model_validator

Characters = Annotated[int, Field(gt=0)]
SEEDS = {"ge": 0, "le": 2**31 - 1}  # what torch, numpy and vLLM all take


def knob(default: Any, what: str, unit: str = "", **bounds: Any) -> Any:
    """A field with its default, one line on what it does, its unit, and the values it admits."""
    kind = {"default_factory": default} if callable(default) else {"default": default}
    return Field(**kind, description=what, json_schema_extra={"unit": unit}, **bounds)


# Names become folders, run names and metric names.
NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"


class Knobs(BaseModel):
    """A group of knobs: refuses unknown keys, and does not change once made."""

    model_config = ConfigDict(
        extra="forbid", frozen=True, protected_namespaces=(), allow_inf_nan=False
    )


class Source(Knobs):
    """Where a set of problems comes from."""

    name: str = knob(
        "train", "Name of the set, used in folders, tables and metric names.", "name", pattern=NAME
    )
    kind: Literal["lab", "hub", "file"] = knob(
        "lab", "lab: made by seeded code; hub: a Hugging Face dataset; file: local files.", "choice"
    )
    path: str | list[str] = knob(
        "", "hub: dataset name; file: one or several parquet, json or jsonl files.", "path"
    )
    files: list[str] = knob(
        list, "hub: files of the repository to read; none: those its card names.", "paths"
    )
    revision: str = knob("main", "hub: commit, tag or branch to read.", "git revision")
    split: str = knob(
        "train", "hub: split to read; lab: `train` or `test`, never overlapping.", "name"
    )
    rows: int = knob(2048, "lab: problems to make.", "problems", gt=0)
    seed: int = knob(0, "lab: seed of the problems.", "seed", **SEEDS)


class Segmentation(Knobs):
    """How the training set is divided into prompt sets L1 (short), L2 (all) and L3 (long)."""

    length_of: Literal["raw_question", "repr_chat"] = knob(
        "raw_question",
        "What is measured: the question without the instruction, or str() of the chat list.",
        "choice",
    )
    threshold: Characters | Literal["mean"] = knob(
        "mean", "Longest prompt of L1; mean: the rounded mean length of the set.", "characters"
    )


class Data(Knobs):
    """The training problems and their division into prompt sets."""

    train: Source = knob(Source, "The training set.", "source")
    instruction: str = knob(
        "Let's think step by step and output the final answer within \\boxed{}.",
        "Instruction that ends each prompt; it is taken off where lengths are of the raw question.",
        "text",
    )
    segmentation: Segmentation = knob(Segmentation, "Division into L1, L2 and L3.", "rule")
    unanswerable: Literal["refuse", "keep"] = knob(
        "refuse",
        "Problems without an answer to grade by: refuse to start, or keep them, never right.",
        "choice",
    )
    max_prompt_length: int = knob(
        1024, "Longest prompt admitted, chat template included.", "tokens", gt=0
    )


class Model(Knobs):
    """The model that training starts from."""

    path: str = knob(
        "lab",
        "lab: the base model shipped with Stagecraft; else a local folder or a Hub name.",
        "path",
    )
    revision: str = knob("main", "Hub commit, tag or branch.", "git revision")


class Stage(Knobs):
    """One stretch of training at one context length on one prompt set.

    Starts from the checkpoint of the stage before, with a fresh optimizer and data cursor.
    """

    name: str = knob("stage", "Name of the stage, unique in the curriculum.", "name", pattern=NAME)
    prompts: Literal["L1", "L2", "L3"] = knob("L2", "Prompt set to train on.", "segment")
    context_length: int = knob(8192, "Longest response.", "tokens", gt=0)
    steps: int = knob(100, "Training steps (batches of prompt groups).", "steps", gt=0)
    batch_size: int = knob(128, "Prompts per step.", "prompts", gt=0)
    mini_batch_size: int = knob(64, "Prompts per optimizer update.", "prompts", gt=0)
    group_size: int = knob(8, "Rollouts per prompt.", "rollouts", gt=0)
    learning_rate: float = knob(1e-6, "AdamW learning rate, constant.", "1", gt=0)
    temperature: float = knob(0.6, "Sampling temperature of rollouts.", "1", gt=0)
    top_p: float = knob(1.0, "Nucleus of rollouts.", "probability", gt=0, le=1)
    kl_coefficient: float = knob(
        0.0, "Weight of KL(policy, stage start) in the loss; 0 keeps no reference.", "1", ge=0
    )
    entropy_coefficient: float = knob(0.0, "Weight of the entropy bonus in the loss.", "1", ge=0)
    save_every: int = knob(
        20, "Steps between checkpoints that an interrupted stage resumes from.", "steps", gt=0
    )

    @model_validator(mode="after")
    def _sizes_fit(self) -> "Stage":
        if self.mini_batch_size > self.batch_size:
            raise ValueError(
                f"mini_batch_size is {self.mini_batch_size} prompts, more than the "
                f"{self.batch_size} of batch_size\n\n"
                "hint: lower mini_batch_size or raise batch_size"
            )
        if self.batch_size % self.mini_batch_size:
            raise ValueError(
                f"batch_size {self.batch_size} is no multiple of mini_batch_size "
                f"{self.mini_batch_size}\n\nhint: every update must see as many prompts"
            )
        return self


class Method(Knobs):
    """What a rollout is worth beside the others of its group, and how it moves the policy."""

    name: str = knob("grpo", "Name of the method, for tables.", "name")
    advantage: Literal["grpo", "rloo"] = knob(
        "grpo",
        "Advantage estimator: grpo divides by the group's deviation, rloo leaves one out.",
        "choice",
    )
    clip_low: float = knob(0.2, "Ratio clip below 1.", "1", gt=0, lt=1)
    clip_high: float = knob(0.2, "Ratio clip above 1.", "1", gt=0)
    loss_average: Literal["token-mean", "seq-mean-token-mean", "seq-mean-token-sum"] = knob(
        "token-mean", "How token losses are averaged over a mini-batch.", "choice"
    )
    weight_decay: float = knob(0.01, "AdamW weight decay.", "1", ge=0)
    gradient_clip: float = knob(1.0, "Largest gradient norm.", "1", gt=0)


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
    stall_timeout: int = knob(
        1800, "A stage without a step or a log line for so long is stopped.", "seconds", gt=0
    )


class Evaluation(Knobs):
    """How a checkpoint is scored."""

    benchmarks: list[Source] = knob(
        lambda: [Source(name="lab", split="test", rows=200)], "Test sets.", "sources", min_length=1
    )
    samples: int = knob(16, "Responses per problem: the k of avg@k.", "samples", gt=0)
    temperature: float = knob(0.6, "Sampling temperature.", "1", gt=0)
    top_p: float = knob(1.0, "Nucleus.", "probability", gt=0, le=1)
    context_length: int = knob(32768, "Longest response, whatever the stage's.", "tokens", gt=0)
    seed: int = knob(0, "Seed of sampling.", "seed", **SEEDS)
    batch_size: int = knob(
        256, "Responses sampled together by the torch engine.", "responses", gt=0
    )


class Experiment(Knobs):
    """Everything needed to run, and to run again."""

    name: str = knob("experiment", "Name of the experiment.", "name", pattern=NAME)
    seed: int = knob(0, "Seed of data order and sampling in training.", "seed", **SEEDS)
    output: str = knob("outputs", "Folder that everything is written under.", "path", min_length=1)
    data: Data = knob(Data, "Training problems.", "group")
    model: Model = knob(Model, "Starting model.", "group")
    method: Method = knob(Method, "Advantage and loss.", "group")
    stages: list[Stage] = knob(
        lambda: [Stage()], "The curriculum, in order.", "stages", min_length=1
    )
    hardware: Hardware = knob(Hardware, "Machine.", "group")
    evaluation: Evaluation = knob(Evaluation, "Scoring.", "group")

    @model_validator(mode="after")
    def _names_are_unique(self) -> "Experiment":
        for what, names in (
            ("stages", [stage.name for stage in self.stages]),
            ("evaluation.benchmarks", [source.name for source in self.evaluation.benchmarks]),
        ):
            twice = sorted({name for name in names if names.count(name) > 1})
            if twice:
                raise ValueError(
                    f"{what} has {twice[0]!r} twice\n\nhint: give each a name of its own"
                )
        return self

    def seed_of(self, stage: Stage) -> int:
        """Seed of a stage's data order and sampling.

        Differs from stage to stage: two on the same prompt set do not draw the same prompts first.
        """
        return self.seed + 1_000_003 * self.stages.index(stage)
