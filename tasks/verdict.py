"""What a run came to, in a few sentences and numbers."""

from collections.abc import Mapping, Sequence
from typing import Any

from conf.schema import Experiment
from tasks.words import (
    count,
    duration,
    magnitude,
    number,
    p_value,
    percent,
    plain,
    points,
    span,
    table,
    things,
)
from trainer import metrics

ALPHA = 0.05  # of the paired sign-flip test, over all benchmarks of a run


def verdict(
    by_benchmark: Mapping[str, Sequence[dict]], stages: Sequence[dict], totals: Mapping[str, Any]
) -> list[str]:
    """What came of it: a sentence per benchmark, last checkpoint against base, then the cost.

    Where the last that was scored is not the last that was trained, its stage is named.
    """
    sentences = []
    adjusted = _adjusted(by_benchmark)
    several = f" by Holm over {len(adjusted)} benchmarks" if len(adjusted) > 1 else ""
    for name, rows in by_benchmark.items():
        base = _base(rows)
        last = rows[-1]
        score = f"avg@{last['k']}"
        where = _place(last, stages)
        if base is None or last is base:
            missing = "The base was not" if base is None else "No trained checkpoint was"
            sentences.append(f"{missing} evaluated on {name}, so nothing is compared there.")
            continue
        change = last["difference"]
        if change is None:
            sentences.append(
                f"On {name}, {score} was {percent(base['avg_at_k'])} for the base and "
                f"{percent(last['avg_at_k'])} {where or 'at the end'}; the change could not be "
                "tested. "
                f"{last['note'][:1].upper()}{last['note'][1:]}".strip()
            )
            continue
        evidence = (
            f"Paired 95 % interval {span((change['low'], change['high']))} points, "
            f"{p_value(adjusted[name])}{several}, {things(change['problems'], 'problem')}."
        )
        if adjusted[name] < ALPHA:
            way = "rose" if change["mean"] > 0 else "fell"
            headline = (
                f"On {name}, {score} {way} by {magnitude(change['mean'])} points, "
                f"from {percent(base['avg_at_k'])} to {percent(last['avg_at_k'])}"
                + (f", {where}." if where else ".")
            )
        else:
            headline = (
                f"On {name}, no change in {score} is resolved"
                + (f" {where}: " if where else ": ")
                + f"{points(change['mean'])} points at this sample size."
            )
        # The first is the page's heading, with its evidence below.
        sentences += [f"{headline} {evidence}"] if sentences else [headline, evidence]
    spent = [things(totals["steps"], "step")] if totals["steps"] is not None else []
    if totals["tokens_generated"] is not None:
        spent.append(f"{count(totals['tokens_generated'])} generated tokens")
    if totals["seconds"] is not None:
        spent.append(duration(totals["seconds"]))
    if stages and spent:
        *most, final = spent
        listed = f"{', '.join(most)} and {final}" if most else final
        sentences.append(f"Cost of training, {things(len(stages), 'stage')}: {listed}.")
    return sentences


def terminal_summary(summary: Mapping[str, Any], *, ascii_only: bool = True) -> str:
    """The verdict and a table per benchmark, for the end of a run in a terminal.

    Args:
        summary: `Report.summary`.
        ascii_only: Whether to write ASCII, for terminals that know nothing else.
    """
    text = "\n\n".join(["\n".join(summary["verdict"]), *score_tables(summary["benchmarks"])])
    return plain(text) if ascii_only else text


def score_tables(by_benchmark: Mapping[str, Sequence[dict]]) -> list[str]:
    """The scores of checkpoints, a table of text for each benchmark."""
    tables = []
    for name, rows in by_benchmark.items():
        k = rows[0]["k"]
        header = ["checkpoint", "context", "steps", f"avg@{k} (95 %)", f"pass@{k}"]
        header += ["cut off", "length", "tokens", "time"]
        lines = [
            [
                row["label"],
                number(row["context_length"]),
                number(row["steps"]),
                f"{percent(row['avg_at_k'])} ({span(row['avg_interval'], percent)})",
                percent(row["pass_at_k"]),
                percent(row["truncated_share"]),
                number(row["response_length_mean"]),
                count(row["trained_tokens"]),
                duration(row["trained_seconds"]),
            ]
            for row in rows
        ]
        title = f"{name}, {things(rows[0]['problems'], 'problem')}"
        tables.append("\n".join([title, *table([header, *lines], left=1)]))
    return tables


def unscored(
    benchmarks: Sequence[str],
    by_benchmark: Mapping[str, Sequence[dict]],
    stages: Sequence[Mapping[str, Any]],
) -> list[str]:
    """Benchmarks on which the last trained checkpoint has no score, or none has."""
    return [
        name
        for name in benchmarks
        if name not in by_benchmark or _place(by_benchmark[name][-1], stages)
    ]


def _place(row: Mapping[str, Any], stages: Sequence[Mapping[str, Any]]) -> str:
    """After which stage a checkpoint is, where more were trained: "after stage short, 1 of 4"."""
    if not stages or row["position"] >= max(stage["position"] for stage in stages):
        return ""
    if row["position"] < 0:
        return "before the first stage"
    return f"after stage {row['label']}, {row['position'] + 1} of {len(stages)}"


def tiles(
    by_benchmark: Mapping[str, Sequence[dict]],
    totals: Mapping[str, Any],
    stages: Sequence[Mapping[str, Any]] = (),
) -> list[tuple[str, str, str]]:
    """Name, number and remark of the few numbers at the top, for the first benchmark."""
    found = []
    for rows in list(by_benchmark.values())[:1]:
        base, last = _base(rows), rows[-1]
        change, k = last["difference"], last["k"]
        if change:
            bounds = span((change["low"], change["high"]))
            found.append((f"change in avg@{k}", points(change["mean"]), f"points, {bounds}"))
        shown = {f"avg@{k}": "avg_at_k", f"pass@{k}": "pass_at_k", "cut off": "truncated_share"}
        for name, key in shown.items():
            remarks = [f"base {percent(base[key])}" if base else "", _place(last, stages)]
            found.append((name, percent(last[key]), "; ".join(filter(None, remarks))))
    found.append(("tokens generated", count(totals["tokens_generated"]), "in training"))
    found.append(("time", duration(totals["seconds"]), "in training"))
    return found


def _adjusted(by_benchmark: Mapping[str, Sequence[dict]]) -> dict[str, float]:
    """p-values of final checkpoints against the base by benchmark, by Holm, where there are any."""
    found = {
        name: rows[-1]["difference"]["p_value"]
        for name, rows in by_benchmark.items()
        if rows[-1]["difference"]
    }
    return dict(zip(found, metrics.holm(list(found.values())).tolist(), strict=True))


def _base(rows: Sequence[dict]) -> dict | None:
    return next((row for row in rows if row["position"] == -1), None)


def outcome(experiment: Experiment, stages: Sequence[dict]) -> str:
    """Which stages did not finish or were not trained; empty if all is well."""
    unfinished = [row for row in stages if row["outcome"] not in (None, "finished")]
    missing = len(experiment.stages) - len(stages)
    said = [f"Stage {row['name']}: {row['outcome']}." for row in unfinished]
    if missing > 0:
        said.append(f"{missing} of {things(len(experiment.stages), 'stage')} not trained.")
    return " ".join(said)
