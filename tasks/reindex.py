"""Rebuild MLflow's runs from what is on disk: manifests and metrics are the truth, it is an index.

What is there already, found by its digest, is left alone: so this may be repeated, on a fresh
store or on one that lost some runs.
"""

from collections import defaultdict
from collections.abc import Iterable, Mapping
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks import artifacts
from tasks.artifacts import read_json
from tasks.evaluate import MANIFEST as EVALUATION
from tasks.evaluate import evaluation_digest
from tasks.labels import flat, lineage_tags
from tasks.stages import experiment_of, read_manifests
from tasks.status import evaluations
from tasks.track import Tracker, store_uri
from trainer.records import read_records

NEEDED = ("benchmark", "checkpoint", "data_digest", "sampling", "problems", "metrics", "seconds",
          "environment")  # fmt: skip
NAMELESS = "reindexed"
"""Experiment of what no manifest gives one."""


@dataclass(frozen=True)
class ListedData:
    """A data set as a manifest tells of it; its folder may be gone."""

    name: str
    path: Path
    digest: str
    rows: int
    manifest: dict[str, Any]


@dataclass
class Item:
    """A finished stage or evaluation, and what its run is to say.

    Attributes:
        kind: "stage" or "evaluation".
        name: Name of its run.
        digest: Digest that its run is found by, or the first 12 digits of one.
        params: Flat settings.
        tags: For `lineage_tags`, but for the run that it follows.
        data: What it read.
        started: When it began, in seconds since 1970.
        ended: When it ended.
        records: Metrics by step.
        metrics: Metrics without a step.
        reads: Digest of the checkpoint that it starts from or scores.
        checkpoint: Folder of the checkpoint that it made; None if there is none.
        makes: Digest of that checkpoint, or "".
        step: Steps that made it.
    """

    kind: str
    name: str
    digest: str
    params: dict[str, Any]
    tags: dict[str, str]
    data: ListedData
    started: float
    ended: float
    reads: str
    records: list[dict] = field(default_factory=list)
    metrics: dict[str, float] = field(default_factory=dict)
    checkpoint: Path | None = None
    makes: str = ""
    step: int = 0


@dataclass
class Reindexed:
    """What was done: the store, runs added of each kind, runs found there, what could not be read.

    Attributes:
        store: URI of the store.
        stages: Runs of stages that were added.
        evaluations: Runs of evaluations that were added.
        found: Runs that were there already.
        remarks: What was left out, and why.
    """

    store: str
    stages: int = 0
    evaluations: int = 0
    found: int = 0
    remarks: list[str] = field(default_factory=list)


def reindex(output: Path | str, store: str = "") -> Reindexed:
    """Put every finished stage and evaluation of an output folder into MLflow, if it is not there.

    Each becomes a child of a run "reindexed <output>" of the experiment that trained it, with the
    same name, settings, metrics by step, data, lineage and checkpoint as when it was made. Scores
    of a base model go to every experiment that started from it.

    Args:
        output: The output folder. Nothing in it is changed but damaged manifests, kept aside.
        store: URI of the MLflow store; default: `store_uri(output)`.

    Raises:
        ValueError: there is no such folder.
    """
    output = Path(output).absolute()
    if not output.is_dir():
        raise ValueError(f"no folder {output}\n\nhint: name the folder of your runs with --output")
    done = Reindexed(store or store_uri(output))
    for name, items in sorted(_items(output, done.remarks).items()):
        once = list({item.digest: item for item in items}.values())  # a copied folder adds nothing
        _index(Tracker(output, name, done.store), output, once, done)
    return done


def _index(tracker: Tracker, output: Path, items: list[Item], done: Reindexed) -> None:
    there = {item.digest: tracker.finished_runs(item.digest[:12], kind=item.kind) for item in items}
    run_of = {item.makes: there[item.digest][0] for item in items if there[item.digest]}
    missing = [item for item in items if not there[item.digest]]
    done.found += len(items) - len(missing)
    if not missing:
        return
    earlier = tracker.finished_runs(reindexed=str(output))
    tags = lineage_tags(reindexed=str(output))
    parent = (
        nullcontext(earlier[0])
        if earlier
        else tracker.pipeline_run({}, tags, name=f"reindexed {output}")
    )
    with parent as parent_id:
        for item in missing:
            run_of[item.makes] = _add(tracker, parent_id, item, run_of.get(item.reads, ""))
            if item.kind == "stage":
                done.stages += 1
            else:
                done.evaluations += 1


def _add(tracker: Tracker, parent_id: str, item: Item, upstream: str) -> str:
    with tracker.past_run(
        parent_id,
        item.name,
        item.kind,
        item.params,
        lineage_tags(config_digest=item.digest, upstream_run=upstream, **item.tags),
        [item.data],
        started=item.started,
        ended=item.ended,
    ) as run:
        run.log_records(item.records)
        run.log_metrics(item.metrics)
        if item.checkpoint:
            run.log_checkpoint(item.checkpoint, item.makes, step=item.step)
    return run.run_id


def _items(output: Path, remarks: list[str]) -> dict[str, list[Item]]:
    """Everything finished by the name of its experiment: stages in order of time, then scores."""
    data = {dataset.digest: dataset for dataset in _data(output)}
    found: dict[str, list[Item]] = defaultdict(list)
    makers: dict[str, tuple[str, str]] = {}  # checkpoint digest: experiment, stage
    starters: dict[str, set[str]] = defaultdict(set)  # checkpoint digest: experiments
    manifests, damaged = read_manifests(output)
    remarks += damaged
    for folder, manifest in manifests.items():
        if manifest is None:
            continue
        name = experiment_of(folder, manifest)[0] or NAMELESS
        starters[manifest["identity"]["start"]].add(name)
        if manifest["outcome"] != "finished":
            continue
        try:
            item = _stage(folder, manifest, data)
        except (ValueError, KeyError, TypeError) as error:
            remarks.append(
                f"{folder.name} is left out, its metrics or manifest are damaged: {error}"
            )
            continue
        if item.checkpoint is None:
            remarks.append(f"{folder.name}: its checkpoint is gone, its run names none")
        makers[item.makes] = (name, item.name)
        found[name].append(item)
    for items in found.values():
        items.sort(key=lambda item: item.ended)
    for folder, manifest in evaluations(output).items():
        if set(NEEDED) - manifest.keys():
            remarks.append(f"{folder.name} is left out, its manifest is damaged")
            continue
        read = manifest["checkpoint"]["digest"]
        made_in = Path(manifest["checkpoint"]["path"]).parent
        # Of a stage that is gone or was moved aside only the folder's name is left.
        unmade = made_in.name if made_in.parent.name == "stages" else "base"
        experiment, label = makers.get(read, ("", unmade))
        for name in [experiment] if experiment else sorted(starters[read]) or [NAMELESS]:
            found[name].append(_evaluation(folder, manifest, label, data))
    return found


def _data(output: Path) -> Iterable[ListedData]:
    for path in sorted((output / "data").glob(f"[!.]*/{artifacts.MANIFEST}")):
        try:
            manifest = read_json(path)
            prompts = path.with_name(artifacts.PROMPTS)
            yield ListedData(
                manifest["name"], prompts, manifest["digest"], manifest["rows"], manifest
            )
        except (ValueError, KeyError, TypeError):
            continue


def _stage(folder: Path, manifest: Mapping[str, Any], data: Mapping[str, ListedData]) -> Item:
    settings, read = manifest["settings"], manifest["data"]
    attempt = manifest["attempts"][-1]
    checkpoint = folder / "checkpoint"
    records = read_records(folder / "metrics.jsonl")
    return Item(
        kind="stage",
        name=manifest["name"],
        digest=manifest["digest"],
        params=flat({key: settings[key] for key in ("stage", "method", "seed")}),
        tags={
            "git_commit": manifest["environment"]["git_commit"],
            "start_digest": manifest["identity"]["start"],
            "first_step": str(records[0]["step"]) if records else "",
            "original_run": manifest.get("mlflow_run_id", ""),
        },
        data=data.get(read["digest"]) or _gone(read["name"], read["digest"], read["rows"]),
        started=manifest["attempts"][0]["started"],
        ended=attempt.get("ended", attempt["started"]),
        reads=manifest["identity"]["start"],
        records=records,
        checkpoint=checkpoint if checkpoint.is_dir() else None,
        makes=manifest["checkpoint"]["digest"],
        step=manifest["steps"],
    )


def _evaluation(
    folder: Path, manifest: Mapping[str, Any], label: str, data: Mapping[str, ListedData]
) -> Item:
    name, read = manifest["benchmark"], manifest["checkpoint"]["digest"]
    ended = (folder / EVALUATION).stat().st_mtime
    digest = evaluation_digest(read, manifest["data_digest"], manifest["sampling"])
    if not folder.name.endswith(digest[:12]):  # made when the digest covered something else
        digest = folder.name.rpartition("-")[2]
    return Item(
        kind="evaluation",
        name=f"{label} on {name}",
        digest=digest,
        params=flat({"evaluation": manifest["sampling"], "checkpoint": label, "benchmark": name}),
        tags={"git_commit": manifest["environment"]["git_commit"], "checkpoint_digest": read},
        data=data.get(manifest["data_digest"])
        or _gone(name, manifest["data_digest"], manifest["problems"]),
        started=ended - manifest["seconds"],
        ended=ended,
        reads=read,
        metrics={f"eval/{name}/{key}": value for key, value in manifest["metrics"].items()},
    )


def _gone(name: str, digest: str, rows: int) -> ListedData:
    return ListedData(name, Path("deleted") / name, digest, rows, {})
