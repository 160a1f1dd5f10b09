"""What MLflow is to say of each run, on disk before MLflow hears of it: `runs/<id>/run.json`.

One file for a pipeline's run and all its children: settings, lineage, times, outcome. Metrics by
step are not copied: they lie in the stage's `metrics.jsonl`, which the run points to. So whatever
MLflow misses can be told to it later, by whoever reads the file; it knows no more than the files.

The process that works on a run holds `runs/<id>/lock`, as one that trains a stage holds that
stage's, and shares `runs/lock` with other runs, so that none begins while data are deleted. The
kernel lets go of what a dead process held, on whichever host: a run that says "running" and is held
by nobody is dead.
"""

import fcntl
import json
import os
import socket
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Literal, Protocol
from uuid import uuid4

from tasks.artifacts import read_json, write_json
from tasks.stages import LOCK, alone, holder, read_manifest, stage_folder

FOLDER, FILE = "runs", "run.json"
DEAD = "its process ended without a word: killed, or the machine went down"


class TrackedData(Protocol):
    """What is told about a data set: `tasks.artifacts.Dataset` has all of it."""

    name: str
    path: Path
    digest: str
    rows: int

    @property
    def manifest(self) -> dict[str, Any]:
        """Where it came from, and its columns."""


@dataclass
class Run:
    """One run, as MLflow is to show it.

    Attributes:
        id: Ours; MLflow's run carries it as the tag `stagecraft.id` and is found by it.
        kind: What it is.
        name: What MLflow's pages call it.
        params: Flat settings, see `tasks.labels.flat`.
        tags: See `tasks.labels.lineage_tags`.
        started: When it began, in seconds since 1970.
        ended: When it ended; None while it runs.
        outcome: "running", "finished", "failed" or "interrupted".
        reason: Why it failed or was interrupted.
        datasets: What it reads: name, path, digest, rows and columns of each.
        metrics: Records with `step`, `time` and numbers that lie nowhere else.
        attempt: Of a stage: id of the attempt whose `metrics.jsonl` it shows, in most cases its
            own; another's, if the stage was found trained.
        steps_before: Steps of all stages before it. The parent gets its metrics too, counted from
            there; None: it does not.
        checkpoint: `path`, `digest` and `step` of the checkpoint that it made.
        report: Folder of the report to keep with it.
    """

    id: str
    kind: Literal["pipeline", "stage", "evaluation"]
    name: str
    params: dict[str, Any] = field(default_factory=dict)
    tags: dict[str, str] = field(default_factory=dict)
    started: float = field(default_factory=time.time)
    ended: float | None = None
    outcome: str = "running"
    reason: str = ""
    datasets: list[dict[str, Any]] = field(default_factory=list)
    metrics: list[dict[str, Any]] = field(default_factory=list)
    attempt: str = ""
    steps_before: int | None = None
    checkpoint: dict[str, Any] | None = None
    report: str = ""

    @property
    def reads(self) -> str:
        """Digest of the checkpoint that it starts from or scores, or ""."""
        return self.tags.get(
            "stagecraft.start_digest", self.tags.get("stagecraft.checkpoint_digest", "")
        )

    def end(self, outcome: str, reason: str = "", ended: float | None = None) -> None:
        """Say how it ended, and when; now, if that is not given.

        Never before it began, though the clock be set back meanwhile.
        """
        self.outcome, self.reason = outcome, reason
        self.ended = max(self.started, time.time() if ended is None else ended)


@dataclass
class Journal:
    """A pipeline's run and its children, as their file says.

    Attributes:
        folder: Where the file lies.
        experiment: Name of the experiment.
        store: URI of the store that they were meant for.
        host: Machine of the process that works on it.
        run: The pipeline's run.
        children: Stages and evaluations, in the order they began.
        delivered: Whether they have ended and the store has all of it.
    """

    folder: Path
    experiment: str
    store: str
    run: Run
    children: list[Run] = field(default_factory=list)
    host: str = field(default_factory=socket.gethostname)
    delivered: bool = False

    @classmethod
    def begin(cls, output: Path, experiment: str, store: str, **run: Any) -> "Journal":
        """A new one for a run that begins now; not written yet."""
        number = f"{time.strftime('%Y%m%dT%H%M%S')}-{uuid4().hex[:12]}"
        return cls(output / FOLDER / number, experiment, store, Run(number, "pipeline", **run))

    @classmethod
    def read(cls, folder: Path) -> "Journal":
        """The one in a folder.

        Raises:
            ValueError: it is damaged.
        """
        try:
            content = read_json(folder / FILE)
            run, children = Run(**content.pop("run")), content.pop("children")
            return cls(folder, run=run, children=[Run(**child) for child in children], **content)
        except (TypeError, AttributeError, KeyError) as error:
            raise ValueError(f"{folder / FILE} is damaged: {error}") from error

    @property
    def output(self) -> Path:
        """The output folder that it lies in."""
        return self.folder.parents[1]

    def write(self) -> None:
        """Put it on disk."""
        content = asdict(self)
        del content["folder"]
        write_json(self.folder / FILE, content)

    @contextmanager
    def held(self) -> Iterator[None]:
        """Hold it while this process works on it; `idle` deletes nothing meanwhile."""
        place = self.output / FOLDER
        place.mkdir(parents=True, exist_ok=True)
        with (place / LOCK).open("a") as file:
            fcntl.flock(file, fcntl.LOCK_SH)
            with alone(self.folder):
                yield

    def child(self, kind: Literal["stage", "evaluation"], name: str, **more: Any) -> Run:
        """A new child that begins now; not written yet."""
        run = Run(f"{self.run.id}/{len(self.children) + 1}", kind, name, **more)
        self.children.append(run)
        return run

    def alive(self) -> None:
        """Give a sign of life: a run that dies is taken to have lived until the last one."""
        with suppress(OSError):
            os.utime(self.folder / FILE)

    def close(self) -> bool:
        """End what a dead process left running. Whether there was any.

        When it died nobody knows: it is given the time of its last sign of life. A stage that says
        by its manifest that this run finished it has finished; the process died afterwards.
        """
        dead = [run for run in (self.run, *self.children) if run.outcome == "running"]
        seen = (self.folder / FILE).stat().st_mtime if dead else 0.0
        for run in dead:
            if run.kind != "stage" or not self._end_as_told(run):
                run.end("interrupted", f"{DEAD} (on {self.host})", max(seen, run.started))
        return bool(dead)

    def _end_as_told(self, run: Run) -> bool:
        """End a stage's run if its manifest says that it finished; whether it does."""
        digest = run.tags.get("stagecraft.config_digest", "")
        with suppress(OSError):
            manifest, _ = read_manifest(stage_folder(self.output, run.name, digest))
            if manifest and manifest["outcome"] == "finished":
                last, made = manifest["attempts"][-1], manifest["checkpoint"]
                if last.get("run") == run.id:
                    run.end("finished", ended=last.get("ended"))
                    run.checkpoint = {**made, "step": manifest["steps"]}
                    return True
        return False


def journals(output: Path) -> list[Path]:
    """The folders of all journals below an output folder, oldest first."""
    return sorted(path.parent for path in (output / FOLDER).glob(f"[!.]*/{FILE}"))


def busy(output: Path) -> str:
    """The process of a run that works in an output folder at this moment; "" if none does."""
    held = (holder(lock.parent) for lock in sorted((output / FOLDER).glob(f"[!.]*/{LOCK}")))
    return next(filter(None, held), "")


@contextmanager
def idle(output: Path) -> Iterator[str]:
    """A block in which no run begins there, so that what a run would find may be deleted.

    Yields:
        The process of a run that is at work, so that nothing may be; "" if there is none.
    """
    place = output / FOLDER
    place.mkdir(exist_ok=True)
    with (place / LOCK).open("a") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield busy(output) or "?"
            return
        yield busy(output)  # one of an older version holds no more than its own lock


def described(datasets: Sequence[TrackedData]) -> list[dict[str, Any]]:
    """Data sets as a run holds them."""
    return [
        {
            "name": data.name,
            "path": str(Path(data.path).absolute()),
            "digest": data.digest,
            "rows": data.rows,
            "columns": json.loads(json.dumps(data.manifest.get("columns", []), default=str)),
        }
        for data in datasets
    ]
