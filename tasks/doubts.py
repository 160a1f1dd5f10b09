"""What may be a mistake in data that can be used: sentences for the terminal, card and report."""

from collections.abc import Mapping

from tasks.artifacts import Dataset
from tasks.overlap import question_key
from tasks.words import things


def repeated(benchmarks: Mapping[str, Dataset]) -> list[str]:
    """A sentence for each test set some of whose problems ask what another asks.

    Questions are compared without case, spaces and typesetting, see `tasks.overlap.question_key`.
    """
    repeats = {name: _repeats(dataset) for name, dataset in benchmarks.items()}
    return [
        f"{name}: {found:,} of {things(benchmarks[name].rows, 'row')} "
        f"{'repeats' if found == 1 else 'repeat'} another's question; an evaluation on it "
        "counts each as a problem of its own, so its intervals are too narrow."
        for name, found in repeats.items()
        if found
    ]


def without_level(segments: Mapping[str, Dataset]) -> list[str]:
    """A sentence where prompts were divided by level and some have none.

    Args:
        segments: The prompt sets by name, as `tasks.segment.segment` made them.
    """
    manifest = next(iter(segments.values())).manifest
    missing = manifest.get("without_level", 0)
    if not missing:
        return []
    rows = things(manifest["counts"]["all"], "prompt")
    return [f"{missing:,} of {rows} {'has' if missing == 1 else 'have'} no level: in `all` alone."]


def _repeats(dataset: Dataset) -> int:
    questions = dataset.table()["question"].to_pylist()
    return len(questions) - len(set(map(question_key, questions)))
