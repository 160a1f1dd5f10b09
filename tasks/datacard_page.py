"""The page of a data card, and the same in markdown. Nothing here reads files."""

import html
from collections.abc import Mapping
from typing import Any

from jinja2 import Environment
from markupsafe import Markup

from tasks.tables import Table
from tasks.words import number

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
{% for doubt in doubts %}<p><strong>{{ doubt }}</strong></p>
{% endfor %}
{% for title, table in tables.items() %}
<h2>{{ title }}</h2>
<table><tr>{% for column in table.columns %}<th>{{ column }}</th>{% endfor %}</tr>
{% for row in table.rows %}<tr>{% for cell, _ in row %}<td>{{ cell }}</td>{% endfor %}</tr>
{% endfor %}</table>
{% endfor %}
<h2>Lengths of questions, in characters</h2>
{% for figure in figures %}
<figure>{{ figure.svg }}<figcaption>{{ figure.caption }}</figcaption></figure>
{% endfor %}
{% for gate in gates if gate.examples %}
{% if loop.first %}<h2>Examples</h2>{% endif %}
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


def markdown(content: Mapping[str, Any]) -> str:
    """The card as markdown."""
    parts = [f"# Data card: {Table.literal(content['name'])}", Table.literal(_origin(content))]
    if content["cost"]:
        parts.append(Table.literal(content["cost"]))
    parts += map(Table.literal, content["doubts"])
    for title, table in _tables(content).items():
        parts += [f"## {title}", table.markdown()]
    shown = [one for one in content["gates"] if one["examples"]]
    if shown:
        parts.append("## Examples")
    for one in shown:
        examples = "\n".join(f"* {_code(example)}" for example in one["examples"])
        parts += [f"{Table.literal(one['gate'])}:", examples]
    return "\n\n".join(parts) + "\n"


def _code(text: str) -> str:
    """Text in a fixed width, as markdown shows it whatever a problem says."""
    return "`" + text.replace("`", "'") + "`"


def _origin(content: Mapping[str, Any]) -> str:
    source = content["source"]
    where = {"lab": "made by the lab's code", "file": "from local files"}.get(
        source["kind"], f"from {source['path']} at revision {content['revision']}"
    )
    return f"{content['sets']['as downloaded']['rows']:,} problems, {where}."


def _tables(content: Mapping[str, Any]) -> dict[str, Table]:
    """The card's tables by title."""
    sets, benchmarks = content["sets"], content["benchmarks"]
    tables = {
        "Sets": _table(
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
        "Gates": _table(
            ["gate", "action", "rows found", "left out", "note"],
            [
                [g["gate"], g["action"], f"{g['found']:,}", f"{g['dropped']:,}", g["note"]]
                for g in content["gates"]
            ],
        ),
    }
    if benchmarks:
        title = "Evaluation problems in each set: same text / n-grams / near-duplicates"
        tables[title] = _table(
            ["set", *(f"{name} ({rows})" for name, rows in benchmarks.items())],
            [
                [name, *(" / ".join(map(str, row[one].values())) for one in benchmarks)]
                for name, row in content["overlap"].items()
            ],
        )
    for key, title in (("answers", "Answers"), ("sources", "Sources"), ("levels", "Levels")):
        kinds = list(dict.fromkeys(kind for one in sets.values() for kind in one[key]))
        if kinds:
            rows = [[n, *(f"{one[key].get(k, 0):,}" for k in kinds)] for n, one in sets.items()]
            tables[title] = _table(["set", *kinds], rows)
    return tables | {"Division": _table(["setting", "value"], _division(content["segmentation"]))}


def _division(facts: Mapping[str, Any]) -> list[list[str]]:
    """The rule of the division by the names of its knobs, then the numbers that came of it."""
    knobs = facts["segmentation"]
    rule = {"rule": knobs["rule"]}
    if knobs["rule"] == "length":
        rule["length_of"] = knobs["length_of"].replace("_", " ")
    found = {key: value for key, value in facts.items() if key not in ("segmentation", "rule")}
    return [[key.replace("_", " "), _told(key, value)] for key, value in (rule | found).items()]


def _told(key: str, value: Any) -> str:
    """What a division says of itself, as people read it.

    >>> _told("mean", 247.24184), _told("counts", {"L1": 24976, "L3": 9}), _told("bands", [0, 0.2])
    ('247.24', 'L1 24,976, L3 9', '0, 0.2')
    """
    if isinstance(value, Mapping):
        return ", ".join(f"{name} {_told(name, one)}" for name, one in value.items())
    if isinstance(value, list):
        return ", ".join(_told(key, one) for one in value)
    if isinstance(value, int | float):
        return number(value, digits=5)
    return str(value)[:12] if key.endswith("digest") else str(value)


def _table(columns: list[str], rows: list[list[str]]) -> Table:
    return Table(columns, [[(cell, "") for cell in row] for row in rows], text=True)


def _amount(value: float | None) -> str:
    return "-" if value is None else f"{value:,.2f}".removesuffix(".00")


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
