"""What is there, what would be done, and what is no longer needed: the `stagecraft` command.

stagecraft plan experiment=lab/fastcurl stages.1.steps=20
stagecraft status --output outputs
stagecraft gc --output outputs --keep experiment=lab/fastcurl
stagecraft reindex --output outputs --store sqlite:///fresh.db
stagecraft compare lab_fastcurl-seed0 my_rloo-seed0
stagecraft up
"""

import argparse
import json
import os
import shlex
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from conf.help import told
from conf.load import load
from conf.overrides import asked, written
from flows import services
from tasks.disk import readable
from tasks.words import ABSENT, duration, plain, table, things


def main(arguments: Sequence[str] | None = None) -> int:
    """Run a command line; errors end with a message, not a trace.

    Returns:
        Exit code: 0 done, 1 failed, 2 refused, 130 interrupted.
    """
    words = sys.argv[1:] if arguments is None else list(arguments)
    part = asked(words) if words[:1] == ["plan"] else None
    if part and not part.startswith("-"):
        try:
            _say(told(part))
        except ValueError as error:
            print(f"\n{error}", file=sys.stderr)
            return 2
        return 0
    parser = _parser()
    given, more = parser.parse_known_args(arguments)
    # Settings may stand before and after options; argparse takes only the first stretch.
    if more and (given.command != "plan" or any(word.startswith("-") for word in more)):
        meant = "; a plan takes output=FOLDER" if "--output" in more and words[0] == "plan" else ""
        parser.error(f"unrecognized arguments: {' '.join(more)}{meant}")
    if more:
        given.settings += more
    try:
        return given.run(given)
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:  # `| head` has seen enough; nothing more is to be flushed
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except ValueError as error:
        print(f"\n{error}", file=sys.stderr)
        return 2
    except Exception as error:  # a disk, or MLflow's store
        print(f"\n{type(error).__name__}: {error}", file=sys.stderr)
        return 1


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="stagecraft", description="Curriculum RL: what is on disk and what a run would do."
    )
    commands = parser.add_subparsers(dest="command", required=True, metavar="COMMAND")

    def command(name: str, run: Any, what: str, more: str) -> argparse.ArgumentParser:
        made = commands.add_parser(name, help=what, description=f"{what}. {more}")
        made.set_defaults(run=run)
        return made

    planned = command(
        "plan",
        _plan,
        "Show which stages a run would train, resume or find done, and why",
        "Runs and downloads nothing. --help PART tells settings, as in --help stages.",
    )
    planned.add_argument(
        "settings", nargs="*", metavar="KEY=VALUE", help="as for python -m flows.pipeline"
    )
    planned.add_argument(
        "--settings", dest="settings_of_verl", action="store_true",
        help="show every setting that verl gets, not those of learning alone",
    )  # fmt: skip
    shown = command("status", _status, "Show runs and stages on disk", "Trains nothing.")
    cleaned = command(
        "gc",
        _gc,
        "List what nothing refers to: leftovers, unfinished stages, states of finished ones",
        "Deletes only with --delete, and never what a process holds.",
    )
    cleaned.add_argument("--delete", action="store_true", help="delete what is listed")
    cleaned.add_argument(
        "--keep", nargs="+", action="append", default=[], metavar="KEY=VALUE",
        help="settings of an experiment whose stages, data and scores stay; may be repeated",
    )  # fmt: skip
    cleaned.add_argument(
        "--older-than", type=float, default=24, metavar="HOURS",
        help="spare what was written to since (default: 24)",
    )  # fmt: skip
    compared = command(
        "compare",
        _compare,
        "Compare two runs on the same problems: differences, intervals, power, budgets",
        "Runs are named as their folders below reports/ are: lab_fastcurl-seed0.",
    )
    compared.add_argument("runs", nargs=2, metavar="RUN", help="a run; the first is the baseline")
    compared.add_argument(
        "--html", default="", type=os.path.expanduser, metavar="FOLDER",
        help="write the report there too",
    )  # fmt: skip
    indexed = command(
        "reindex",
        _reindex,
        "Rebuild MLflow's runs from what is on disk",
        "Runs that are there are completed, not repeated: it may be run again.",
    )
    indexed.add_argument(
        "--store", default="", metavar="URI",
        help="MLflow store (default: MLFLOW_TRACKING_URI, or mlflow.db in the output folder)",
    )  # fmt: skip
    services.add_to(commands)
    for each in (shown, cleaned, indexed, compared):
        each.add_argument(
            "--output", default="outputs", type=os.path.expanduser, metavar="FOLDER",
            help="output folder (default: outputs)",
        )  # fmt: skip
    for each in (planned, shown, cleaned, compared):
        each.add_argument("--json", action="store_true", help="print JSON")
    return parser


# --- plan --------------------------------------------------------------------------------------


def _plan(given: argparse.Namespace) -> int:
    from flows.plan import plan_text
    from tasks.plan import plan

    result = plan(load(*given.settings))
    text = plan_text(result, whole=given.settings_of_verl)
    _say(json.dumps(asdict(result), indent=2) if given.json else text)
    if result.refused:
        print(f"\na run would be refused:\n{result.refused}", file=sys.stderr)
    return 2 if result.refused else 0


# --- status, gc, reindex -----------------------------------------------------------------------


def _status(given: argparse.Namespace) -> int:
    from tasks.status import status

    found = status(given.output)
    if given.json:
        _say(json.dumps(asdict(found), indent=2))
        return 0
    if not found.stages and not found.runs:
        _say(f"{given.output} holds no runs and no stages yet")
        return 0
    runs = [["run", "stages finished", "report"]]
    runs += [
        [
            f"{run.name} seed {run.seed}",
            f"{run.finished}/{'?' if run.stages is None else run.stages}",
            run.report or ABSENT,
        ]
        for run in found.runs
    ]
    stages = [["stage", "outcome", "steps", "reward", "when", "took", "disk", "checkpoint"]]
    stages += [
        [
            stage.folder,
            stage.outcome,
            f"{stage.steps}/{stage.steps_asked or '?'}",
            ABSENT if stage.reward is None else f"{stage.reward:.2f}",
            _when(stage.when),
            duration(stage.seconds),
            readable(stage.bytes),
            stage.checkpoint,
        ]
        for stage in found.stages
    ]
    reasons = [f"{stage.folder}: {stage.reason}" for stage in found.stages if stage.reason]
    blocks = [table(runs, left=1), table(stages, left=2), reasons, found.remarks]
    _say("\n\n".join("\n".join(block) for block in blocks if len(block) > 0))
    return 0


def _gc(given: argparse.Namespace) -> int:
    from tasks.stages import read_manifests
    from tasks.unreferenced import delete, unreferenced

    for remark in read_manifests(Path(given.output).absolute())[1]:
        print(remark, file=sys.stderr)
    keep = [load(*settings, f"output={written(given.output)}") for settings in given.keep]
    found = unreferenced(given.output, keep=keep, older_than=3_600 * given.older_than)
    if given.delete:
        found = [delete(one) for one in found]
    if given.json:
        _say(json.dumps([asdict(one) for one in found], indent=2))
        return 0
    if not found:
        newer = unreferenced(given.output, keep=keep, older_than=0) if given.older_than else []
        newer = [one for one in newer if not one.spared]
        old = f"older than {given.older_than:g} h " if newer else ""
        young = f"; {_size(newer)} is newer (--older-than 0)" if newer else ""
        _say(f"{given.output} holds nothing {old}that is not needed{young}")
        return 0
    rows = [["size", "what", "why"]]
    rows += [
        [readable(one.bytes), one.path + (f" [{one.spared}]" if one.spared else ""), one.why]
        for one in found
    ]
    total = _size([one for one in found if not one.spared])
    last = f"deleted {total}" if given.delete else f"{total}; nothing deleted, add --delete"
    _say("\n".join([*table(rows, left=3), "", last]))
    return 0


def _size(found: Sequence[Any]) -> str:
    return f"{readable(sum(one.bytes for one in found))} in {things(len(found), 'place')}"


def _reindex(given: argparse.Namespace) -> int:
    from tasks.reindex import reindex

    done = reindex(given.output, store=given.store)
    for remark in done.remarks:
        _say(remark)
    _say(
        f"{done.store}: added {things(done.stages, 'run')} of stages and "
        f"{done.evaluations} of evaluations; {done.found} were there"
    )
    return 0


def _compare(given: argparse.Namespace) -> int:
    from tasks.pair import pair

    found, shared = pair(given.output, *given.runs)
    if given.html:
        from tasks.study_report import write_study_report

        command = shlex.join(["stagecraft", "compare", *given.runs, "--output", given.output])
        written = write_study_report(found, shared, folder=given.html, command=command)
        print(f"report: {written.html}", file=sys.stderr)
    if given.json:
        from tasks.page import without_nan

        arms = {name: on.arms for name, on in found.benchmarks.items()}
        _say(json.dumps(without_nan(arms), indent=2))
    else:
        from tasks.study_verdict import terminal

        _say(terminal(found, shared))
    return 0


# --- how it looks ------------------------------------------------------------------------------


def _when(moment: float | None) -> str:
    return ABSENT if moment is None else time.strftime("%Y-%m-%d %H:%M", time.localtime(moment))


def _say(text: str) -> None:
    encoding = sys.stdout.encoding or "ascii"
    try:
        text.encode(encoding)
    except UnicodeEncodeError:
        text = plain(text)
    print(text)


if __name__ == "__main__":
    sys.exit(main())
