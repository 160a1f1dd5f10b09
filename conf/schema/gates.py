"""What training problems are inspected for, and what becomes of those that fail."""

from typing import Literal

from pydantic import field_validator

from conf.schema.data import Source, named
from conf.schema.knobs import Knobs, knob

Of = Literal["drop", "flag", "fail"]
OfGroups = Literal["drop", "keep-first", "flag", "fail"]


class Gates(Knobs):
    """Inspections of the training set; each has an action.

    drop: leave the rows out; keep-first: of rows that are the same, leave out all but the first;
    flag: keep and report them; fail: stop before anything is computed.
    """

    exact_duplicates: OfGroups = knob(
        "keep-first", "Rows of the same question with the same answers.", "action"
    )
    normalized_duplicates: OfGroups = knob(
        "keep-first", "Rows of the same question but for spaces, case and typesetting.", "action"
    )
    conflicting_answers: OfGroups = knob(
        "drop",
        "Rows of one question but for typesetting, with answers that the grader tells apart.",
        "action",
    )
    ungradable_answers: Of = knob(
        "drop", "Rows that have no answer which the grader grades equal to itself.", "action"
    )
    unparsable_answers: Of = knob(
        "flag", "Rows with answers that only the very same text can match.", "action"
    )
    overlong_prompts: Of = knob(
        "drop", "Prompts over data.max_prompt_length with the model's chat template.", "action"
    )
    overlap_exact: Of = knob(
        "drop", "Questions of an evaluation set, letters and digits compared.", "action"
    )
    overlap_ngrams: Of = knob(
        "drop", "Questions with much of the words of an evaluation problem.", "action"
    )
    overlap_minhash: Of = knob(
        "drop", "Near-duplicates of an evaluation problem by their sets of word triples.", "action"
    )
    ngram: int = knob(13, "Words that have to be the same in a row.", "words", gt=1)
    ngram_share: float = knob(
        0.5,
        "Share of an evaluation problem's n-grams from which on it counts.",
        "share",
        gt=0,
        le=1,
    )
    similarity: float = knob(
        0.8, "Jaccard similarity from which on two questions are near.", "share", gt=0.2, le=1
    )
    against: list[Source] = knob(
        list, "Sets to compare with besides evaluation.benchmarks.", "sources"
    )
    workers: int = knob(
        2, "Grading processes that work side by side; no result depends on it.", "processes", gt=0
    )

    _names = field_validator("against")(named)

    def action(self, gate: str) -> str:
        """The action of a gate by its name."""
        return getattr(self, gate)


GATES = (
    "exact_duplicates",
    "normalized_duplicates",
    "conflicting_answers",
    "ungradable_answers",
    "unparsable_answers",
    "overlong_prompts",
    "overlap_exact",
    "overlap_ngrams",
    "overlap_minhash",
)
"""The gates, in the order in which they are reported."""
