"""Hydra's composition, done once for the same files: it takes a tenth of a second, and tests ask
for a few thousand. What is set beside the files is set as Hydra sets it.
"""

from copy import deepcopy
from functools import cache

from hydra.core.override_parser.overrides_parser import OverridesParser
from omegaconf import DictConfig, OmegaConf

from conf.compose import compose

SET = "++"  # how `conf.load` hands on what is none of a file's name


@cache
def _of_files(module: str, name: str, chosen: tuple[str, ...]) -> DictConfig:
    return compose(module, name, list(chosen))


def composed(module: str, name: str, lines: list[str]) -> DictConfig:
    """As `conf.compose.compose`, of files that do not change meanwhile."""
    chosen = tuple(line for line in lines if not line.startswith(SET))
    config = deepcopy(_of_files(module, name, chosen))
    try:
        for line in lines:
            if line.startswith(SET):
                override = OverridesParser.create().parse_override(line)
                key, value = override.key_or_group, override.value()
                OmegaConf.update(config, key, value, merge=True, force_add=True)
    except Exception:  # Hydra words it otherwise
        return compose(module, name, lines)
    return config
