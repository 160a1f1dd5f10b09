"""Runs of pipelines, stages and evaluations, for MLflow to show; none of them waits for MLflow.

A pipeline is a parent run; each attempt at a stage, and each evaluation, is a child run. What they
say is written to disk first (`tasks/journal.py`) and sent from there. While MLflow is away nothing
stops: it is sent when MLflow answers again, or by the next run, or by `stagecraft reindex`. By
default the runs lie in a sqlite file below the output folder; MLFLOW_TRACKING_URI points elsewhere.
"""

import os
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any, Literal

from tasks.attempts import METRICS, records_of, stage_runs
from tasks.journal import Journal, Run, TrackedData, described, journals
from tasks.stages import held_for_deletion
from tasks.track_reach import StoreAwayError
from tasks.track_store import Store
from trainer.records import read_records

RETRY = 60.0
"""Seconds before MLflow is tried again after it was away."""
_SHARE = 0.1  # of the time of a stage that goes into sending its steps, at most


def store_uri(output: Path | str) -> str:
    """Where the runs of an output folder are kept: MLFLOW_TRACKING_URI, or a sqlite file there."""
    return os.environ.get("MLFLOW_TRACKING_URI") or (
        f"sqlite:///{Path(output).absolute() / 'mlflow.db'}"
    )


class Tracker:
    """The runs of one experiment.

    Attributes:
        output: Folder that everything is written under.
        experiment_name: Name of the experiment.
        uri: The store, as MLflow's command line takes it.
    """

    def __init__(self, output: Path | str, experiment_name: str, uri: str = "") -> None:
        """Say where runs go; the store is not opened before the first.

        Args:
            output: Folder that everything is written under.
            experiment_name: Name of the experiment; its runs are compared with each other.
            uri: The store, if not `store_uri(output)`.
        """
        self.output = Path(output).absolute()
        self.experiment_name = experiment_name
        self.uri = uri or store_uri(output)
        self._store = Store(self.uri, self.output)
        self._open: dict[str, Journal] = {}
        self._steps: dict[str, list[dict[str, Any]]] = {}  # of the stages that are being trained
        self._away = False
        self._next = self._next_step = 0.0  # when to send again: anything, and a step

    @contextmanager
    def pipeline_run(
        self, params: Mapping[str, Any], tags: Mapping[str, str], name: str = "pipeline"
    ) -> Iterator[str]:
        """A run of the whole pipeline.

        It ends FINISHED, FAILED when the block raises, or KILLED when it was interrupted. First,
        what earlier processes left is sent; runs of those that died end KILLED.

        Args:
            params: Flat settings, see `flat`.
            tags: See `lineage_tags`.
            name: What MLflow's pages call it.

        Yields:
            Our id of the run, which MLflow's carries as the tag `stagecraft.id`.
        """
        journal = Journal.begin(
            self.output, self.experiment_name, self.uri,
            name=name, params=dict(params), tags=dict(tags),
        )  # fmt: skip
        with journal.held():
            self._open[journal.run.id] = journal
            try:
                with self._ended(journal, journal.run):
                    self._begun(journal)
                    self._send_left()
                    yield journal.run.id
            finally:
                self._send(journal, last=True)
                del self._open[journal.run.id]

    @contextmanager
    def child_run(
        self,
        parent_id: str,
        name: str,
        kind: Literal["stage", "evaluation"],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[TrackedData] = (),
        *,
        folder: Path | None = None,
        first_step: int = 1,
        steps_before: int | None = None,
    ) -> Iterator["Child"]:
        """A run below a pipeline run: one attempt at a stage, or one evaluation.

        Each call makes a new run, so settings that a resumed attempt changes never clash with
        those of the attempt before.

        Args:
            parent_id: Id of the pipeline run.
            name: What MLflow's pages call it, for instance the stage's name.
            kind: What it is.
            params: Flat settings, see `flat`.
            tags: See `lineage_tags`.
            datasets: What it reads.
            folder: A stage's folder: the run gets the steps before `first_step` from there.
            first_step: Step that this attempt begins at.
            steps_before: Steps of all stages before this one. If given, the parent gets the
                metrics too, counted from there, so that it has the whole curves.

        Yields:
            A `Child` to log to.
        """
        journal = self._open[parent_id]
        run = journal.child(
            kind, name,
            params=dict(params), tags=dict(tags), datasets=described(datasets),
            steps_before=steps_before,
        )  # fmt: skip
        if kind == "stage":
            run.attempt = run.id
            for found in journal.children:  # a pipeline that trains shows the stages before, too
                found.attempt = found.attempt or found.tags.get("stagecraft.cached", "")
            there = read_records(folder / METRICS) if folder else []
            self._steps[run.id] = [record for record in there if record["step"] < first_step]
        try:
            with self._ended(journal, run):
                self._begun(journal)
                yield Child(self, journal, run)
        finally:
            self._send(journal)

    def found_stage(
        self,
        parent_id: str,
        name: str,
        folder: Path,
        manifest: Mapping[str, Any],
        data: TrackedData,
        steps_before: int,
    ) -> None:
        """A run of a stage that was found trained, below the pipeline that found it.

        It has the settings, times, last metrics and checkpoint of the attempt that finished it, and
        that attempt's id as the tag `stagecraft.cached`. It has the whole curve too if this
        experiment shows that nowhere yet, or if this pipeline trains a later stage: one that
        trains nothing is not to copy every metric again.

        Args:
            parent_id: Id of the pipeline run.
            name: What this pipeline calls the stage.
            folder: The stage's folder.
            manifest: Its manifest.
            data: The prompt set.
            steps_before: Steps of all stages before it.
        """
        journal = self._open[parent_id]
        [read] = described([data])
        past = stage_runs(folder, manifest, read)[-1]
        last = read_records(folder / METRICS)[-1:]
        run = journal.child("stage", name)
        tags = {**past.tags, "stagecraft.cached": past.attempt}
        shown = "" if self._shows(past.attempt) else past.attempt
        more = {"id": run.id, "name": name, "tags": tags, "attempt": shown, "metrics": last}
        vars(run).update(vars(past) | more | {"steps_before": steps_before})
        self._begun(journal)

    def _shows(self, attempt: str) -> bool:
        """Whether an earlier pipeline of this experiment shows an attempt's curve."""
        for folder in journals(self.output):
            with suppress(ValueError, OSError):  # gone since it was listed, for one
                journal = Journal.read(folder)
                mine = journal.experiment == self.experiment_name
                if mine and any(run.attempt == attempt for run in journal.children):
                    return True
        return False

    def log(self, run_id: str, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Write metrics of one step to a pipeline run. NaN is kept; None and text are not."""
        journal = self._open[run_id]
        journal.run.metrics.append(_record(metrics, step))
        self._begun(journal)

    def log_report(self, run_id: str, folder: Path | str) -> None:
        """Keep a report's files under `report/` of a run, and show its summary on the run's page.

        Args:
            run_id: The pipeline run.
            folder: Folder with report.html, report.md and figures/.
        """
        journal = self._open[run_id]
        journal.run.report = os.path.relpath(folder, self.output)
        self._write(journal)

    def _begun(self, journal: Journal) -> None:
        self._write(journal)
        self._send(journal)

    @contextmanager
    def _ended(self, journal: Journal, run: Run) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            run.end("failed", str(error) or repr(error))
            raise
        except BaseException as error:  # Ctrl-C, a cancelled flow: a wish, not a failure.
            run.end("interrupted", repr(error))
            raise
        else:
            run.end("finished")
        finally:
            self._write(journal)

    def _write(self, journal: Journal) -> None:
        try:
            journal.write()
        except OSError as error:  # a full disk: what fails by it tells so itself
            print(f"{journal.folder} cannot be written, so MLflow may miss some of it: {error}")

    def _send(self, journal: Journal, *, step: bool = False, last: bool = False) -> None:
        """Send what MLflow does not have of a journal, unless it is known to be away."""
        began = time.monotonic()
        if not last and began < (self._next_step if step else self._next):
            return
        try:
            self._store.put(journal, self._records)
            if last and not journal.delivered:
                journal.delivered = True
                self._write(journal)
        except StoreAwayError as error:
            self._next = self._next_step = time.monotonic() + RETRY
            self._tell(journal, error)
            return
        if step:
            now = time.monotonic()
            self._next_step = now + (now - began) * (1 / _SHARE - 1)
        if self._away:
            self._away = False
            print(f"MLflow at {self.uri} answers again, and has caught up.")

    def _tell(self, journal: Journal, error: Exception) -> None:
        if not self._away:
            self._away = True
            print(
                f"WARNING: MLflow at {self.uri} takes no metrics: {error}\n"
                f"Nothing waits for it and nothing is lost: each step is in {METRICS} in its "
                f"stage's folder below {self.output / 'stages'}, each run in {journal.folder}.\n"
                "They are sent when MLflow answers again, else by the next run, or import them "
                f"with: stagecraft reindex --output {self.output}"
            )

    def _records(self, run: Run) -> list[dict[str, Any]]:
        if run.id in self._steps:
            return self._steps[run.id]
        try:
            return records_of(self.output, run)
        except (ValueError, OSError) as error:
            print(f"{run.name}: its metrics cannot be read, MLflow gets none of them: {error}")
            return []

    def _send_left(self) -> None:
        """Send what earlier processes left, those that died among them."""
        for folder in journals(self.output):
            if self._away:
                return
            if folder.name in self._open:
                continue
            try:
                if Journal.read(folder).delivered:
                    continue
                with held_for_deletion(folder) as ours:
                    if not ours:
                        continue  # its process lives
                    journal = Journal.read(folder)
                    if journal.close():
                        self._write(journal)
                    if journal.store == self.uri:
                        self._send(journal, last=True)
            except (ValueError, OSError) as error:
                print(error)


class Child:
    """A child run to log to; made by `Tracker.child_run`.

    Attributes:
        id: Our id of the run.
    """

    def __init__(self, tracker: Tracker, journal: Journal, run: Run) -> None:
        """Made by `Tracker.child_run`, which says what the arguments are."""
        self.id = run.id
        self._tracker, self._journal, self._run = tracker, journal, run

    def log_step(self, record: Mapping[str, Any]) -> None:
        """Send one training step: a record of `metrics.jsonl`, with `step` and `time`."""
        self._tracker._steps[self.id].append(dict(record))
        self._journal.alive()
        self._tracker._send(self._journal, step=True)

    def log_metrics(self, metrics: Mapping[str, Any], step: int = 0) -> None:
        """Write metrics that belong to the whole run, such as an evaluation's scores."""
        self._run.metrics.append(_record(metrics, step))
        self._tracker._begun(self._journal)

    def log_checkpoint(self, path: Path | str, digest: str, step: int = 0) -> None:
        """Record a checkpoint by reference, as a logged model of this run: no file is copied.

        Args:
            path: Its folder.
            digest: Digest of its content.
            step: Training step that it was taken at.
        """
        path = str(Path(path).absolute())
        self._run.checkpoint = {"path": path, "digest": digest, "step": step}
        self._tracker._write(self._journal)


def _record(metrics: Mapping[str, Any], step: int) -> dict[str, Any]:
    return {"step": step, "time": time.time(), **metrics}
