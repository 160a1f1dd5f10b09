"""A run of the pipeline that is to be harmed: its processes by their part, what it said and left.

Every process of a run inherits a mark in its environment. Where the system allows it, a run has a
`/dev/shm` of its own, so that what it leaves there cannot be another's.
"""

import contextlib
import json
import os
import re
import signal
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from uuid import uuid4

import psutil

ROOT = Path(__file__).parents[2]
MARK = "STAGECRAFT_RUN"
ENDS = 20.0  # seconds after which nothing of a run that ended may be alive

# What a process of a run is, by its command line; the first that fits.
PARTS = (
    ("the guard of Prefect's server", r"-m trainer\.guard .* flows\.server"),
    ("the guard", r"-m trainer\.guard"),
    ("Prefect's temporary server", r"-m flows\.server"),
    ("the trainer", r"-m (trainer\.backend\.main|stand_in_trainer)"),
    ("a trainer that waits for its stage", r"-m trainer\.backend\.waiting"),
    ("the process that guards are forked of", r"-m trainer\.standby"),
    ("the process that workers are forked of", r"-m trainer\.warm"),
    ("the sampler of an evaluation", r"-m (trainer\.generate|stand_in_generate)"),
    ("the flow", r"-m (flows\.|stand_in\b|prefect\.)"),
    ("Ray's raylet", r"raylet/raylet "),
    ("Ray's GCS server", r"gcs/gcs_server "),
    ("the trainer worker", r"^ray::WorkerDict"),
    ("the rollout server", r"^ray::TorchServer"),
    ("the agent loop", r"^ray::(Agent|Group)LoopWorker"),
    ("the reward worker", r"^ray::RewardLoopWorker"),
    ("the transfer queue's controller", r"^ray::TransferQueueController"),
    ("the transfer queue's storage", r"^ray::SimpleStorageUnit"),
    ("the router of requests", r"^ray::Router"),
    ("an idle Ray worker", r"^ray::IDLE"),
    ("another Ray actor", r"^ray::"),
    ("a Ray worker that starts", r"default_worker\.py"),
    ("a daemon of Ray", r"/ray/"),
    ("a child of the trainer", r"multiprocessing|resource_tracker"),
)


class Attempt:
    """One `python -m flows.pipeline` as a person would start it."""

    def __init__(
        self,
        output: Path,
        *settings: str,
        module: str = "flows.pipeline",
        environment: dict[str, str] | None = None,
    ):
        self.mark = uuid4().hex
        self.output = output
        self.shared_memory = _private_shared_memory()
        self._scratch: set[str] = set()
        folder = output.parent / "attempts"
        folder.mkdir(parents=True, exist_ok=True)
        self.log = folder / f"{len(list(folder.glob('*.log'))):03}-{self.mark[:6]}.log"
        command = [sys.executable, "-m", module, *settings, f"output={output}"]
        self.started = time.monotonic()
        self.process = subprocess.Popen(
            [*self._apart(), *command],
            cwd=folder,
            env={
                **os.environ,
                "PYTHONPATH": f"{ROOT}:{ROOT / 'tests' / 'faults'}",
                "PREFECT_HOME": str(output.parent / "prefect"),
                "MLFLOW_TRACKING_URI": "",
                MARK: self.mark,
                **(environment or {}),
            },
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            stdin=subprocess.DEVNULL,
            start_new_session=True,
        )
        threading.Thread(target=self._note_scratch, daemon=True).start()

    def _apart(self) -> list[str]:
        if not self.shared_memory:
            return []
        script = 'mount --bind "$0" /dev/shm && exec "$@"'
        return ["unshare", "--mount", "sh", "-c", script, str(self.shared_memory)]

    # --- what it says ---------------------------------------------------------------------------

    @property
    def text(self) -> str:
        """All that it printed so far."""
        return self.log.read_text(errors="replace")

    @property
    def seconds(self) -> float:
        """Since it was started."""
        return time.monotonic() - self.started

    def alive(self) -> bool:
        """Whether the flow runs."""
        return self.process.poll() is None

    def wait_for(self, pattern: str, seconds: float, count: int = 1) -> None:
        """Until it has printed `pattern` so many times."""
        deadline = time.monotonic() + seconds
        while len(re.findall(pattern, self.text)) < count:
            assert self.alive(), f"ended before {pattern!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{self.text}"
            time.sleep(0.1)

    def end(self, seconds: float) -> int:
        """Its exit code, once it has ended."""
        try:
            return self.process.wait(seconds)
        except subprocess.TimeoutExpired:
            raise AssertionError(f"still runs after {seconds:.0f} s:\n{self.text}") from None

    def message(self) -> str:
        """The first line of what it said when all was over: the error, if it failed."""
        lines = self.text.rstrip().splitlines()
        told = r"Finished in state| step \d+/| resumes after step \d+"
        last = max((at for at, line in enumerate(lines) if re.search(told, line)), default=-1)
        said = [line for line in lines[last + 1 :] if line.strip()]
        said = [line for line in said if not re.match(r"\d\d:\d\d:\d\d\.\d|log: ", line)]
        return said[0].strip()[:200] if said else ""

    # --- its processes --------------------------------------------------------------------------

    def processes(self) -> list[psutil.Process]:
        """Its living processes, in an order that does not depend on their ids."""
        found = marked(self.mark)
        return sorted(found, key=lambda process: (part_of(process), process.pid))

    def find(self, part: str) -> psutil.Process:
        """The process that is a part of the run."""
        found = [process for process in self.processes() if part_of(process) == part]
        assert found, f"no {part} among {[part_of(p) for p in self.processes()]}:\n{self.text}"
        return found[0]

    def kill(self, part: str, number: int = signal.SIGKILL) -> None:
        """Send a signal to a part of the run."""
        self.find(part).send_signal(number)

    # --- what it leaves -------------------------------------------------------------------------

    def left(self, seconds: float = ENDS) -> dict[str, list[str]]:
        """What is there of it after it ended: waits until nothing is, for as long as it may be."""
        deadline = time.monotonic() + seconds
        while True:
            left = {
                "processes": [" ".join(command_line(p))[:160] for p in self.processes()],
                "shared memory": self._left_in_shared_memory(),
                "scratch": self._left_scratch(),
            }
            if not any(left.values()) or time.monotonic() > deadline:
                break
            time.sleep(0.3)
        if not any(left.values()):
            self.release()
        return left

    def _left_in_shared_memory(self) -> list[str]:
        if self.shared_memory:
            return sorted(path.name for path in self.shared_memory.iterdir())
        return []

    def _left_scratch(self) -> list[str]:
        return sorted(name for name in self._scratch if Path(name).exists())

    def _note_scratch(self) -> None:
        while self.alive():
            for process in marked(self.mark):
                with contextlib.suppress(psutil.Error):
                    self._scratch.add(process.environ().get("RAY_TMPDIR", ""))
            self._scratch.discard("")
            time.sleep(1)

    def release(self) -> None:
        """Give back its private shared memory."""
        if self.shared_memory:
            subprocess.run(["umount", "--lazy", str(self.shared_memory)], check=False)
            self.shared_memory.rmdir()
            self.shared_memory = None

    def destroy(self) -> None:
        """End whatever is left of it, for a test that failed."""
        for process in self.processes():
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        if self.alive():
            self.process.kill()
        self.process.wait(30)
        for name in self._left_scratch():
            subprocess.run(["rm", "-rf", name], check=False)
        self.release()


def part_of(process: psutil.Process) -> str:
    """What a process is in its run."""
    line = " ".join(command_line(process))
    return next((part for part, pattern in PARTS if re.search(pattern, line)), "another process")


def command_line(process: psutil.Process) -> list[str]:
    """Its command line; empty for one that has ended."""
    try:
        return process.cmdline()
    except psutil.Error:
        return []


def marked(mark: str) -> list[psutil.Process]:
    """Living processes with a mark in their environment."""
    found = []
    for process in psutil.process_iter():
        try:
            ours = process.environ().get(MARK) == mark
            if ours and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except psutil.Error:
            continue
    return found


def _private_shared_memory() -> Path | None:
    folder = Path(tempfile.mkdtemp(prefix="faults-shm-", dir="/tmp"))
    mount = ["mount", "-t", "tmpfs", "-o", "mode=1777", "tmpfs", str(folder)]
    if may_mount() and subprocess.run(mount, capture_output=True).returncode == 0:
        return folder
    folder.rmdir()
    return None


def may_mount() -> bool:
    """Whether this user may mount, and have mounts of their own."""
    done = subprocess.run(["unshare", "--mount", "true"], capture_output=True)
    return os.getuid() == 0 and done.returncode == 0


def manifests(output: Path) -> list[dict]:
    """Every stage.json below an output folder, in the order of the curriculum."""
    found = [json.loads(path.read_text()) for path in (output / "stages").glob("*/stage.json")]
    return sorted(found, key=lambda manifest: manifest["position"])
