"""The work of one training step, the same for every system that is measured, and who does it.

A system is a command that trains in a process of its own and writes a line for each step that it
has finished. Numbers of prompts, rollouts and tokens are equal by construction: no response may
end before its longest length.
"""

import json
import os
from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from conf import telemetry
from conf.load import load
from conf.schema import Experiment
from tasks.download import download
from trainer.backend import settings as ours
from trainer.backend.prompts import write_prompts
from trainer.backend.surroundings import environment as our_environment

TRL = "trl==1.16.0"
# Seen by TRL's process alone: verl imports what it takes for an older TRL wherever it finds one.
TRL_FOLDER = Path(os.environ.get("STAGECRAFT_TRL", ".trl")).absolute()
SYSTEMS = ("ours", "stock", "plain", "trl")
TOLD = {
    "ours": "this project on verl 0.9.1",
    "stock": "verl 0.9.1 as it is: its trainer, replay buffer, agent loop, reward loop and entry",
    "plain": "a loop of PyTorch around our sampler",
    "trl": "TRL's GRPOTrainer, sampling with transformers",
}


@dataclass(frozen=True)
class Work:
    """What is done at each step.

    Attributes:
        model: Folder of the model.
        prompts: Prompts of a step.
        rollouts: Rollouts of each prompt.
        response: Tokens of each rollout.
        steps: Steps of a launch. The first warms up, the last saves: neither is counted.
        hardware: Overlay under conf/hardware.
        overrides: More settings of the experiment.
        micro_batch: Rollouts of a forward pass.
        instant: Rollouts are made up in no time, so that what is left is the work around them.
        plugin: Module that each process of ours loads in place of our plugin; it loads that itself.
    """

    model: str
    prompts: int = 32
    rollouts: int = 8
    response: int = 32
    steps: int = 5
    hardware: str = "cpu"
    overrides: tuple[str, ...] = ()
    micro_batch: int = 256
    instant: bool = False
    plugin: str = ""

    @property
    def size(self) -> str:
        """What a step has, in words."""
        return f"{self.prompts} prompts × {self.rollouts} rollouts × {self.response} tokens"

    @property
    def facts(self) -> dict[str, Any]:
        """All of it, the model by its name."""
        return {**asdict(self), "model": Path(self.model).name}

    @property
    def tokens(self) -> int:
        """Tokens sampled in a step."""
        return self.prompts * self.rollouts * self.response


@dataclass(frozen=True)
class Launch:
    """How a system is started, and what it leaves.

    Attributes:
        module: What `python -m` runs.
        arguments: Its command line.
        environment: Added to the environment.
        records: File that gets a line for each finished step.
        parts: Gives the seconds of a step by part, of a line of that file.
    """

    module: str
    arguments: list[str]
    environment: dict[str, str]
    records: Path
    parts: Callable[[dict], dict[str, float]]


def experiment_of(work: Work) -> Experiment:
    """The work as an experiment of one stage."""
    stage = {
        "context_length": work.response,
        "steps": work.steps,
        "batch_size": work.prompts,
        "mini_batch_size": work.prompts,
        "group_size": work.rollouts,
        "learning_rate": 3e-5,
        "temperature": 1.0,
        "save_every": work.steps,
    }
    return load(
        "experiment=lab/smoke",
        f"hardware={work.hardware}",
        f"hardware.micro_batch={work.micro_batch}",
        f"data.train.rows={work.prompts * (work.steps + 1)}",
        "reward=correctness",
        *work.overrides,
        *(f"stages.0.{name}={value}" for name, value in stage.items()),
    )


def launch_of(system: str, work: Work, folder: Path) -> Launch:
    """Write what a system needs into `folder`, and say how it is started."""
    folder.mkdir(parents=True)
    experiment = experiment_of(work)
    data = download(experiment.data.train, experiment.data, folder)
    prompts = folder / "prompts.parquet"
    write_prompts(data.table(), prompts)
    values = ours.settings(
        experiment, 0, start=Path(work.model), prompts=prompts, folder=folder
    ) | {"actor_rollout_ref.rollout.ignore_eos": True}
    environment = our_environment(experiment.hardware, experiment.method) | telemetry.OFF
    if work.instant:
        values["+trainer.stagecraft.probability_tolerance"] = 1.0
        values["+trainer.stagecraft.kl_tolerance"] = 1e3
        environment["VERL_USE_EXTERNAL_MODULES"] = "benchmarks.step_instant"
    if work.plugin:
        environment["VERL_USE_EXTERNAL_MODULES"] = work.plugin
    if system == "ours":
        (folder / "settings.json").write_text(json.dumps({"verl": values}))
        return Launch(
            "trainer.backend.main", [str(folder)], environment, folder / "metrics.jsonl", _our_parts
        )
    if system == "stock":
        values = stock_settings(values, folder)
        return Launch(
            "verl.trainer.main_ppo",
            ours.overrides(values),
            stock_environment(environment, folder, work),
            folder / "steps.jsonl",
            _stock_parts,
        )
    told = {**asdict(work), "file": str(prompts), "records": str(folder / "steps.jsonl")}
    (folder / "work.json").write_text(json.dumps(told))
    plain = ("HF_", "TOKENIZERS_", "OMP_", "KMP_")
    environment = {k: v for k, v in environment.items() if k.startswith(plain)} | telemetry.OFF
    if system == "trl":
        environment["PYTHONPATH"] = str(TRL_FOLDER)
    return Launch(
        f"benchmarks.step_{system}",
        [str(folder)],
        environment,
        folder / "steps.jsonl",
        lambda record: record["parts"],
    )


def stock_settings(values: dict[str, Any], folder: Path) -> dict[str, Any]:
    """Our settings of verl less what makes verl call code of ours, the reward function apart."""
    mine = (
        "+trainer.stagecraft.",
        "+algorithm.stagecraft.",
        "+actor_rollout_ref.rollout.agent.",
        "+actor_rollout_ref.rollout.engine_kwargs.",
        "actor_rollout_ref.rollout.router_config_path",
        "trainer.v1.sampler.",
        "+trainer.v1.sampler.",
        "reward.reward_manager.",
        "reward.custom_reward_function.",
        "+reward.custom_reward_function.",
    )
    kept = {name: value for name, value in values.items() if not name.startswith(mine)}
    return kept | {
        "algorithm.adv_estimator": "grpo",
        "trainer.v1.trainer_mode": "sync",
        "trainer.logger": ["file"],
        "reward.num_workers": max(1, values["reward.num_workers"]),
        "reward.custom_reward_function.path": str(Path(__file__).with_name("step_reward.py")),
        "reward.custom_reward_function.name": "compute_score",
        "hydra.run.dir": str(folder),
    }


def stock_environment(environment: dict[str, str], folder: Path, work: Work) -> dict[str, str]:
    """Environment of stock verl, which calls home no more than ours does."""
    kept = {k: v for k, v in environment.items() if not k.startswith(("VERL_", "RAY_"))}
    kept |= {**telemetry.OFF, "VERL_FILE_LOGGER_PATH": str(folder / "steps.jsonl")}
    if work.hardware == "cpu":
        plugin = "benchmarks.step_instant" if work.instant else "benchmarks.step_stock"
        return kept | {"VERL_PLATFORM": "cpu", "VERL_USE_EXTERNAL_MODULES": plugin}
    return kept | {"VERL_USE_EXTERNAL_MODULES": "benchmarks.step_stock_gpu"}


def missing(system: str) -> str:
    """Why a system cannot be measured here, in a sentence; "" if it can."""
    if system == "trl" and not (TRL_FOLDER / "trl").is_dir():
        return (
            f"TRL is not in {TRL_FOLDER}: it is left out\n\n"
            f"hint: python -m pip install --no-deps --target {TRL_FOLDER} {TRL}"
        )
    return ""


def _our_parts(record: dict) -> dict[str, float]:
    parts = {k.partition("/")[2]: v for k, v in record.items() if k.startswith("seconds/")}
    return parts | {"memory_gib": record.get("memory_gib", 0.0)}


def _stock_parts(record: dict) -> dict[str, float]:
    from trainer.backend.metrics import translated

    return _our_parts(translated(record["data"]))
