"""Refuse a model that cannot be trained or scored: its files, its positions, its room on disk."""

from collections.abc import Iterable
from pathlib import Path

from conf.load import refusal
from conf.schema import Experiment, Hardware
from tasks import disk, preflight_rows
from tasks.artifacts import Dataset
from tasks.model import folder_of
from trainer.checkpoint import has_weights


def check_model(experiment: Experiment, folder: Path, *, trains: bool = True) -> None:
    """Refuse a model folder without weights or positions enough, or a disk without room to train.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    _check_files(folder, "model.path")
    _check_heads(experiment.hardware, folder)
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
    _check_files(folder, "checkpoint")
    _check_heads(experiment.hardware, folder)
    positions = disk.read_config(folder).get("max_position_embeddings")
    if positions:
        preflight_rows.check_positions(experiment, benchmarks, folder, positions)


def local_model(path: str, knob: str = "model.path") -> Path | None:
    """The folder of a model that is on this machine; None for a name to look up on the Hub.

    Raises:
        ConfigError: the knob names neither.
    """
    if path == "lab":
        from trainer.lab import BASE

        return BASE
    folder = folder_of(path)
    if folder.is_dir():
        return folder
    if path.startswith((".", "/", "~")) or path.count("/") != 1:
        raise refusal(
            f"{knob}: found no folder {path!r}, needed 'lab', a local folder or a Hub name",
            f"a Hub name is owner/name; a relative path starts from {Path.cwd()}",
        )
    return None


def _check_files(folder: Path, knob: str) -> None:
    if not (folder / "config.json").is_file():
        raise refusal(
            f"{knob}: found no config.json in {folder}, needed a Hugging Face checkpoint",
            f"set {knob} to the folder that holds config.json and *.safetensors",
        )
    if not has_weights(folder):
        raise refusal(
            f"{knob}: found no weights in {folder}, needed *.safetensors or "
            "pytorch_model*.bin, all shards of them",
            "a trainer's folder may hold tokenizer and config only; export the weights there",
        )


def _check_heads(hardware: Hardware, folder: Path) -> None:
    """vLLM deals a model's heads out among the ranks that share it, and stops if it comes out odd.

    Heads of keys, of which there may be fewer than ranks, are dealt out or copied.
    """
    config = disk.read_config(folder)
    heads = config.get("num_attention_heads")
    keys = config.get("num_key_value_heads") or heads
    if not heads:
        return

    def even(ranks: int) -> bool:
        return heads % ranks == 0 and max(keys, ranks) % min(keys, ranks) == 0

    ranks = hardware.tensor_parallel
    if not even(ranks):
        fits = max(fewer for fewer in range(1, ranks) if even(fewer) and ranks % fewer == 0)
        raise refusal(
            f"hardware.tensor_parallel: found {ranks} ranks per engine, needed ones that share the "
            f"model's {heads} attention heads and {keys} of keys evenly",
            f"set hardware.tensor_parallel={fits}",
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
                f"{key}: found {context} tokens, {prompt + context} with "
                f"data.max_prompt_length={prompt}, needed at most the {positions} positions "
                "of the model",
                f"set {key}={positions - prompt}"
                if positions > prompt
                else f"set data.max_prompt_length below {positions}",
            )
