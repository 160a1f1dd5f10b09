"""Names and values as a tracking store admits them: of metrics, settings and lineage."""

import hashlib
import re
from collections.abc import Mapping
from typing import Any

LONGEST = 6_000
"""Characters of a setting's value."""
LONGEST_NAME = 250
"""Characters of the name of a setting or metric."""


def metric_name(name: str) -> str:
    """A name that every MLflow store admits.

    >>> metric_name("eval/lab (test)/avg@8")
    'eval/lab _test_/avg_at_8'
    """
    admitted = re.sub(r"[^\w\-. /]", "_", name.replace("@", "_at_"))
    # A path must be in its shortest form: no empty part, no "." and no "..".
    short = "/".join(part for part in admitted.split("/") if part.strip(". ")) or "_"
    if len(short) <= LONGEST_NAME:
        return short
    digest = hashlib.sha256(name.encode()).hexdigest()[:12]
    half = (LONGEST_NAME - len(digest)) // 2 - 1
    return f"{short[:half]}_{digest}_{short[-half:]}"  # names differ at their ends


def flat(settings: Any, prefix: str = "") -> dict[str, Any]:
    """Nested settings as one level of dotted names.

    >>> flat({"seed": 0, "stages": [{"name": "short"}]})
    {'seed': 0, 'stages.0.name': 'short'}
    """
    if hasattr(settings, "model_dump"):
        settings = settings.model_dump(mode="json")
    if isinstance(settings, Mapping):
        items = [(str(key), value) for key, value in settings.items()]
    elif isinstance(settings, list | tuple):
        items = [(str(index), value) for index, value in enumerate(settings)]
    else:
        return {prefix: settings}
    flattened: dict[str, Any] = {}
    for key, value in items:
        flattened |= flat(value, f"{prefix}.{key}" if prefix else key)
    return flattened


def lineage_tags(*, config_digest: str = "", git_commit: str = "", **more: str) -> dict[str, str]:
    """Tags that say what a run was made from. Empty ones are left out.

    Args:
        config_digest: Digest of the settings that decide the run's result.
        git_commit: Commit of this code.
        more: Further tags, such as `checkpoint_digest`.
    """
    tags = {"config_digest": config_digest, "git_commit": git_commit}
    named = {f"stagecraft.{key}": str(value) for key, value in (tags | more).items() if value}
    if git_commit:
        named["mlflow.source.git.commit"] = git_commit  # The one MLflow's own pages show.
    return named


def param(value: Any) -> str:
    """Text of a setting, cut with a digest of the whole where it is too long for MLflow."""
    text = str(value)
    if len(text) <= LONGEST:
        return text
    digest = hashlib.sha256(text.encode()).hexdigest()
    return f"{text[: LONGEST - 80]}... sha256:{digest}"
