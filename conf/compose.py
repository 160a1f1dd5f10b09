"""Hydra's compose as one call: a configuration by module and name, with overrides."""

from threading import Lock

from hydra import compose as hydra_compose
from hydra import initialize_config_module
from omegaconf import DictConfig

# Hydra keeps its search path in a process-wide singleton: one composition at a time.
_ONE_AT_A_TIME = Lock()


def compose(module: str, name: str, overrides: list[str]) -> DictConfig:
    """Compose `name`.yaml of an importable config folder.

    Args:
        module: Dotted name of the folder, such as `verl.trainer.config`.
        name: Primary config, without `.yaml`.
        overrides: Hydra overrides.

    Raises:
        hydra.errors.HydraException: a key or a group does not exist.
    """
    with _ONE_AT_A_TIME, initialize_config_module(module, version_base=None):
        return hydra_compose(name, overrides=overrides)
