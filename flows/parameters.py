"""A flow's parameters: the settings that they stand for, and the stage that they name."""

from collections.abc import Sequence

from conf.load import load, refusal
from conf.overrides import written
from conf.schema import Experiment
from tasks import preflight, preflight_machine, preflight_method


def lines(experiment: str, overrides: Sequence[str] | None, output: str | None) -> list[str]:
    """A flow's parameters as settings of a command line."""
    folder = [f"output={written(output)}"] if output else []
    return [f"experiment={experiment}", *folder, *(overrides or [])]


def settings_of(
    experiment: str,
    overrides: Sequence[str] | None = None,
    output: str | None = None,
    *,
    trains: bool = True,
    samples: bool = True,
) -> Experiment:
    """The settings of an experiment, checked without reading data.

    Args:
        experiment: Name of a file under conf/experiment.
        overrides: Settings that differ from it.
        output: Folder that everything is written under; none: the experiment's own.
        trains: Whether stages may be trained, which not every machine can, or has the disk for.
        samples: Whether something may be sampled, which not every machine can.

    Raises:
        ConfigError: an unknown experiment or setting, or one that cannot work, here or anywhere.
    """
    settings = load(*lines(experiment, overrides, output))
    preflight.check_settings(settings, trains=trains)
    if trains or samples:
        preflight_machine.check_machine(settings.hardware, trains=trains)
    return settings


def data_settings_of(
    experiment: str, overrides: Sequence[str] | None = None, output: str | None = None
) -> Experiment:
    """The settings of an experiment of which nothing is trained: only those of data are checked.

    Raises:
        ConfigError: an unknown experiment or setting, or a file that is not there.
    """
    settings = load(*lines(experiment, overrides, output))
    preflight.check_sources(settings)
    return settings


def tell_doubts(settings: Experiment) -> None:
    """Say in the run's log what will train, but perhaps not as meant."""
    for doubt in preflight_method.warnings(settings):
        print(f"warning: {doubt}")


def position_of(settings: Experiment, stage: int | str, *, base: bool = True) -> int:
    """Index of a stage that is named by its number, from 1, or by its name. 0 or base: -1.

    Args:
        settings: The experiment.
        stage: Number or name.
        base: Whether the starting model will do, which no stage trains.

    Raises:
        ConfigError: there is no such stage.
    """
    named = {one.name: position for position, one in enumerate(settings.stages)}
    if base:
        named = {"base": -1, **named}
    numbered = {str(position + 1): position for position in named.values()}
    if str(stage) in numbered | named:
        return (numbered | named)[str(stage)]
    listed = ", ".join(f"{position + 1} ({name})" for name, position in named.items())
    raise refusal(f"stage: found {stage!r}, needed one of {listed}", "give its number or its name")
