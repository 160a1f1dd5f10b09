"""Refuse what cannot work before anything is computed: settings first, then the data."""

import os
import shutil
import socket
from collections.abc import Iterable, Mapping
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from conf.load import ConfigError, refusal
from conf.schema import Experiment, Hardware, Source
from tasks import disk, preflight_method, preflight_rows
from tasks.artifacts import Dataset
from tasks.download import paths
from tasks.prepare import comparison_sources
from trainer.checkpoint import has_weights
from trainer.rewards import grade


def check_settings(experiment: Experiment, *, trains: bool = True) -> None:
    """Refuse settings that cannot work anywhere. Takes milliseconds, reads no data and no network.

    Looks at the method, at ranks, at local files, at the output folder and, where it is here, at
    the model: its weights, its positions, and the disk its checkpoints need.

    Args:
        experiment: The settings.
        trains: Whether stages are to be trained: what is finished is read on a full disk, too.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    preflight_method.check(experiment)
    _check_prompt_sets(experiment)
    _check_ranks(experiment)
    check_sources(experiment)
    _check_nucleus(experiment)
    folder = _local_model(experiment.model.path)
    if folder:
        check_model(experiment, folder, trains=trains)


def check_machine(hardware: Hardware, *, trains: bool = True) -> None:
    """Refuse to sample and train where this machine lacks what the settings ask for.

    Looks for vLLM and a GPU, and for what only a trainer uses: the attention kernel, and the
    cluster that is named.

    Args:
        hardware: The settings.
        trains: Whether stages are to be trained, or checkpoints only sampled from.

    Raises:
        ConfigError: for the first thing that is missing.
    """
    if hardware.rollout == "vllm" and find_spec("vllm") is None:
        raise refusal(
            "hardware.rollout: found 'vllm', but vLLM is not installed here",
            "make test-vllm installs it for a CPU, make gpu on a GPU node; or set hardware=cpu",
        )
    if hardware.device == "cuda" and not _has_gpu():
        raise refusal(
            "hardware.device: found 'cuda', but no NVIDIA GPU on this machine (no /dev/nvidia0, "
            "no nvidia-smi)",
            "run it on a GPU node, or set hardware=cpu",
        )
    if not trains:
        return
    kernels = ("flash_attn", "kernels")
    if hardware.attention == "flash_attention_2" and not any(map(find_spec, kernels)):
        raise refusal(
            "hardware.attention: found 'flash_attention_2', but neither of the packages that have "
            f"it is installed here ({', '.join(kernels)})",
            "set hardware.attention=sdpa, or build it on the node: "
            "pip install flash-attn==2.8.3 --no-build-isolation",
        )
    if hardware.ray_address:
        _check_cluster_answers(hardware.ray_address)


def check_sources(experiment: Experiment) -> None:
    """Refuse local files that are not there, and an output folder that cannot be written.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    _as_config_error(comparison_sources, experiment)
    _check_local_files((experiment.data.train, *experiment.gates.against))
    _check_local_files(experiment.evaluation.benchmarks)
    disk.check_output(Path(experiment.output))


def check_scoring(experiment: Experiment) -> None:
    """Refuse settings that no model can be scored with: what of them counts for any other model.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    _check_engines(experiment.hardware)
    _check_local_files(experiment.evaluation.benchmarks)
    disk.check_output(Path(experiment.output))


def check_data(
    experiment: Experiment,
    segments: Mapping[str, Dataset],
    benchmarks: Mapping[str, Dataset],
    model_folder: Path | str,
    *,
    trains: bool = True,
) -> None:
    """Refuse data that the settings or the model cannot work with, before the first step.

    Args:
        experiment: The settings.
        segments: The prompt sets by name.
        benchmarks: The test sets by name.
        model_folder: The starting model, in Hugging Face format.
        trains: Whether stages are to be trained, which takes disk.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    model_folder = Path(model_folder)
    check_model(experiment, model_folder, trains=trains)
    _check_sizes(experiment, segments)
    _check_levels(experiment, segments)
    datasets = (segments[experiment.data.segmentation.whole], *benchmarks.values())
    if preflight_rows.check(experiment, datasets, model_folder):
        check_grader()


def check_model(experiment: Experiment, folder: Path, *, trains: bool = True) -> None:
    """Refuse a model folder without weights or positions enough, or a disk without room to train.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    _check_files(folder)
    _check_positions(experiment, folder)
    if trains:
        disk.check_room(experiment, folder)


def check_scored_model(experiment: Experiment, benchmarks: Iterable[Dataset], folder: Path) -> None:
    """Refuse a model that is only to be evaluated, for want of weights or positions.

    Args:
        experiment: The settings.
        benchmarks: The test sets, whose prompts count: the settings of training don't.
        folder: The model, in Hugging Face format.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    _check_files(folder)
    positions = disk.read_config(folder).get("max_position_embeddings")
    if positions:
        preflight_rows.check_positions(experiment, benchmarks, folder, positions)


def check_grader() -> None:
    """Grade one answer that only the parser can tell to be right.

    Raises:
        ConfigError: when it is graded wrong, as all such answers would be.
    """
    found = grade(r"</think>\boxed{(x+1)^2}", ["x^2+2x+1"])
    if not found.correct:
        raise refusal(
            f"the grader says {str(found.reason)!r} of an answer known to be right",
            "look at the installation of math-verify",
        )


def _as_config_error(function: Any, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except ValueError as error:
        raise ConfigError(str(error)) from error


def _check_local_files(sources: Iterable[Source]) -> None:
    for source in sources:
        if source.kind == "file":
            _as_config_error(paths, source)


def _check_prompt_sets(experiment: Experiment) -> None:
    """Refuse names that the segmentation does not give, and a first stage that drops by rates."""
    labels = experiment.data.segmentation.labels
    for position, stage in enumerate(experiment.stages):
        if labels is not None and stage.prompts not in labels:
            raise _unknown_set(experiment, position, labels)
        if not position and (stage.drop_solved, stage.drop_hopeless) != (None, None):
            raise refusal(
                "stages.0: found drop_solved or drop_hopeless, but no stage before it has recorded "
                "pass rates",
                "set them on a later stage, or data.segmentation.rule=pass_rate for the first",
            )


def _unknown_set(experiment: Experiment, position: int, names: Iterable[str]) -> ConfigError:
    names = list(names)
    return refusal(
        f"stages.{position}.prompts: found {experiment.stages[position].prompts!r}, needed one of "
        f"{', '.join(names)}, the prompt sets of data.segmentation.rule="
        f"{experiment.data.segmentation.rule}",
        f"set stages.{position}.prompts={names[0]}, or another data.segmentation",
    )


def _check_ranks(experiment: Experiment) -> None:
    hardware = experiment.hardware
    ranks = hardware.ranks * hardware.nodes
    _check_engines(hardware)
    _check_cluster(hardware)
    for position, stage in enumerate(experiment.stages):
        rollouts = stage.mini_batch_size * stage.group_size
        if rollouts % ranks:
            raise refusal(
                f"stages.{position}: found {rollouts} rollouts to an update (mini_batch_size x "
                f"group_size), needed a multiple of the {ranks} ranks",
                f"raise stages.{position}.mini_batch_size or lower hardware.ranks",
            )


def _check_engines(hardware: Hardware) -> None:
    ranks = hardware.ranks * hardware.nodes
    if hardware.rollout == "torch" and hardware.tensor_parallel > 1:
        raise refusal(
            f"hardware.tensor_parallel: found {hardware.tensor_parallel} ranks to an engine, "
            "needed 1 with hardware.rollout=torch, which samples on each rank by itself",
            "set hardware.tensor_parallel=1, or hardware.rollout=vllm",
        )
    if ranks % hardware.tensor_parallel:
        raise refusal(
            f"hardware.tensor_parallel: found {hardware.tensor_parallel} ranks to an engine, "
            f"needed a divisor of the {ranks} ranks",
            "set hardware.tensor_parallel=1",
        )


def _check_cluster(hardware: Hardware) -> None:
    """Several machines need a Ray cluster that spans them, named by host and port."""
    address = hardware.ray_address
    if not address:
        if hardware.nodes > 1:
            raise refusal(
                f"hardware.nodes: found {hardware.nodes} machines, needed hardware.ray_address: "
                "Stagecraft starts Ray on this machine only",
                "`ray start --head` on one and `ray start --address=...` on the others, then "
                "hardware.ray_address=host:port",
            )
        return
    host, _, port = address.rpartition(":")
    if not host or not port.isdecimal():
        raise refusal(
            f"hardware.ray_address: found {address!r}, needed host:port",
            "take what `ray start --head` printed",
        )


def _check_cluster_answers(address: str) -> None:
    host, _, port = address.rpartition(":")
    try:
        socket.create_connection((host, int(port)), timeout=5).close()
    except OSError as error:
        raise refusal(
            f"hardware.ray_address: nothing answers at {address} ({error})",
            "is `ray start --head` running there, and its port open to this machine?",
        ) from error


def _check_nucleus(experiment: Experiment) -> None:
    hardware = experiment.hardware
    if hardware.rollout != "vllm":
        return
    for position, stage in enumerate(experiment.stages):
        if stage.top_p < 1 and hardware.dtype == "float32":
            raise refusal(
                f"stages.{position}.top_p: found {stage.top_p:g}, needed 1 with "
                "hardware.rollout=vllm and hardware.dtype=float32: vLLM's probabilities are those "
                "within the nucleus, the trainer's those of all tokens, so they would differ by "
                f"more than hardware.probability_tolerance={hardware.probability_tolerance:g}",
                f"set stages.{position}.top_p=1, or hardware.rollout=torch",
            )


def _has_gpu() -> bool:
    # Asked of the system: importing torch would take seconds.
    return any(Path("/dev").glob("nvidia[0-9]*")) or shutil.which("nvidia-smi") is not None


def _local_model(path: str) -> Path | None:
    """The model's folder where it is on this machine; None for a name to look up on the Hub."""
    if path == "lab":
        from trainer.lab import BASE

        return BASE
    folder = Path(os.path.expanduser(path))
    if folder.is_dir():
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise refusal(
            f"model.path: found no folder {path!r}, needed 'lab', a local folder or a Hub name",
            f"a Hub name is owner/name; a relative path starts from {Path.cwd()}",
        )
    return None


def _check_files(folder: Path) -> None:
    if not (folder / "config.json").is_file():
        raise refusal(
            f"model.path: found no config.json in {folder}, needed a Hugging Face checkpoint",
            "set model.path to the folder that holds config.json and *.safetensors",
        )
    if not has_weights(folder):
        raise refusal(
            f"model.path: found no weights in {folder}, needed *.safetensors or "
            "pytorch_model*.bin, all shards of them",
            "a trainer's folder may hold tokenizer and config only; export the weights there",
        )


def _check_positions(experiment: Experiment, folder: Path) -> None:
    positions = disk.read_config(folder).get("max_position_embeddings")
    if not positions:
        return
    prompt = experiment.data.max_prompt_length
    wanted = {
        f"stages.{position}.context_length": stage.context_length
        for position, stage in enumerate(experiment.stages)
    } | {"evaluation.context_length": experiment.evaluation.context_length}
    for key, context in wanted.items():
        if prompt + context > positions:
            raise refusal(
                f"{key}: found {context} tokens, with data.max_prompt_length {prompt} that is "
                f"{prompt + context}, needed at most the model's {positions} positions",
                f"set {key}={positions - prompt}"
                if positions > prompt
                else f"set data.max_prompt_length below {positions}",
            )


def _check_sizes(experiment: Experiment, segments: Mapping[str, Dataset]) -> None:
    for position, stage in enumerate(experiment.stages):
        if stage.prompts not in segments:
            raise _unknown_set(experiment, position, segments)
        rows = segments[stage.prompts].rows
        if not rows:
            raise refusal(
                f"stages.{position}.prompts: found no prompt in {stage.prompts}, needed at least "
                f"the {stage.batch_size} of a batch",
                "set data.segmentation or gates otherwise, or another prompt set",
            )
        if rows < stage.batch_size:
            raise refusal(
                f"stages.{position}.batch_size: found {stage.batch_size} prompts to a step, but "
                f"{stage.prompts} holds {rows}",
                f"set stages.{position}.batch_size to {rows} at most, or get more problems",
            )


def _check_levels(experiment: Experiment, segments: Mapping[str, Dataset]) -> None:
    if experiment.selection.name != "e2h":
        return
    for position, stage in enumerate(experiment.stages):
        rows = segments[stage.prompts]
        without = rows.table()["level"].null_count
        if without:
            raise refusal(
                f"stages.{position}.prompts: {without} of the {rows.rows} prompts of "
                f"{stage.prompts} have no level, and selection=e2h goes by levels",
                "choose another selection, or a prompt set with levels",
            )
