"""Make an MLflow store say what a journal says, and no more.

Everything here may be repeated: runs are found by their tag `stagecraft.id`, steps that are there
are not sent again, and what a run says of its end is corrected. So it does not matter how often,
from where, or in how many pieces a journal is delivered.
"""

import json
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tasks.journal import Journal, Run
from tasks.labels import metric_name, param
from tasks.reports import of_settings
from tasks.track_reach import FILES, follow, reached

# Limits of MLflow's stores; `log_batch` takes at most so many entries of a kind at once.
_METRICS_AT_ONCE, _PARAMS_AT_ONCE = 1_000, 100
_LONGEST_TAG, _LONGEST_DIGEST = 8_000, 36
_STATUS = {"finished": "FINISHED", "failed": "FAILED", "interrupted": "KILLED"}
Records = Callable[[Run], Sequence[Mapping[str, Any]]]
"""Gives the metrics by step of a stage's run: records with `step`, `time` and numbers."""


@dataclass
class _There:
    """What is known of a run in the store, so that it need not be asked for again.

    Attributes:
        run_id: MLflow's id.
        new: Whether we made it, so that it holds nothing but what we sent.
        status: Its status.
        steps: Steps that are there, by the metric that stands for a series.
        whole: If the store has all of it, the attempt whose metrics it has, or ""; else None.
    """

    run_id: str
    new: bool
    status: str
    steps: dict[str, set[int]] = field(default_factory=dict)
    whole: str | None = None


class Store:
    """An MLflow store; nothing is opened before something is to be done.

    Attributes:
        uri: The store, as MLflow's command line takes it.
        made: How many runs of each kind were added.
    """

    def __init__(self, uri: str, output: Path):
        """Name the store.

        Args:
            uri: The store.
            output: Folder that files go under, where the store is a database and no server.
        """
        self.uri = uri
        self.made: Counter[str] = Counter()
        self._output = output
        self._client: Any = None
        self._there: dict[str, _There] = {}
        self._experiments: dict[str, str] = {}

    def put(self, journal: Journal, records: Records) -> None:
        """Make the store say what a journal says, as far as it does not yet.

        Args:
            journal: The runs.
            records: Gives the metrics by step of a stage's run.

        Raises:
            StoreAwayError: it did not take all of it; what it took stays.
        """
        with self._reached():
            experiment = self._experiment(journal.experiment)
            parent = self._run(experiment, journal.run)
            for run in journal.children:
                if (known := self._there.get(run.id)) and known.whole == run.attempt:
                    continue
                there = self._run(experiment, run, parent.run_id, journal.children)
                steps = records(run) if run.kind == "stage" else []
                self._send(there, [*run.metrics, *steps])
                if run.steps_before is not None:
                    self._send(parent, steps, run.steps_before)
                self._end(there, run, experiment)
            self._send(parent, journal.run.metrics)
            self._end(parent, journal.run, experiment)
            if journal.run.report and journal.run.outcome != "running":
                place = journal.output / journal.run.report
                digest = journal.run.tags.get("stagecraft.config_digest", "")
                self._report(parent, of_settings(place, digest))

    def told(self, experiment: str) -> list[tuple[str, dict[str, str]]]:
        """Status and tags of every run of an experiment.

        Raises:
            StoreAwayError: the store cannot be reached.
        """
        found, page = [], ""
        with self._reached():
            while page is not None:
                runs = self._client.search_runs([self._experiment(experiment)], page_token=page)
                found += [(run.info.status, run.data.tags) for run in runs]
                page = runs.token or None
        return found

    @contextmanager
    def _reached(self) -> Iterator[None]:
        """A block that talks to the store; what the store does wrong is a `StoreAwayError`."""
        try:
            with reached(self.uri) as client:
                if self._client is None:
                    follow(self.uri, self._output)
                self._client = client
                yield
        except BaseException:  # also a Ctrl-C in the middle of a request
            self._forget()
            raise

    def _forget(self) -> None:
        """Ask the store next time what came through, and what did not."""
        self._there.clear()
        self._experiments.clear()

    def _experiment(self, name: str) -> str:
        """MLflow's id of an experiment, which is made or restored where it is missing."""
        if name not in self._experiments:
            self._experiments[name] = self._opened(name)
        return self._experiments[name]

    def _opened(self, name: str) -> str:
        from mlflow.exceptions import MlflowException

        # With a server, files go where the server says.
        folder = self._output / FILES if self.uri.startswith("sqlite:") else None
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

    def _run(
        self, experiment: str, run: Run, parent_id: str = "", siblings: Sequence[Run] = ()
    ) -> _There:
        """The run in the store, with settings and data; made where it is missing."""
        from mlflow.entities import Param

        if run.id in self._there:
            return self._there[run.id]
        found = self._search(experiment, {"stagecraft.id": run.id})
        if found is None:
            upstream = self._maker(experiment, run.reads, siblings)
            tags = {
                **run.tags,
                "stagecraft.id": run.id,
                "stagecraft.kind": run.kind,
                "stagecraft.name": run.name,
                "stagecraft.upstream_run": upstream,
                "mlflow.parentRunId": parent_id,
            }
            made = self._client.create_run(
                experiment,
                start_time=int(run.started * 1000),
                run_name=run.name,
                tags={key: str(value)[:_LONGEST_TAG] for key, value in tags.items() if value},
            )
            self.made[run.kind] += 1
        at = found or made
        there = _There(at.info.run_id, found is None, at.info.status)
        params = [Param(metric_name(key), param(value)) for key, value in run.params.items()]
        missing = [entry for entry in params if entry.key not in at.data.params]
        for start in range(0, len(missing), _PARAMS_AT_ONCE):
            batch = missing[start : start + _PARAMS_AT_ONCE]
            self._client.log_batch(there.run_id, params=batch)
        if run.datasets and (found is None or not found.inputs.dataset_inputs):
            self._client.log_inputs(there.run_id, _inputs(run.datasets))
        self._there[run.id] = there
        return there

    def _search(self, experiment: str, tags: Mapping[str, str]) -> Any:
        wanted = " AND ".join(f"tags.`{key}` = '{value}'" for key, value in tags.items())
        found = self._client.search_runs([experiment], wanted, max_results=1)
        return found[0] if found else None

    def _maker(self, experiment: str, digest: str, siblings: Sequence[Run]) -> str:
        """MLflow's id of the run that made a checkpoint; "" if there is none, as for a base."""
        if not digest:
            return ""
        for run in siblings:
            if run.checkpoint and run.checkpoint["digest"] == digest and run.id in self._there:
                return self._there[run.id].run_id
        tags = {"stagecraft.kind": "stage", "stagecraft.checkpoint_digest": digest}
        found = self._search(experiment, tags)
        return found.info.run_id if found else ""

    def _send(self, there: _There, records: Iterable[Mapping[str, Any]], offset: int = 0) -> None:
        """Send the records whose steps are not there.

        A record is there if the first of its metrics is: that one is sent after the others.
        """
        batch: list[Any] = []
        for record in records:
            first = next(_numbers(record), None)
            if first is None:
                continue
            key, step = metric_name(first), offset + record["step"]
            steps = there.steps.get(key)
            if steps is None:
                steps = there.steps[key] = self._steps(there, key)
            if step in steps:  # of a long stage nearly all: nothing is made of them
                continue
            steps.add(step)  # forgotten again, with all that is known, if sending fails
            entries = _entries(record, offset)
            if len(batch) + len(entries) > _METRICS_AT_ONCE:
                self._log(there, batch)
                batch = []
            batch += entries
        self._log(there, batch)

    def _steps(self, there: _There, metric: str) -> set[int]:
        if there.new:
            return set()
        return {point.step for point in self._client.get_metric_history(there.run_id, metric)}

    def _log(self, there: _There, entries: Sequence[Any]) -> None:
        for start in range(0, len(entries), _METRICS_AT_ONCE):
            batch = entries[start : start + _METRICS_AT_ONCE]
            self._client.log_batch(there.run_id, metrics=batch)

    def _end(self, there: _There, run: Run, experiment: str) -> None:
        """Say how a run ended, once it has."""
        if run.outcome == "running":
            return
        if run.checkpoint:
            self._checkpoint(there, run, experiment)
        if there.status != _STATUS[run.outcome]:
            if run.reason:
                reason = run.reason[:_LONGEST_TAG]
                self._client.set_tag(there.run_id, "stagecraft.reason", reason)
            end = None if run.ended is None else int(run.ended * 1000)
            there.status = _STATUS[run.outcome]
            self._client.set_terminated(there.run_id, there.status, end)
        there.whole = run.attempt

    def _checkpoint(self, there: _There, run: Run, experiment: str) -> None:
        """Record a checkpoint by reference, as a logged model of its run: no file is copied."""
        from mlflow.entities import LoggedModelOutput

        path, digest = Path(run.checkpoint["path"]), run.checkpoint["digest"]
        now = self._client.get_run(there.run_id)
        made_here = "stagecraft.cached" not in run.tags
        if made_here and not (now.outputs and now.outputs.model_outputs):
            model = self._client.create_logged_model(
                experiment,
                name=metric_name(path.parent.name).replace("/", "_").replace(".", "_"),
                source_run_id=there.run_id,
                tags={"stagecraft.uri": path.as_uri(), "stagecraft.digest": digest},
                model_type="checkpoint",
            )
            self._client.finalize_logged_model(model.model_id, "READY")
            output = LoggedModelOutput(model.model_id, run.checkpoint["step"])
            self._client.log_outputs(there.run_id, [output])
        if "stagecraft.checkpoint_digest" not in now.data.tags:
            self._client.set_tag(there.run_id, "stagecraft.checkpoint", path.as_uri())
            self._client.set_tag(there.run_id, "stagecraft.checkpoint_digest", digest)

    def _report(self, there: _There, folder: Path) -> None:
        """Keep a report's files under `report/`, and show its summary on the run's page."""
        known = not there.new and self._client.list_artifacts(there.run_id, "report")
        if known or not folder.is_dir():
            return
        self._client.log_artifacts(there.run_id, str(folder), "report")
        markdown = folder / "report.md"
        if markdown.is_file():
            # Title, verdict and accuracy; a tag holds no more.
            sections = markdown.read_text(encoding="utf-8").split("\n## ")
            note = "\n## ".join(sections[:2])[:_LONGEST_TAG]
            self._client.set_tag(there.run_id, "mlflow.note.content", note)


def _entries(record: Mapping[str, Any], offset: int) -> list[Any]:
    """A record's numbers as MLflow takes them, the first one last. NaN and infinity are kept."""
    from mlflow.entities import Metric

    moment, step = int(record.get("time", 0.0) * 1000), offset + record["step"]
    return [
        Metric(metric_name(name), float(record[name]), moment, step) for name in _numbers(record)
    ][::-1]


def _numbers(record: Mapping[str, Any]) -> Iterator[str]:
    """Names of what is a number in a record."""
    for name, value in record.items():
        number = value is not None and not isinstance(value, str | list | dict)
        if number and name not in ("step", "time"):
            yield name


def _inputs(datasets: Sequence[Mapping[str, Any]]) -> list[Any]:
    """What a run reads, with digests; the rows themselves are not loaded."""
    from mlflow.entities import Dataset, DatasetInput, InputTag

    return [
        DatasetInput(
            Dataset(
                name=data["name"],
                digest=data["digest"][:_LONGEST_DIGEST],
                source_type="local",
                source=json.dumps({"uri": Path(data["path"]).as_uri()}),
                schema=json.dumps({"columns": data["columns"]}),
                profile=json.dumps({"num_rows": data["rows"]}),
            ),
            [
                InputTag("mlflow.data.context", data["name"]),
                InputTag("stagecraft.digest", data["digest"]),
            ],
        )
        for data in datasets
    ]
