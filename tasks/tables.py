"""Tables of a report, as rows of text: laid out once, for the page and for markdown."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from conf.schema import Experiment
from tasks import doubts
from tasks.artifacts import Dataset
from tasks.results import COSTS
from tasks.words import (
    ABSENT,
    count,
    duration,
    number,
    p_value,
    percent,
    points,
    span,
    table,
    things,
)

Cell = tuple[str, str]
"""What is read first, and a remark in small print (often empty)."""


@dataclass(frozen=True)
class Table:
    """A table: the first column names the row, the others are numbers unless `text` is set."""

    columns: list[str]
    rows: list[list[Cell]]
    title: str = ""
    notes: list[str] = field(default_factory=list)
    text: bool = False
    total: bool = False

    def markdown(self) -> str:
        """The table in GitHub's markdown."""
        rule = ["---"] + ["---" if self.text else "---:"] * (len(self.columns) - 1)
        lines = [[self.literal(column) for column in self.columns], rule]
        lines += [
            [
                self.literal(main) + (f" ({self.literal(small)})" if small else "")
                for main, small in row
            ]
            for row in self.rows
        ]
        title = [f"**{self.literal(self.title)}**", ""] if self.title else []
        body = ["| " + " | ".join(line) + " |" for line in lines]
        notes = ["", *(f"{self.literal(note)}  " for note in self.notes)] if self.notes else []
        return "\n".join([*title, *body, *notes])

    def text_lines(self) -> str:
        """The table for a terminal: what stands first in each cell, and its first remark."""
        rows = [[self._cell(cell) for cell in row] for row in self.rows]
        lines = table([self.columns, *rows], left=len(self.columns) if self.text else 1)
        return "\n".join([*([self.title] if self.title else []), *lines, *self.notes])

    @staticmethod
    def _cell(cell: Cell) -> str:
        main, small = cell
        remark = small.split("\n")[0]
        return f"{main} ({remark})" if remark and main != ABSENT else main

    @staticmethod
    def literal(text: str) -> str:
        """Text as it is, where markdown would read marks in it."""
        for mark in "\\`*_|<>[]#":
            text = text.replace(mark, f"\\{mark}")
        return text.replace("\n", "; ")


def scores(benchmark: str, rows: Sequence[Mapping[str, Any]]) -> Table:
    """Accuracy by checkpoint, with intervals, and the paired difference to the base."""
    k, samples = rows[0]["k"], rows[0]["samples"]
    columns = ["checkpoint", f"avg@{k}", "change from base", f"pass@{k}"]
    columns += ["cut off", "no answer", "mean length", "correct", "wrong", "steps"]
    lines = []
    for row in rows:
        change = row["difference"]
        lines.append(
            [
                (row["label"], _what(row)),
                (percent(row["avg_at_k"]), _small(span(row["avg_interval"], percent))),
                (
                    points(change["mean"]) if change else ABSENT,
                    f"{span((change['low'], change['high']))}\n{p_value(change['p_value'])}"
                    if change
                    else "",
                ),
                (percent(row["pass_at_k"]), _small(span(row["pass_interval"], percent))),
                (percent(row["truncated_share"]), ""),
                (percent(row["no_answer_share"]), ""),
                *(
                    (_tokens(row[f"response_length_{kind}"]), "")
                    for kind in ("mean", "correct", "wrong")
                ),
                (number(row["steps"]), ""),
            ]
        )
    notes = [f"{row['label']}: {row['note']}" for row in rows if row["note"]]
    problems = things(rows[0]["problems"], "problem")
    title = f"{benchmark}: {problems}, {things(samples, 'response')} each"
    return Table(columns, lines, title, notes)


def cost(stages: Sequence[Mapping[str, Any]], totals: Mapping[str, Any]) -> Table:
    """What each stage did and took, and all together."""
    columns = ["stage", "steps", "updates", "prompts", "rollouts", "tokens generated"]
    columns += ["tokens trained", "time", "generated / s"]
    named = [(row, (row["name"], _what(row))) for row in stages]
    lines = [
        [
            name,
            *((count(row[key]), "") for key in ("steps", *COSTS)),
            (duration(row["seconds"]), f"{row['attempts']} attempts" if _again(row) else ""),
            (_rate(row), ""),
        ]
        for row, name in [*named, (totals, ("all stages", ""))]
    ]
    notes = [f"{row['name']} {row['ended_early']}" for row in stages if row.get("ended_early")]
    return Table(columns, lines, notes=notes, total=True)


def data(
    train: Dataset,
    segments: Mapping[str, Dataset],
    experiment: Experiment,
    benchmarks: Mapping[str, Dataset],
) -> Table:
    """The problem sets: how many, how long, and the digest that names them."""
    used = {
        name: ", ".join(stage.name for stage in experiment.stages if stage.prompts == name)
        for name in segments
    }
    sets = [
        (train.name, "training set", train),
        *(
            (name, f"trains {used[name]}" if used[name] else "not used", segments[name])
            for name in sorted(segments)
        ),
        *((name, "benchmark", benchmark) for name, benchmark in benchmarks.items()),
    ]
    lines = [
        [(name, use), (count(each.rows), ""), (each.digest[:12], "")] for name, use, each in sets
    ]
    rule = next((segments[name].manifest for name in sorted(segments)), {})
    notes = []
    if rule.get("rule") not in (None, "raw_question", "repr_chat"):
        notes.append(
            f"Divided by {rule['rule']}: "
            + ", ".join(f"{name} {count(rows)}" for name, rows in rule["counts"].items())
            + " problems."
        )
    if rule.get("threshold") is not None:
        of = "the raw question" if rule.get("rule") == "raw_question" else "the chat as text"
        notes.append(
            f"L1 has prompts of up to {rule['threshold']:,} characters of {of}, L3 the longer "
            f"ones, L2 all; their mean length is {rule.get('mean', float('nan')):,.2f}."
        )
    notes += doubts.repeated(benchmarks)
    return Table(["set", "problems", "digest"], lines, notes=notes)


def handoff(stages: Sequence[Mapping[str, Any]]) -> Table | None:
    """What was checked when one stage handed its checkpoint to the next."""
    checks = list(dict.fromkeys(key for row in stages for key in row["handoff"]))
    if not checks:
        return None
    columns = ["check", *(row["name"] for row in stages)]
    lines = [
        [
            (check.replace("_", " "), ""),
            *((_value(row["handoff"].get(check)), "") for row in stages),
        ]
        for check in checks
    ]
    return Table(columns, lines)


def versions(records: Sequence[Mapping[str, Any]]) -> Table:
    """Versions of packages that trained and evaluated; several where they changed on the way."""
    seen: dict[str, list[str]] = {}
    for record in records:
        # Responses that were graded anew were sampled by what was installed then.
        for made_on in (*record.get("sampled_on", ()), record.get("environment") or {}):
            for package, version in made_on.get("packages", {}).items():
                if str(version) not in seen.setdefault(package, []):
                    seen[package].append(str(version))
    lines = [[(package, ""), (", then ".join(seen[package]), "")] for package in sorted(seen)]
    return Table(["package", "version"], lines, text=True)


def _small(text: str) -> str:
    return "" if text == ABSENT else text


def _tokens(length: float | None) -> str:
    return number(length) if length is None or length != length else f"{length:,.1f}"


def _what(stage: Mapping[str, Any]) -> str:
    if not stage["prompt_set"]:
        return ""
    return f"{stage['prompt_set']}, {stage['context_length']:,} tokens"


def _again(row: Mapping[str, Any]) -> bool:
    return row.get("attempts", 0) > 1


def _rate(row: Mapping[str, Any]) -> str:
    if not row["seconds"] or row["tokens_generated"] is None:
        return ABSENT
    return f"{row['tokens_generated'] / row['seconds']:,.0f}"


def _value(value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "NO"
    if isinstance(value, int | float) or value is None:
        return number(value, 5)
    return str(value)
