"""Refuse what cannot work before anything is computed: settings first, then the data."""

from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from conf.load import ConfigError, refusal
from conf.schema import Experiment, Source
from tasks import disk, preflight_method, preflight_rows
from tasks.artifacts import Dataset
from tasks.download import paths
from tasks.preflight_machine import check_engines, check_ranks
from tasks.preflight_model import check_model, local_model
from tasks.prepare import comparison_sources
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
    check_ranks(experiment)
    check_sources(experiment)
    _check_nucleus(experiment)
    folder = local_model(experiment.model.path)
    if folder:
        check_model(experiment, folder, trains=trains)


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
    check_engines(experiment.hardware)
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


def check_grader() -> None:
    """Grade one answer that only the parser can tell to be right.

    Raises:
        ConfigError: when it is graded wrong, as all such answers would be.
    """
    found = grade(r"</think>\boxed{(x+1)^2}", ["x^2+2x+1"])
    if not found.correct:
        raise refusal(
            f"the grader returned {str(found.reason)!r} for an answer known to be right",
            "reinstall math-verify, or run make clean and make test",
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


def _check_sizes(experiment: Experiment, segments: Mapping[str, Dataset]) -> None:
    for position, stage in enumerate(experiment.stages):
        if stage.prompts not in segments:
            raise _unknown_set(experiment, position, segments)
        rows = segments[stage.prompts].rows
        if not rows:
            raise refusal(
                f"stages.{position}.prompts: found no prompt in {stage.prompts}, needed at least "
                f"the {stage.batch_size} of a batch",
                "change data.segmentation or gates, or choose another prompt set",
            )
        if rows < stage.batch_size:
            raise refusal(
                f"stages.{position}.batch_size: found {stage.batch_size} prompts per step, but "
                f"{stage.prompts} holds only {rows}",
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
