"""Inspect a training set, and leave out what its gates say: each finding counted and listed.

Every gate looks at the whole set, whatever the others find. Then rows are left out in the order of
`ORDER`: first rows that are bad by themselves, so that of duplicates the first *good* one stays.
"""

from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa

from conf.schema import GATES, Gates
from tasks import overlap
from tasks.words import things
from trainer.answers import number
from trainer.grading.pool import Limits, Outcome, Pool
from trainer.rewards import answer_is_parsable, grade

# Raise it when a change of ours alters what is left out.
GATES_VERSION = 4
_GROUPS_LAST = ("conflicting_answers", "exact_duplicates", "normalized_duplicates")
_OTHER = "7919"  # what no answer is compared with for its own sake
_UNREAD = (Outcome.UNPARSABLE, Outcome.TIMEOUT, Outcome.OUT_OF_MEMORY, Outcome.LOST)
ORDER = (*(gate for gate in GATES if gate not in _GROUPS_LAST), *_GROUPS_LAST)


@dataclass(frozen=True)
class Match:
    """A training row that is like a problem of an evaluation set."""

    row: int
    benchmark: str
    id: str
    score: float


@dataclass(frozen=True)
class Finding:
    """What one gate found.

    Attributes:
        gate: Its name.
        rows: Rows that it concerns, in order.
        groups: Rows that are the same, for gates that compare rows with each other.
        matches: Pairs with evaluation problems, for gates that compare with those.
        note: What else it says, a sentence.
    """

    gate: str
    rows: list[int]
    groups: list[list[int]] = field(default_factory=list)
    matches: list[Match] = field(default_factory=list)
    note: str = ""


@dataclass(frozen=True)
class Verdict:
    """What is left of a set.

    Attributes:
        keep: Whether each row stays.
        dropped: Rows that each gate left out, those that one before it left out not counted again.
    """

    keep: list[bool]
    dropped: dict[str, list[int]]


def inspect(
    table: pa.Table,
    gates: Gates,
    benchmarks: Mapping[str, pa.Table],
    tokens: Callable[[Mapping[str, Any]], int],
    max_prompt_length: int,
) -> list[Finding]:
    """What each gate finds in a training set, in the order of `conf.schema.GATES`.

    Args:
        table: Columns of `tasks.artifacts.COLUMNS`.
        gates: Their settings.
        benchmarks: The evaluation sets by name, of the same columns.
        tokens: Tokens of a row's prompt, see `tasks.prompt_lengths.counter`.
        max_prompt_length: The longest prompt admitted, in tokens.
    """
    questions, answers = table["question"].to_pylist(), table["answers"].to_pylist()
    found = [
        *_same_rows(questions, answers),
        _conflicts(questions, answers),
        _ungradable(answers),
        _unparsable(answers, gates.workers),
        _overlong(table, tokens, max_prompt_length),
        *_overlaps(questions, gates, benchmarks),
    ]
    return sorted(found, key=lambda finding: GATES.index(finding.gate))


def judge(rows: int, findings: Iterable[Finding], gates: Gates, ids: Sequence[str]) -> Verdict:
    """Which rows stay, by each gate's action.

    Raises:
        ValueError: a gate with the action `fail` found something, or no row is left.
    """
    by_gate = {finding.gate: finding for finding in findings}
    keep, dropped = [True] * rows, {}
    for gate in ORDER:
        finding, action = by_gate[gate], gates.action(gate)
        if action == "fail" and finding.rows:
            shown = ", ".join(ids[row] for row in finding.rows[:5])
            raise ValueError(
                f"gate {gate} found {len(finding.rows)} of {rows} rows (first: {shown}), needed "
                f"none\n\nhint: mend the source, or set gates.{gate}=drop"
            )
        out = []
        if action == "drop":
            out = [row for row in finding.rows if keep[row]]
        elif action == "keep-first":
            for group in finding.groups:
                out += [row for row in group if keep[row]][1:]
        for row in out:
            keep[row] = False
        dropped[gate] = sorted(out)
    if not any(keep):
        counts = ", ".join(f"{gate} {len(out)}" for gate, out in dropped.items() if out)
        raise ValueError(
            f"the gates leave none of {rows} rows ({counts})\n\nhint: gates=as_published keeps "
            "and reports them; or look at the source"
        )
    return Verdict(keep, dropped)


def _groups(keys: Iterable[Any]) -> list[list[int]]:
    """Rows of one key, where there are several, in the order of their first."""
    rows: dict[Any, list[int]] = defaultdict(list)
    for row, key in enumerate(keys):
        rows[key].append(row)
    return [group for group in rows.values() if len(group) > 1]


def _flat(groups: Iterable[Iterable[int]]) -> list[int]:
    return sorted(row for group in groups for row in group)


def _same_rows(questions: Sequence[str], answers: Sequence[Sequence[str]]) -> list[Finding]:
    pairs = list(zip(questions, map(tuple, answers), strict=True))
    same = _groups(pairs)
    alike = _groups(map(overlap.question_key, questions))
    return [
        Finding(
            "exact_duplicates",
            _flat(same),
            same,
            note=f"{len(set(pairs)):,} distinct pairs of question and answers, "
            f"{len(set(questions)):,} distinct questions",
        ),
        Finding(
            "normalized_duplicates",
            _flat(alike),
            alike,
            note=f"{len(questions) - sum(len(g) - 1 for g in alike):,} distinct questions where "
            "case, spaces and typesetting do not count",
        ),
    ]


def _conflicts(questions: Sequence[str], answers: Sequence[Sequence[str]]) -> Finding:
    def differing(keys: Iterable[str]) -> list[list[int]]:
        return [
            group
            for group in _groups(keys)
            if len({tuple(answers[row]) for row in group if answers[row]}) > 1
        ]

    # By the key of `normalized_duplicates`, which would else keep whichever answer comes first.
    alike = differing(map(overlap.question_key, questions))
    real = [group for group in alike if _told_apart([answers[row] for row in group])]
    return Finding(
        "conflicting_answers",
        _flat(real),
        real,
        note=f"{things(len(alike), 'question')} with answers that are written differently "
        f"({len(differing(questions)):,} where the question is the same to the letter), and "
        f"{len(real):,} with answers that the grader finds unequal",
    )


def _told_apart(accepted: Sequence[Sequence[str]]) -> bool:
    stated = [answers for answers in accepted if answers]
    return any(
        not any(_right(answer, stated[0]) or _right(stated[0][0], [answer]) for answer in answers)
        for answers in stated[1:]
    )


def _right(answer: str, truths: Sequence[str]) -> bool:
    return grade(f"</think>\\boxed{{{answer}}}", truths).correct


def _ungradable(answers: Sequence[Sequence[str]]) -> Finding:
    known: dict[tuple[str, ...], bool] = {}
    rows = []
    for row, accepted in enumerate(map(tuple, answers)):
        if accepted not in known:
            known[accepted] = any(
                answer_is_parsable(answer) and _right(answer, [answer]) for answer in accepted
            )
        if not known[accepted]:
            rows.append(row)
    empty = sum(not accepted for accepted in answers)
    return Finding("ungradable_answers", rows, note=f"{things(empty, 'row')} without any answer")


def _unparsable(answers: Sequence[Sequence[str]], workers: int) -> Finding:
    distinct = sorted({answer for accepted in answers for answer in accepted})
    asked = [answer for answer in distinct if answer_is_parsable(answer) and number(answer) is None]
    outcomes = dict(zip(asked, _compared(asked, workers), strict=True))
    bad = {answer for answer, outcome in outcomes.items() if outcome in _UNREAD}
    slow = sum(outcome is Outcome.TIMEOUT for outcome in outcomes.values())
    rows = [
        row
        for row, accepted in enumerate(answers)
        if accepted and all(answer in bad for answer in accepted)
    ]
    return Finding(
        "unparsable_answers",
        rows,
        note=f"of {things(len(asked), 'distinct answer')} that are not plain numbers, the symbolic "
        f"parser cannot read {len(bad):,}{f' ({slow:,} took too long)' if slow else ''}",
    )


def _compared(answers: Sequence[str], workers: int) -> list[Outcome]:
    """What math-verify makes of each answer. Beside itself each would be equal as text."""
    if not answers:
        return []
    pool = Pool(Limits(workers=workers))
    try:
        # Threads, for each waits for a process of its own.
        with ThreadPoolExecutor(workers) as threads:
            return list(threads.map(lambda answer: pool.compare(answer, [_OTHER]), answers))
    finally:
        pool.close()


def _overlong(table: pa.Table, tokens: Callable[[Mapping], int], limit: int) -> Finding:
    lengths = [
        tokens(row)
        for batch in table.select(["prompt"]).to_batches(4096)
        for row in batch.to_pylist()
    ]
    rows = [row for row, length in enumerate(lengths) if length > limit]
    longest = f", the longest has {max(lengths):,}" if rows else ""
    return Finding("overlong_prompts", rows, note=f"limit {limit:,} tokens{longest}")


def _overlaps(
    questions: Sequence[str], gates: Gates, benchmarks: Mapping[str, pa.Table]
) -> list[Finding]:
    problems = [
        (name, id_, text)
        for name, problems in benchmarks.items()
        for id_, text in zip(
            problems["id"].to_pylist(), problems["question"].to_pylist(), strict=True
        )
    ]
    texts = [text for _, _, text in problems]
    found = {
        "overlap_exact": overlap.exact(questions, texts),
        "overlap_ngrams": overlap.shared_grams(questions, texts, gates.ngram, gates.ngram_share),
        "overlap_minhash": overlap.near_duplicates(questions, texts, gates.similarity),
    }
    notes = {
        "overlap_exact": "same letters and digits as an evaluation problem",
        "overlap_ngrams": f"{gates.ngram_share:.0%} or more of an evaluation problem's "
        f"{gates.ngram}-grams of words",
        "overlap_minhash": f"Jaccard similarity of word triples {gates.similarity:g} or more",
    }
    return [
        Finding(
            gate,
            sorted({pair.row for pair in pairs}),
            matches=[
                Match(pair.row, *problems[pair.against][:2], round(pair.score, 4)) for pair in pairs
            ],
            note=notes[gate],
        )
        for gate, pairs in found.items()
    ]


def matrix(
    findings: Iterable[Finding], rows: Mapping[str, np.ndarray], benchmarks: Iterable[str]
) -> dict[str, dict[str, dict[str, int]]]:
    """Evaluation problems that each prompt set holds: set, benchmark, gate to problems.

    Args:
        findings: Those of the overlap gates are used.
        rows: By name of a set, which rows [N] of the whole are in it.
        benchmarks: Names of the evaluation sets.
    """
    overlaps = [finding for finding in findings if finding.gate.startswith("overlap_")]
    return {
        name: {
            benchmark: {
                finding.gate: len(
                    {
                        match.id
                        for match in finding.matches
                        if match.benchmark == benchmark and inside[match.row]
                    }
                )
                for finding in overlaps
            }
            for benchmark in benchmarks
        }
        for name, inside in rows.items()
    }


def told(
    findings: Iterable[Finding], verdict: Verdict, gates: Gates, ids: Sequence[str]
) -> list[dict[str, Any]]:
    """The findings in full, as JSON can hold them: rows by their ids, no problem's text."""
    return [
        {
            "gate": finding.gate,
            "action": gates.action(finding.gate),
            "found": len(finding.rows),
            "dropped": len(verdict.dropped[finding.gate]),
            "note": finding.note,
            "rows": [ids[row] for row in finding.rows],
            "groups": [[ids[row] for row in group] for group in finding.groups],
            "matches": [
                {"id": ids[m.row], "benchmark": m.benchmark, "problem": m.id, "score": m.score}
                for m in finding.matches
            ],
            "dropped_rows": [ids[row] for row in verdict.dropped[finding.gate]],
        }
        for finding in findings
    ]
