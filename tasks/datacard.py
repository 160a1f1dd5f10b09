"""A card for a training set and its division: what is in it, what the gates found, what it shares.

One HTML file that opens anywhere, and the same in markdown.
"""

import html
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment
from markupsafe import Markup

from tasks import gates as gating
from tasks.artifacts import Dataset, digest_of, new_folder, read_json, write_json
from tasks.gates import Finding, Match
from tasks.prepare import FINDINGS, Prepared
from trainer.answers import number

BINS, EXAMPLES, EXCERPT = 24, 5, 90
# Raise it when the card says something else of the same data.
CARD_VERSION = 1


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
    manifest = next(iter(segments.values())).manifest
    left_out = {"kind", "name", "rows", "digest", "file_digest", "columns", "lengths", "segment"}
    return {key: value for key, value in manifest.items() if key not in left_out | {"created"}}


def _examples(finding: Mapping[str, Any], questions: Mapping[str, str]) -> list[str]:
    if finding["matches"]:
        return [
            f"{one['id']} is like {one['problem']} of {one['benchmark']} "
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
    """What keeping everything costs, in a sentence; nothing where nothing is kept that is bad."""
    kept = {one["gate"]: one for one in findings if one["action"] == "flag" and one["found"]}
    if not kept:
        return ""
    groups = kept.get("normalized_duplicates", {}).get("groups", [])
    parts = [
        f"{sum(len(group) - 1 for group in groups):,} rows repeat another's question" * bool(groups)
    ]
    if "conflicting_answers" in kept:
        wrong = kept["conflicting_answers"]
        parts.append(
            f"{len(wrong['groups']):,} questions ({wrong['found']:,} rows) have answers that "
            "contradict each other, so one of two is rewarded wrongly"
        )
    for gate, what in (
        ("ungradable_answers", "rows can never be rewarded"),
        ("overlong_prompts", "prompts are over the limit"),
    ):
        if gate in kept:
            parts.append(f"{kept[gate]['found']:,} {what}")
    leaked = {
        (match["benchmark"], match["problem"])
        for gate, one in kept.items()
        if gate.startswith("overlap_")
        for match in one["matches"]
    }
    if leaked:
        by_set = Counter(benchmark for benchmark, _ in leaked)
        listed = ", ".join(f"{count} of {name}" for name, count in by_set.most_common())
        parts.append(f"training sees {len(leaked)} evaluation problems ({listed})")
    parts = [part for part in parts if part]
    return f"Of {rows:,} rows kept as they are: {'; '.join(parts)}." if parts else ""


def markdown(content: Mapping[str, Any]) -> str:
    """The card as markdown."""
    lines = [f"# Data card: {content['name']}", "", _origin(content), ""]
    if content["cost"]:
        lines += [content["cost"], ""]
    for title, head, rows in _tables(content):
        lines += [f"## {title}", "", f"| {' | '.join(head)} |", f"|{'---|' * len(head)}"]
        lines += [f"| {' | '.join(_cell(cell) for cell in row)} |" for row in rows] + [""]
    lines += ["## Examples", ""]
    for one in content["gates"]:
        if one["examples"]:
            lines += [f"{one['gate']}:", ""]
            lines += [f"* {_literal(example)}" for example in one["examples"]] + [""]
    return "\n".join(lines)


def _cell(cell: str) -> str:
    return cell.replace("|", "\\|").replace("\n", " ")


def _literal(text: str) -> str:
    """Text that markdown shows as it is, whatever a problem says."""
    return "`" + text.replace("`", "'") + "`"


def _origin(content: Mapping[str, Any]) -> str:
    source = content["source"]
    where = {"lab": "made by the lab's code", "file": "local files"}.get(
        source["kind"], f"{source['path']} at revision {content['revision']}"
    )
    return f"{content['sets']['as downloaded']['rows']:,} problems, {where}."


def _tables(content: Mapping[str, Any]) -> list[tuple[str, list[str], list[list[str]]]]:
    """Titles, heads and rows of the card's tables."""
    sets, benchmarks = content["sets"], content["benchmarks"]
    tables = [
        (
            "Sets",
            ["set", "rows", "mean length", "median", "longest", "digest"],
            [
                [
                    name,
                    f"{one['rows']:,}",
                    *(_amount(one["lengths"][key]) for key in ("mean", "median", "max")),
                    one["digest"][:12],
                ]
                for name, one in sets.items()
            ],
        ),
        (
            "Gates",
            ["gate", "action", "rows found", "left out", "what it says"],
            [
                [g["gate"], g["action"], f"{g['found']:,}", f"{g['dropped']:,}", g["note"]]
                for g in content["gates"]
            ],
        ),
    ]
    if benchmarks:
        tables.append(
            (
                "Evaluation problems in each set: same text / n-grams / near-duplicates",
                ["set", *(f"{name} ({rows})" for name, rows in benchmarks.items())],
                [
                    [name, *(" / ".join(map(str, row[one].values())) for one in benchmarks)]
                    for name, row in content["overlap"].items()
                ],
            )
        )
    for key, title in (("answers", "Answers"), ("sources", "Sources"), ("levels", "Levels")):
        kinds = list(dict.fromkeys(kind for one in sets.values() for kind in one[key]))
        if kinds:
            rows = [[n, *(f"{one[key].get(k, 0):,}" for k in kinds)] for n, one in sets.items()]
            tables.append((title, ["set", *kinds], rows))
    rule = content["segmentation"]
    shown = [[key, str(rule[key])] for key in rule if key != "segmentation"]
    return [*tables, ("Division", ["what", "value"], shown)]


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}".removesuffix(".00")


_PAGE = Environment(autoescape=True, trim_blocks=True, lstrip_blocks=True).from_string(
    """<!doctype html>
<html lang="en"><head><meta charset="utf-8"><title>Data card: {{ name }}</title>
<style>
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem }
table { border-collapse: collapse; margin: 0.5rem 0 1.5rem }
th, td { border-bottom: 1px solid #ddd; padding: 0.25rem 0.7rem; text-align: left }
td:not(:first-child) { font-variant-numeric: tabular-nums }
figure { display: inline-block; margin: 0 1.5rem 1rem 0 } figcaption { font-size: 13px }
code { font-size: 13px; overflow-wrap: anywhere }
</style></head><body>
<h1>Data card: {{ name }}</h1>
<p>{{ origin }}</p>
{% if cost %}<p><strong>{{ cost }}</strong></p>{% endif %}
{% for title, head, rows in tables %}
<h2>{{ title }}</h2>
<table><tr>{% for cell in head %}<th>{{ cell }}</th>{% endfor %}</tr>
{% for row in rows %}<tr>{% for cell in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
<h2>Lengths of questions, in characters</h2>
{% for figure in figures %}
<figure>{{ figure.svg }}<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
<h2>Examples</h2>
{% for gate in gates if gate.examples %}
<h3>{{ gate.gate }}</h3>
<ul>{% for example in gate.examples %}<li><code>{{ example }}</code></li>{% endfor %}</ul>
{% endfor %}
</body></html>
"""
)


def page(content: Mapping[str, Any]) -> str:
    """The card as one HTML file; what problems say is shown as text, never as markup."""
    figures = [
        {"svg": _bars(one["histogram"]), "caption": f"{name}: {one['rows']:,} questions"}
        for name, one in content["sets"].items()
        if one["rows"]
    ]
    return _PAGE.render(
        **content, origin=_origin(content), tables=_tables(content), figures=figures
    )


def _bars(histogram: Mapping[str, list[int]]) -> Markup:
    counts, starts = histogram["counts"], histogram["from"]
    tallest, width, height = max(counts), 14, 110
    bars = "".join(
        f'<rect x="{width * place}" y="{height - round(height * count / tallest)}" '
        f'width="{width - 2}" height="{round(height * count / tallest)}" fill="#3a6ea5">'
        f"<title>{html.escape(f'from {starts[place]}: {count:,}')}</title></rect>"
        for place, count in enumerate(counts)
    )
    ends = "".join(
        f'<text x="{width * place}" y="{height + 14}" font-size="11">{starts[place]}</text>'
        for place in range(0, len(starts), 6)
    )
    return Markup(
        f'<svg width="{width * len(counts)}" height="{height + 18}" role="img">{bars}{ends}</svg>'
    )
