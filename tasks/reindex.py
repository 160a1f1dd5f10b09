"""Rebuild MLflow's runs from what is on disk: journals, manifests and metrics are the truth.

First every journal (`runs/*/run.json`) is delivered, as its own process would have done; then what
is told by no journal, because it was lost or made before there were any: each attempt at a stage,
and each score, by their manifests. What is there already is left alone or completed: so this may
be repeated, on a fresh store or on one that lost some runs.
"""

from collections import defaultdict
from collections.abc import Mapping
from dataclasses import dataclass, field
from errno import EACCES, EPERM, EROFS
from pathlib import Path
from typing import Any

from tasks import artifacts
from tasks.artifacts import digest_of, read_json
from tasks.attempts import records_of, stage_runs
from tasks.evaluate import evaluation_digest
from tasks.evaluations import MANIFEST as EVALUATION
from tasks.evaluations import read_evaluations
from tasks.journal import FOLDER, Journal, Run, journals
from tasks.labels import flat, lineage_tags
from tasks.stages import experiment_of, held_for_deletion, locked, read_manifests
from tasks.track import store_uri
from tasks.track_reach import StoreAwayError
from tasks.track_store import Store

NAMELESS = "reindexed"
"""Experiment of what no manifest gives one."""
REINDEXING = ".reindex.lock"  # in the output folder: held by the process that reindexes it


@dataclass
class Reindexed:
    """What was done: the store, runs added of each kind, runs found there, what could not be read.

    Attributes:
        store: URI of the store.
        stages: Runs of stages that were added: one for each attempt, and each time it was found.
        evaluations: Runs of evaluations that were added.
        found: Runs of stages and evaluations that were there already.
        remarks: What was left out, and why.
    """

    store: str
    stages: int = 0
    evaluations: int = 0
    found: int = 0
    remarks: list[str] = field(default_factory=list)


def reindex(output: Path | str, store: str = "") -> Reindexed:
    """Make MLflow say of an output folder's runs what the folder says.

    Runs of pipelines come back with their stages, scores and reports. A stage or score of no
    pipeline that is known becomes a child of a run "reindexed <output>" of the experiment that
    trained it; scores of a base model go to every experiment that started from it.

    Args:
        output: The output folder. Damaged manifests in it are kept aside, and runs of processes
            that died are marked interrupted; nothing else in it is changed. A second call waits
            until the first is done.
        store: URI of the MLflow store; default: `store_uri(output)`.

    Raises:
        ValueError: there is no such folder, or MLflow cannot be reached, or the folder cannot be
            written to: a run is held while it is sent, and MLflow's files lie there.
    """
    output = Path(output).absolute()
    if not output.is_dir():
        raise ValueError(f"no folder {output}\n\nhint: name the folder of your runs with --output")
    done = Reindexed(store or store_uri(output))
    target = Store(done.store, output)
    try:
        # Two at a time would each add what neither finds in the store.
        with locked(output / REINDEXING, f"{output} is being reindexed"):
            known = _deliver(output, target, done)
            for name, items in sorted(_items(output, done.remarks).items()):
                untold = [run for run in items if _key(name, run) not in known]
                _add(output, name, untold, target, done)
    except StoreAwayError as error:
        raise ValueError(
            f"MLflow at {done.store} takes nothing: {error}\n\n"
            "hint: start it, or name another store with --store; then run this again"
        ) from error
    except OSError as error:
        if error.errno not in (EACCES, EPERM, EROFS):
            raise
        raise ValueError(
            f"{error.filename} cannot be written ({error.strerror}): each run is held while it is "
            f"sent, so that no two send it\n\nhint: copy {output}, and reindex the copy"
        ) from error
    done.stages, done.evaluations = target.made["stage"], target.made["evaluation"]
    done.found -= done.stages + done.evaluations
    return done


def _key(experiment: str, run: Run) -> tuple[str, ...]:
    """What makes two tellings of a stage's attempt, or of a score, the same."""
    if run.kind == "stage":
        return ("stage", run.id)
    return (experiment, run.tags.get("stagecraft.config_digest", "")[:12])  # a study's have none


def _deliver(output: Path, store: Store, done: Reindexed) -> set[tuple[str, ...]]:
    """Put every journal; which attempts and scores they tell of."""
    known = set()
    for folder in journals(output):
        try:
            journal = Journal.read(folder)
            with held_for_deletion(folder) as ours:
                if ours:
                    journal = Journal.read(folder)
                    if journal.close():
                        journal.write()
                    _put(journal, store, done)
                else:
                    done.remarks.append(f"{folder.name} is at work, it tells MLflow itself")
        except ValueError as error:
            done.remarks.append(f"{folder.name} is left out: {error}")
            continue
        known |= {
            _key(journal.experiment, run)
            for run in journal.children
            if run.kind == "stage" or run.outcome == "finished"
        }
    return known


def _put(journal: Journal, store: Store, done: Reindexed) -> None:
    def records(run: Run) -> list[dict[str, Any]]:
        try:
            return records_of(journal.output, run)
        except ValueError as error:
            done.remarks.append(f"{run.name}: its metrics are damaged: {error}")
            return []

    store.put(journal, records)
    done.found += len(journal.children)


def _add(output: Path, name: str, items: list[Run], store: Store, done: Reindexed) -> None:
    """Put what no journal tells of, below a run of its own."""
    parent = f"reindexed-{digest_of([str(output), name])[:12]}"
    for run in items:
        if run.kind == "evaluation":
            run.id = f"{parent}/{run.tags['stagecraft.config_digest'][:12]}"
    told = store.told(name) if items else []
    ids = {tags.get("stagecraft.id", "") for _, tags in told}
    # Early runs have no id of ours, and journals get lost: one that ended well is recognised.
    finished = {
        (tags.get("stagecraft.kind"), tags.get("stagecraft.config_digest", "")[:12])
        for status, tags in told
        if status == "FINISHED" and tags.get("stagecraft.id") not in {run.id for run in items}
    }
    untold = [run for run in items if (run.kind, _digest(run)) not in finished]
    done.found += len(items) - len(untold)
    if not untold or (parent not in ids and all(run.id in ids for run in untold)):
        done.found += len(untold)
        return
    began, ended = min(r.started for r in untold), max(r.ended or r.started for r in untold)
    tags = lineage_tags(reindexed=str(output))
    run = Run(parent, "pipeline", f"reindexed {output}", tags=tags, started=began)
    run.end("finished", ended=ended)
    _put(Journal(output / FOLDER / parent, name, store.uri, run, untold), store, done)


def _digest(run: Run) -> str:
    return run.tags["stagecraft.config_digest"][:12]


def _items(output: Path, remarks: list[str]) -> dict[str, list[Run]]:
    """Every attempt and score, by its experiment's name: stages in order of time, then scores."""
    data = _data(output)
    found: dict[str, list[Run]] = defaultdict(list)
    makers: dict[str, tuple[str, str]] = {}  # checkpoint digest: experiment, stage
    starters: dict[str, set[str]] = defaultdict(set)  # checkpoint digest: experiments
    manifests, damaged = read_manifests(output)
    remarks += damaged
    for folder, manifest in manifests.items():
        if manifest is None:
            continue
        name = experiment_of(folder, manifest)[0] or NAMELESS
        starters[manifest["identity"]["start"]].add(name)
        try:
            read = manifest["data"]
            described = data.get(read["digest"]) or _gone(**read)
            attempts = stage_runs(folder, manifest, described)
        except (ValueError, KeyError, TypeError) as error:
            remarks.append(f"{folder.name} is left out, its manifest is damaged: {error!r}")
            continue
        if manifest["outcome"] == "finished":
            makers[manifest["checkpoint"]["digest"]] = (name, manifest["name"])
            if attempts and attempts[-1].checkpoint is None:
                remarks.append(f"{folder.name}: its checkpoint is gone, its run names none")
        found[name] += [run for run in attempts if run.outcome != "running"]
    for items in found.values():
        items.sort(key=lambda run: run.ended or run.started)
    scored, damaged = read_evaluations(output)
    remarks += damaged
    for folder, manifest in scored.items():
        read = manifest["checkpoint"]["digest"]
        made_in = Path(manifest["checkpoint"]["path"]).parent
        # Of a stage that is gone or was moved aside only the folder's name is left.
        unmade = made_in.name if made_in.parent.name == "stages" else "base"
        experiment, label = makers.get(read, ("", unmade))
        for name in [experiment] if experiment else sorted(starters[read]) or [NAMELESS]:
            found[name].append(_evaluation(folder, manifest, label, data))
    return found


def _data(output: Path) -> dict[str, dict[str, Any]]:
    """Data sets that are there, by their digests, as runs hold them."""
    found = {}
    for path in sorted((output / "data").glob(f"[!.]*/{artifacts.MANIFEST}")):
        try:
            read = {key: read_json(path)[key] for key in ("name", "digest", "rows", "columns")}
        except (ValueError, KeyError, TypeError):
            continue
        found[read["digest"]] = {**read, "path": str(path.with_name(artifacts.PROMPTS))}
    return found


def _gone(name: str, digest: str, rows: int) -> dict[str, Any]:
    path = str(Path("deleted").absolute() / name)
    return {"name": name, "path": path, "digest": digest, "rows": rows, "columns": []}


def _evaluation(
    folder: Path, manifest: Mapping[str, Any], label: str, data: Mapping[str, dict[str, Any]]
) -> Run:
    name, read = manifest["benchmark"], manifest["checkpoint"]["digest"]
    ended = (folder / EVALUATION).stat().st_mtime
    digest = evaluation_digest(read, manifest["data_digest"], manifest["sampling"])
    if not folder.name.endswith(digest[:12]):  # made when the digest covered something else
        digest = folder.name.rpartition("-")[2]
    scores = {f"eval/{name}/{key}": value for key, value in manifest["metrics"].items()}
    return Run(
        "",
        "evaluation",
        f"{label} on {name}",
        params=flat({"evaluation": manifest["sampling"], "checkpoint": label, "benchmark": name}),
        tags=lineage_tags(
            config_digest=digest,
            git_commit=manifest["environment"]["git_commit"],
            checkpoint_digest=read,
        ),
        started=ended - manifest["seconds"],
        ended=ended,
        outcome="finished",
        datasets=[
            data.get(manifest["data_digest"])
            or _gone(name, manifest["data_digest"], manifest["problems"])
        ],
        metrics=[{"step": 0, "time": ended, **scores}],
    )
