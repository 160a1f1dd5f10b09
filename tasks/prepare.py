"""From a downloaded training set to its prompt sets: gates first, then segmentation.

The one place that knows in which order this goes, for those who do it and for those who look what
is on disk already.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from conf.schema import Experiment
from tasks import gates as gating
from tasks.artifacts import MANIFEST, Dataset, digest_of
from tasks.download import downloaded
from tasks.model import local_folder
from tasks.prompt_lengths import counter, question_tokens, tokenizer_digest, tokenizer_of
from tasks.segment import Measured, segmented

FINDINGS = "findings.json"


@dataclass(frozen=True)
class Prepared:
    """A training set on its way through the gates.

    Attributes:
        train: As downloaded.
        kept: What the gates left; its folder holds `findings.json`.
        segments: The prompt sets by name.
    """

    train: Dataset
    kept: Dataset
    segments: dict[str, Dataset]


def gated(
    experiment: Experiment,
    train: Dataset,
    benchmarks: Mapping[str, Dataset],
    model_folder: Path,
    output: Path | str,
) -> Dataset:
    """What the gates leave of a training set, with their findings beside it.

    What is on disk already is returned as it is.

    Args:
        experiment: For gates and the longest prompt.
        train: The training set.
        benchmarks: The evaluation sets that it is compared with.
        model_folder: The model whose tokenizer and chat template count.
        output: The experiment's output folder.

    Raises:
        ValueError: no row is left, or a gate with the action `fail` found something.
    """
    folder = _gated_folder(experiment, train, benchmarks, model_folder, output)
    if (folder / MANIFEST).is_file():
        return Dataset.load(folder)
    table, gates = train.table(), experiment.gates
    tokens = counter(tokenizer_of(model_folder), experiment.data.max_prompt_length)
    others = {name: dataset.table() for name, dataset in benchmarks.items()}
    findings = gating.inspect(table, gates, others, tokens, experiment.data.max_prompt_length)
    ids = table["id"].to_pylist()
    verdict = gating.judge(table.num_rows, findings, gates, ids)
    told = gating.told(findings, verdict, gates, ids)
    return Dataset.write(
        folder,
        train.name,
        table.filter(pa.array(verdict.keep)),
        beside={FINDINGS: told},
        source=train.manifest["source"],
        gates={one["gate"]: {k: one[k] for k in ("action", "found", "dropped")} for one in told},
        before=train.rows,
        against={name: dataset.digest for name, dataset in benchmarks.items()},
        max_prompt_length=experiment.data.max_prompt_length,
        parent_digest=train.digest,
        created=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def gated_there(
    experiment: Experiment,
    train: Dataset,
    benchmarks: Mapping[str, Dataset],
    model_folder: Path,
    output: Path | str,
) -> Dataset | None:
    """What `gated` would find on disk, or None where it would have to make it."""
    folder = _gated_folder(experiment, train, benchmarks, model_folder, output)
    return Dataset.load(folder) if (folder / MANIFEST).is_file() else None


def _gated_folder(experiment, train, benchmarks, model_folder, output) -> Path:
    # Only what can change a finding: with whom it is compared and in which order does.
    key = digest_of(
        [
            train.digest,
            experiment.gates.model_dump(mode="json", exclude={"workers", "against"}),
            [[name, dataset.digest] for name, dataset in benchmarks.items()],
            tokenizer_digest(model_folder),
            experiment.data.max_prompt_length,
            gating.GATES_VERSION,
        ]
    )
    return Path(output) / "data" / f"{train.name}-{key[:12]}-gated"


def measured(
    experiment: Experiment,
    kept: Dataset,
    model_folder: Path,
    rates: Callable[[], tuple[str, Mapping[str, float], Mapping[str, Any]]] | None,
) -> Measured | None:
    """What the segmentation needs to know of the rows beside the table, not yet computed.

    Args:
        experiment: Its segmentation says what.
        kept: The set to be divided.
        model_folder: The model whose tokenizer counts.
        rates: Gives digest, pass rates by id, and facts for the manifest, of `tasks.pass_rates`;
            None where they are not known.
    """
    rule = experiment.data.segmentation.rule
    if rule == "tokens":

        def lengths(table: pa.Table) -> Sequence[int]:
            return question_tokens(tokenizer_of(model_folder), table["question"].to_pylist())

        digest = tokenizer_digest(model_folder)
        return Measured(digest, lengths, {"tokenizer_digest": digest})
    if rule == "pass_rate" and rates is not None:
        digest, by_id, facts = rates()
        return Measured(
            digest, lambda table: [by_id.get(name) for name in table["id"].to_pylist()], facts
        )
    return None


def comparison_sources(experiment: Experiment) -> list:
    """The sets that gates compare with: those that are evaluated on, then `gates.against`.

    Raises:
        ValueError: two of them share a name.
    """
    sources = [*experiment.evaluation.benchmarks, *experiment.gates.against]
    names = [source.name for source in sources]
    twice = sorted({name for name in names if names.count(name) > 1})
    if twice:
        raise ValueError(
            f"gates.against: found {twice[0]!r}, which is a set of evaluation.benchmarks or there "
            "twice\n\nhint: it is compared with already; leave it out"
        )
    return sources


def prepared_there(experiment: Experiment, output: Path | str) -> Prepared | None:
    """What is on disk of an experiment's training data, None where a step is still to be done.

    Raises:
        ValueError: a local file is missing, or a data set was changed since.
    """
    train = downloaded(experiment.data.train, experiment.data, output)
    sources = comparison_sources(experiment)
    sets = {one.name: downloaded(one, experiment.data, output) for one in sources}
    if train is None or None in sets.values():
        return None
    folder = local_folder(experiment.model, offline=True)
    kept = gated_there(experiment, train, sets, folder, output)
    if kept is None:
        return None
    rates = None
    if experiment.data.segmentation.rule == "pass_rate":
        from tasks import pass_rates  # it brings what samples

        found = pass_rates.there(experiment, kept)
        if found is None:
            return None
        rates = lambda: found  # noqa: E731
    known = measured(experiment, kept, folder, rates)
    segments = segmented(kept, experiment.data, output, known)
    return Prepared(train, kept, segments) if segments else None
