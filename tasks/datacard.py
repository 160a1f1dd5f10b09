"""A card for a training set and its division: what is in it, what the gates found, what it shares.

One HTML file that opens anywhere, and the same in markdown.
"""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from tasks import doubts
from tasks import gates as gating
from tasks.artifacts import Dataset, digest_of, new_folder, read_json, write_json
from tasks.datacard_page import markdown, page
from tasks.gates import Finding, Match
from tasks.prepare import FINDINGS, Prepared
from tasks.words import things
from trainer.answers import number

BINS, EXAMPLES, EXCERPT = 24, 5, 90
# Raise it when the card says something else of the same data.
CARD_VERSION = 3


@dataclass(frozen=True)
class Card:
    """A written card.

    Attributes:
        folder: Holds data_card.html, data_card.md, and data_card.json with the numbers.
        markdown: The text of data_card.md.
    """

    folder: Path
    markdown: str

    @property
    def html(self) -> Path:
        """The page."""
        return self.folder / "data_card.html"


def write_card(prepared: Prepared, benchmarks: Mapping[str, Dataset], output: Path | str) -> Card:
    """Write the card of a training set and its prompt sets, or find it written.

    Args:
        prepared: Training set, what the gates left, and the prompt sets.
        benchmarks: The evaluation sets that it was compared with.
        output: The experiment's output folder.
    """
    sets = [prepared.train, prepared.kept, *prepared.segments.values()]
    key = digest_of([CARD_VERSION, *(str(one.folder.name) for one in sets)])
    folder = Path(output) / "data" / f"{prepared.train.name}-{key[:12]}-card"
    if not (folder / "data_card.html").is_file():
        content = facts(prepared, benchmarks)
        with new_folder(folder, "data_card.html") as aside:
            write_json(aside / "data_card.json", content)
            (aside / "data_card.md").write_text(markdown(content), encoding="utf-8")
            (aside / "data_card.html").write_text(page(content), encoding="utf-8")
    return Card(folder, (folder / "data_card.md").read_text(encoding="utf-8"))


def facts(prepared: Prepared, benchmarks: Mapping[str, Dataset]) -> dict[str, Any]:
    """Everything that a card says, as plain values."""
    train, kept = prepared.train, prepared.kept
    table = train.table()
    questions = dict(zip(table["id"].to_pylist(), table["question"].to_pylist(), strict=True))
    findings = read_json(kept.folder / FINDINGS)
    named = {
        "as downloaded": train,
        "after the gates": kept,
        **prepared.segments,
    }
    sets = {name: _described(dataset) for name, dataset in named.items()}
    return {
        "name": train.name,
        "source": train.manifest["source"],
        "revision": train.manifest["revision"],
        "segmentation": _division(prepared.segments),
        "sets": sets,
        "benchmarks": {name: dataset.rows for name, dataset in benchmarks.items()},
        "gates": [
            {
                **{key: one[key] for key in ("gate", "action", "found", "dropped", "note")},
                "examples": _examples(one, questions),
            }
            for one in findings
        ],
        "overlap": gating.matrix(
            _findings(findings, questions), _inside(named, questions), benchmarks
        ),
        "cost": _cost(findings, train.rows),
        "doubts": [
            *doubts.without_level(prepared.segments),
            *doubts.repeated(benchmarks),
        ],
    }


def _described(dataset: Dataset) -> dict[str, Any]:
    table = dataset.table().select(["question", "answers", "source", "level"])
    lengths = np.array([len(text) for text in table["question"].to_pylist()])
    levels = Counter(level for level in table["level"].to_pylist() if level is not None)
    return {
        "rows": dataset.rows,
        "digest": dataset.digest,
        "folder": dataset.folder.name,
        "lengths": {
            "mean": float(lengths.mean()) if len(lengths) else None,
            "median": float(np.median(lengths)) if len(lengths) else None,
            "max": int(lengths.max()) if len(lengths) else None,
        },
        "histogram": _histogram(lengths),
        "answers": dict(Counter(map(answer_kind, table["answers"].to_pylist())).most_common()),
        "sources": dict(Counter(table["source"].to_pylist()).most_common(12)),
        "levels": {str(level): levels[level] for level in sorted(levels)},
    }


def answer_kind(answers: list[str]) -> str:
    r"""What an answer is: by its first accepted form.

    >>> [answer_kind([a]) for a in ("42", "0.5", "1/2", "(1,2)", "x^2", r"\text{yes}")]
    ['integer', 'number', 'number', 'several values', 'expression', 'words']
    """
    if not answers:
        return "none"
    value = number(answers[0])
    if value is not None:
        return "integer" if value.denominator == 1 else "number"
    text = answers[0].strip("$ ")
    if "," in text or ";" in text or r"\\" in text:
        return "several values"
    if text.startswith(r"\text") or (text.replace(" ", "").isalpha() and len(text) > 1):
        return "words"
    return "expression"


def _histogram(lengths: np.ndarray) -> dict[str, list[int]]:
    """Counts of lengths; the last bin takes the longest 1 %, however long."""
    if not len(lengths):
        return {"from": [], "counts": []}
    edge = max(BINS, int(np.quantile(lengths, 0.99)) + 1)
    width = -(-edge // (BINS - 1))
    place = np.minimum(lengths // width, BINS - 1)
    counts = np.bincount(place, minlength=BINS)
    return {"from": [width * number for number in range(BINS)], "counts": counts.tolist()}


def _division(segments: Mapping[str, Dataset]) -> dict[str, Any]:
    """The rule of the division and its numbers, as every prompt set's manifest has them."""
    manifest = next(iter(segments.values())).manifest
    of_one_set = {"kind", "name", "rows", "digest", "file_digest", "columns", "lengths",
                  "segment", "created"}  # fmt: skip
    return {key: value for key, value in manifest.items() if key not in of_one_set}


def _examples(finding: Mapping[str, Any], questions: Mapping[str, str]) -> list[str]:
    if finding["matches"]:
        return [
            f"{one['id']} resembles {one['problem']} of {one['benchmark']} "
            f"({one['score']:.2f}): {_excerpt(questions[one['id']])}"
            for one in sorted(finding["matches"], key=lambda m: -m["score"])[:EXAMPLES]
        ]
    if finding["groups"]:
        return [
            f"{', '.join(group[:4])}: {_excerpt(questions[group[0]])}"
            for group in finding["groups"][:EXAMPLES]
        ]
    return [f"{name}: {_excerpt(questions[name])}" for name in finding["rows"][:EXAMPLES]]


def _excerpt(text: str) -> str:
    text = " ".join(text.split())
    return text if len(text) <= EXCERPT else f"{text[:EXCERPT]}..."


def _findings(findings: list[dict], questions: Mapping[str, str]) -> list[Finding]:
    row = {name: place for place, name in enumerate(questions)}
    return [
        Finding(
            one["gate"],
            [],
            matches=[
                Match(row[m["id"]], m["benchmark"], m["problem"], m["score"])
                for m in one["matches"]
            ],
        )
        for one in findings
    ]


def _inside(named: Mapping[str, Dataset], questions: Mapping[str, str]) -> dict[str, np.ndarray]:
    """By name of a set, which rows of the downloaded one are in it."""
    found = {}
    for name, dataset in named.items():
        ids = set(dataset.table()["id"].to_pylist())
        found[name] = np.array([id_ in ids for id_ in questions])
    return found


def _cost(findings: list[dict], rows: int) -> str:
    """What is wrong with the rows that are kept, in a sentence; empty where nothing is."""
    kept = {one["gate"]: one for one in findings if one["action"] == "flag" and one["found"]}
    if not kept:
        return ""
    groups = kept.get("normalized_duplicates", {}).get("groups", [])
    parts = []
    if groups:
        repeats = sum(len(group) - 1 for group in groups)
        parts.append(f"{things(repeats, 'repeat')} of another row's question")
    if "conflicting_answers" in kept:
        wrong = kept["conflicting_answers"]
        parts.append(
            f"contradictory answers to {things(len(wrong['groups']), 'question')} "
            f"({things(wrong['found'], 'row')}), so some right answers are marked wrong"
        )
    for gate, noun, what in (
        ("ungradable_answers", "row", "that can never be rewarded"),
        ("overlong_prompts", "prompt", "over the length limit"),
    ):
        if gate in kept:
            parts.append(f"{things(kept[gate]['found'], noun)} {what}")
    leaked = {
        (match["benchmark"], match["problem"])
        for gate, one in kept.items()
        if gate.startswith("overlap_")
        for match in one["matches"]
    }
    if leaked:
        by_set = Counter(benchmark for benchmark, _ in leaked)
        listed = ", ".join(f"{amount} of {name}" for name, amount in by_set.most_common())
        parts.append(f"{things(len(leaked), 'evaluation problem')} seen in training ({listed})")
    return f"Flagged and kept, of {things(rows, 'row')}: {'; '.join(parts)}." if parts else ""
