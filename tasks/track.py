"""The one place that knows MLflow: runs of pipelines, stages and evaluations, and their lineage.

A pipeline is a parent run; each attempt at a stage, and each evaluation, is a child run. By
default the runs lie in a sqlite file below the output folder; MLFLOW_TRACKING_URI points
elsewhere. MLflow itself is imported when a `Tracker` is made, for it takes seconds.
"""

import json
import logging
import math
import os
import socket
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, Literal, Protocol

import psutil

from conf import telemetry
from tasks.labels import flat, lineage_tags, metric_name, param

__all__ = ["Child", "Tracker", "flat", "lineage_tags", "metric_name", "store_uri"]

# Limits of MLflow's stores; `log_batch` takes at most so many entries of a kind at once.
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1_000, 100
_LONGEST_TAG, _LONGEST_DIGEST = 8_000, 36


class TrackedData(Protocol):
    """What is told about a data set: `tasks.artifacts.Dataset` has all of it."""

    name: str
    path: Path
    digest: str
    rows: int

    @property
    def manifest(self) -> dict[str, Any]:
        """Where it came from, and its columns."""


def store_uri(output: Path | str) -> str:
    """Where the runs of an output folder are kept: MLFLOW_TRACKING_URI, or a sqlite file there."""
    return os.environ.get("MLFLOW_TRACKING_URI") or (
        f"sqlite:///{Path(output).absolute() / 'mlflow.db'}"
    )


class Tracker:
    """The runs of one experiment.

    Attributes:
        uri: The store, as MLflow's command line takes it.
        experiment_id: MLflow's id of the experiment.
    """

    def __init__(self, output: Path | str, experiment_name: str, uri: str = "") -> None:
        """Open the store, and make it and the experiment where they are missing.

        Args:
            output: Folder that everything is written under.
            experiment_name: Name of the experiment; its runs are compared with each other.
            uri: The store, if not `store_uri(output)`.
        """
        telemetry.switch_off()
        from mlflow import MlflowClient

        for chatter in ("mlflow", "alembic"):
            logging.getLogger(chatter).setLevel(logging.WARNING)
        output = Path(output).absolute()
        output.mkdir(parents=True, exist_ok=True)
        self.uri = uri or store_uri(output)
        self._client = MlflowClient(tracking_uri=self.uri)
        self.experiment_id = self._experiment(experiment_name, output)

    def _experiment(self, name: str, output: Path) -> str:
        from mlflow.exceptions import MlflowException

        # With a server, files go where the server says.
        folder = output / "mlartifacts" if self.uri.startswith("sqlite:") else None
        found = self._client.get_experiment_by_name(name)
        if found is None:
            try:
                return self._client.create_experiment(name, folder.as_uri() if folder else None)
            except MlflowException:  # Another process made it in between.
                found = self._client.get_experiment_by_name(name)
                if found is None:
                    raise
        if found.lifecycle_stage == "deleted":
            self._client.restore_experiment(found.experiment_id)
        return found.experiment_id

    @contextmanager
    def pipeline_run(
        self, params: Mapping[str, Any], tags: Mapping[str, str], name: str = "pipeline"
    ) -> Iterator[str]:
        """A run of the whole pipeline.

        It ends FINISHED, FAILED when the block raises, or KILLED when it was interrupted.
        Runs that earlier processes on this machine left open, killed outright, end KILLED now.

        Args:
            params: Flat settings, see `flat`.
            tags: See `lineage_tags`.
            name: What MLflow's pages call it.

        Yields:
            The run's id.
        """
        self._close_dead_runs()
        run_id = self._start(name, params, {"stagecraft.kind": "pipeline", **tags})
        with self._ended(run_id):
            yield run_id

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
        first_step: int | None = None,
        require_metrics: bool = True,
    ) -> Iterator["Child"]:
        """A run below a pipeline run: one attempt at a stage, or one evaluation.

        Each call makes a new run, so settings that a resumed attempt changes, such as the step
        it begins at, never clash with those of the attempt before.

        Args:
            parent_id: Id of the pipeline run.
            name: What MLflow's pages call it, for instance the stage's name.
            kind: What it is.
            params: Flat settings, see `flat`.
            tags: See `lineage_tags`.
            datasets: What it reads.
            first_step: Steps of all stages before this one. If given, `log_step` also writes
                to the parent, counting from there, so that the parent has the whole curves.
            require_metrics: Whether to raise if the block ends without a metric.

        Yields:
            A `Child` to log to.

        Raises:
            ValueError: The block ended well but no metric was logged: its tracking is broken.
        """
        number = 1 + len(self._children(parent_id, kind, name))
        run_id = self._start(
            name,
            params,
            {
                "mlflow.parentRunId": parent_id,
                "stagecraft.kind": kind,
                "stagecraft.name": name,
                "stagecraft.attempt": str(number),
                **tags,
            },
        )
        child = Child(self, run_id, parent_id, first_step)
        with self._ended(run_id):
            child.log_datasets(datasets)
            yield child
            if require_metrics and not child.logged:
                raise ValueError(
                    f"{kind} {name!r} ended without a single metric, so nothing shows what it did"
                    f"\n\nhint: look at its trainer.log, and check that the MLflow store at "
                    f"{self.uri} can be written"
                )

    @contextmanager
    def past_run(
        self,
        parent_id: str,
        name: str,
        kind: Literal["stage", "evaluation"],
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        datasets: Sequence[TrackedData] = (),
        *,
        started: float,
        ended: float,
    ) -> Iterator["Child"]:
        """A child run of something that ended well before now, as `child_run` would have made it.

        Args:
            parent_id: Id of the run that it is put under.
            name: What MLflow's pages call it.
            kind: What it is.
            params: Flat settings, see `flat`.
            tags: See `lineage_tags`.
            datasets: What it read.
            started: When it began, in seconds since 1970.
            ended: When it ended.
        """
        mine = {
            "mlflow.parentRunId": parent_id,
            "stagecraft.kind": kind,
            "stagecraft.name": name,
            "stagecraft.attempt": "1",
        }
        run_id = self._start(name, params, {**mine, **tags}, started)
        with self._ended(run_id, ended):
            child = Child(self, run_id, parent_id, None)
            child.log_datasets(datasets)
            yield child

    def finished_runs(self, digest: str = "", **tags: str) -> list[str]:
        """Ids of this experiment's runs that ended well.

        Args:
            digest: What their `config_digest` starts with.
            tags: Other `stagecraft.` tags that they have.
        """
        wanted = [f"tags.`stagecraft.{key}` = {_quoted(value)}" for key, value in tags.items()]
        if digest:
            wanted.append(f"tags.`stagecraft.config_digest` LIKE '{digest}%'")
        found = self._client.search_runs(
            [self.experiment_id], " AND ".join(["attributes.status = 'FINISHED'", *wanted])
        )
        return [run.info.run_id for run in found]

    def log(self, run_id: str, metrics: Mapping[str, Any], step: int = 0) -> int:
        """Write metrics of one step to a run. NaN and infinity are kept; None and text are not.

        Returns:
            How many were written.
        """
        return self._write(run_id, _entries(metrics, step, time.time()))

    def _write(self, run_id: str, entries: Sequence[Any]) -> int:
        for start in range(0, len(entries), _METRICS_AT_ONCE):
            self._client.log_batch(run_id, metrics=entries[start : start + _METRICS_AT_ONCE])
        return len(entries)

    def log_report(self, run_id: str, folder: Path | str) -> None:
        """Keep a report's files under `report/` of a run, and show its summary on the run's page.

        Args:
            run_id: The pipeline run.
            folder: Folder with report.html, report.md and figures/.
        """
        folder = Path(folder)
        self._client.log_artifacts(run_id, str(folder), "report")
        markdown = folder / "report.md"
        if markdown.is_file():
            # Title, verdict and accuracy; a tag holds no more.
            note = markdown.read_text(encoding="utf-8")
            sections = note.split("\n## ")
            note = "\n## ".join(sections[:2])
            self._client.set_tag(run_id, "mlflow.note.content", note[:_LONGEST_TAG])

    def _start(
        self,
        name: str,
        params: Mapping[str, Any],
        tags: Mapping[str, str],
        started: float | None = None,
    ) -> str:
        from mlflow.entities import Param

        tags = {"stagecraft.process": _this_process(), **tags}
        run = self._client.create_run(
            self.experiment_id,
            start_time=None if started is None else int(started * 1000),
            run_name=name,
            tags={key: str(value)[:_LONGEST_TAG] for key, value in tags.items()},
        )
        entries = [Param(metric_name(key), param(value)) for key, value in params.items()]
        for start in range(0, len(entries), _PARAMS_AT_ONCE):
            self._client.log_batch(run.info.run_id, params=entries[start : start + _PARAMS_AT_ONCE])
        return run.info.run_id

    @contextmanager
    def _ended(self, run_id: str, ended: float | None = None) -> Iterator[None]:
        try:
            yield
        except Exception as error:
            self._client.set_tag(run_id, "stagecraft.error", f"{error!r}"[:_LONGEST_TAG])
            self._client.set_terminated(run_id, "FAILED")
            raise
        except BaseException:  # Ctrl-C, SystemExit, a cancelled flow: a wish, not a failure.
            self._client.set_terminated(run_id, "KILLED")
            raise
        end_time = None if ended is None else int(ended * 1000)
        self._client.set_terminated(run_id, "FINISHED", end_time)

    def _children(self, parent_id: str, kind: str, name: str) -> list[Any]:
        found = self._client.search_runs(
            [self.experiment_id], f"tags.`mlflow.parentRunId` = '{parent_id}'"
        )
        tags = [run.data.tags for run in found]
        return [t for t in tags if (t["stagecraft.kind"], t["stagecraft.name"]) == (kind, name)]

    def _close_dead_runs(self) -> None:
        for run in self._client.search_runs(
            [self.experiment_id],
            "attributes.status = 'RUNNING' AND tags.`stagecraft.process` != ''",
        ):
            if _is_dead(run.data.tags["stagecraft.process"]):
                self._client.set_terminated(run.info.run_id, "KILLED")


class Child:
    """A child run to log to; made by `Tracker.child_run`.

    Attributes:
        run_id: MLflow's id of the run.
        logged: Metrics written so far.
    """

    def __init__(
        self, tracker: Tracker, run_id: str, parent_id: str, first_step: int | None
    ) -> None:
        """Made by `Tracker.child_run`, which says what the arguments are."""
        self.run_id = run_id
        self.logged = 0
        self._tracker = tracker
        self._client = tracker._client
        self._parent_id = parent_id
        self._first_step = first_step
        self._model_id = ""

    def log_step(self, metrics: Mapping[str, Any], step: int) -> None:
        """Write the metrics of one training step, counted from 1 within the stage."""
        self.logged += self._tracker.log(self.run_id, metrics, step)
        if self._first_step is not None:
            self._tracker.log(self._parent_id, metrics, self._first_step + step)

    def log_records(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Write steps of the past: records with `step` and `time` (seconds since 1970)."""
        self.logged += self._tracker._write(
            self.run_id,
            [
                entry
                for record in records
                for entry in _entries(
                    {key: value for key, value in record.items() if key not in ("step", "time")},
                    record["step"],
                    record.get("time", 0.0),
                )
            ],
        )

    def log_metrics(self, metrics: Mapping[str, Any]) -> None:
        """Write metrics that belong to the whole run, such as an evaluation's scores."""
        self.logged += self._tracker.log(self.run_id, metrics)

    def log_datasets(self, datasets: Sequence[TrackedData]) -> None:
        """Say what the run reads, with digests; the rows themselves are not loaded."""
        from mlflow.entities import Dataset, DatasetInput, InputTag

        inputs = [
            DatasetInput(
                Dataset(
                    name=data.name,
                    digest=data.digest[:_LONGEST_DIGEST],
                    source_type="local",
                    source=json.dumps({"uri": Path(data.path).absolute().as_uri()}),
                    schema=json.dumps({"columns": data.manifest.get("columns", [])}, default=str),
                    profile=json.dumps({"num_rows": data.rows}),
                ),
                [
                    InputTag("mlflow.data.context", data.name),
                    InputTag("stagecraft.digest", data.digest),
                ],
            )
            for data in datasets
        ]
        if inputs:
            self._client.log_inputs(self.run_id, inputs)

    def log_checkpoint(self, path: Path | str, digest: str, step: int = 0) -> str:
        """Record a checkpoint by reference, as a logged model of this run: no file is copied.

        Args:
            path: Its folder.
            digest: Digest of its content.
            step: Training step that it was taken at.

        Returns:
            MLflow's id of the logged model.
        """
        from mlflow.entities import LoggedModelOutput

        path = Path(path).absolute()
        model = self._client.create_logged_model(
            self._tracker.experiment_id,
            name=metric_name(path.parent.name).replace("/", "_").replace(".", "_"),
            source_run_id=self.run_id,
            tags={"stagecraft.uri": path.as_uri(), "stagecraft.digest": digest},
            model_type="checkpoint",
        )
        self._client.finalize_logged_model(model.model_id, "READY")
        self._client.log_outputs(self.run_id, [LoggedModelOutput(model.model_id, step)])
        self._client.set_tag(self.run_id, "stagecraft.checkpoint", path.as_uri())
        self._client.set_tag(self.run_id, "stagecraft.checkpoint_digest", digest)
        return model.model_id

    def log_artifact(self, path: Path | str, folder: str | None = None) -> None:
        """Keep a copy of a small file, or of a folder's files, with the run."""
        if Path(path).is_dir():
            self._client.log_artifacts(self.run_id, str(path), folder)
        else:
            self._client.log_artifact(self.run_id, str(path), folder)


def _entries(metrics: Mapping[str, Any], step: int, moment: float) -> list[Any]:
    from mlflow.entities import Metric

    return [
        Metric(metric_name(name), float(value), int(moment * 1000), step)
        for name, value in metrics.items()
        if value is not None and not isinstance(value, str | list | dict)
    ]


def _quoted(text: str) -> str:
    """Text for a search, which knows two kinds of quotes and no escapes."""
    mark = '"' if "'" in text else "'"
    return f"{mark}{text}{mark}"


def _this_process() -> str:
    process = psutil.Process()
    return f"{socket.gethostname()} {process.pid} {process.create_time():.2f}"


def _is_dead(owner: str) -> bool:
    """Whether a process of this machine that opened a run is gone; others cannot be known."""
    host, pid, born = owner.split()
    if host != socket.gethostname():
        return False
    try:
        return not math.isclose(psutil.Process(int(pid)).create_time(), float(born), abs_tol=1)
    except psutil.NoSuchProcess:
        return True
