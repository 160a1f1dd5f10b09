"""Problems of a benchmark that the training set holds too, as the gates of the data found them."""

from collections.abc import Collection

import numpy as np

from tasks.artifacts import Dataset, read_json
from tasks.prepare import FINDINGS
from tasks.results import Responses
from trainer import metrics


def seen(train: Dataset) -> dict[str, set[str]]:
    """Ids of seen problems, by benchmark.

    Args:
        train: The training set that the gates left: what they dropped from it is not seen.

    Returns:
        Nothing for a benchmark without any, or that no gate compared.
    """
    path = train.folder / FINDINGS
    if not path.is_file():
        return {}
    left = set(train.table().column("id").to_pylist())
    found: dict[str, set[str]] = {}
    for finding in read_json(path):
        for match in finding.get("matches", []):
            if match["id"] in left and match.get("benchmark"):
                found.setdefault(match["benchmark"], set()).add(match["problem"])
    return found


def clean_score(responses: Responses, ids: Collection[str]) -> float | None:
    """avg@k on the problems that training did not see; None where it saw none, or all."""
    clean = ~np.isin(responses.ids, list(ids))
    if clean.all() or not clean.any():
        return None
    return metrics.avg_at_k(responses.correct[clean])
