"""How often a model solves each training problem: k rollouts through the evaluator.

All that is asked of `tasks.evaluate` is here: `evaluate` and `find`, and of what they leave the
columns `id` and `correct` of responses.parquet.
"""

from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from conf.schema import Experiment, Model
from tasks import evaluate as evaluation
from tasks.artifacts import Dataset, digest_of, file_digest
from tasks.model import Checkpoint, local_folder, starting_model
from tasks.track import Tracker

RESPONSES = "responses.parquet"
LABEL = "pass rates"
BEFORE = -1  # position of what comes before the first stage
Rates = tuple[str, dict[str, float], dict[str, Any]]


def measure(experiment: Experiment, problems: Dataset, tracker: Tracker, parent_run: str) -> Rates:
    """The pass rates of `data.segmentation.model` on a set, sampled or found.

    Returns:
        Digest of the responses; pass rate by id; facts for a manifest.

    Raises:
        EvaluationFailedError: the sampling process failed.
        ValueError: the model is neither here nor on the Hub.
    """
    model = starting_model(_model(experiment))
    manifest = evaluation.evaluate(
        _settings(experiment), problems, model, LABEL, BEFORE, tracker, parent_run
    )
    return _rates(Path(manifest["folder"]), experiment, model)


def there(experiment: Experiment, problems: Dataset) -> Rates | None:
    """What `measure` would find on disk, None if it would have to sample."""
    model = Checkpoint.of(local_folder(_model(experiment), offline=True))
    found = evaluation.find(_settings(experiment), problems, model, LABEL, BEFORE)
    return _rates(Path(found["folder"]), experiment, model) if found else None


def by_id(responses: Path) -> dict[str, float]:
    """Mean correctness of each problem's responses in a responses.parquet.

    Raises:
        ValueError: problems differ in how many responses they have.
    """
    table = pq.read_table(responses, columns=["id", "correct"])
    grouped = table.group_by("id").aggregate([("correct", "mean"), ("correct", "count")])
    counts = set(grouped["correct_count"].to_pylist())
    if len(counts) > 1:
        raise ValueError(
            f"{responses} holds {min(counts)} to {max(counts)} responses to a problem, needed as "
            "many of each\n\nhint: move its folder away; it is sampled anew"
        )
    return dict(zip(grouped["id"].to_pylist(), grouped["correct_mean"].to_pylist(), strict=True))


def _rates(folder: Path, experiment: Experiment, model: Checkpoint) -> Rates:
    rule, responses = experiment.data.segmentation, folder / RESPONSES
    facts = {
        "model": rule.model or experiment.model.path,
        "model_digest": model.digest,
        "samples": rule.samples,
        "temperature": rule.temperature,
        "context_length": rule.context_length,
        "evaluation": folder.name,
    }
    return digest_of(file_digest(responses)), by_id(responses), facts


def _model(experiment: Experiment) -> Model:
    rule = experiment.data.segmentation
    if not rule.model:
        return experiment.model
    return Model(path=rule.model, revision=rule.model_revision)


def _settings(experiment: Experiment) -> Experiment:
    """The experiment with the segmentation's sampling, and the reward's idea of an answer."""
    rule, reward = experiment.data.segmentation, experiment.reward
    sampling = {
        key: getattr(rule, key) for key in ("samples", "temperature", "top_p", "context_length")
    }
    form = {"think": reward.think, "boxed": reward.boxed}
    return experiment.model_copy(
        update={"evaluation": experiment.evaluation.model_copy(update=sampling | form)}
    )
