"""One stage over two machines: here two Ray nodes on one host, a CPU rank on each, FSDP over gloo.

Trained, killed, resumed. Part of `make test-faults`: two nodes on two cores take minutes.
"""

import os
import signal
import socket
import subprocess
import sys
import tempfile
import time
from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tasks.artifacts import read_json
from trainer.records import read_records

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.faults, pytest.mark.timeout(2400)]
RAY = [sys.executable, "-c", "from ray.scripts.scripts import main; main()", "start", "--block"]


def free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return one.getsockname()[1]


class Cluster:
    """Two raylets of this host, each with 16 logical CPUs and one logical GPU."""

    def __init__(self, scratch: Path):
        self.address = f"127.0.0.1:{free_port()}"
        self.environment = {
            **os.environ,
            "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER": "1",  # asked for where there is no network
            "RAY_AUTH_MODE": "disabled",
            "RAY_USAGE_STATS_ENABLED": "0",
            "STAGECRAFT_RUN": str(scratch),
            "STAGECRAFT_KEEP_ADVANTAGES": "1",
        }
        common = ["--num-cpus=16", "--num-gpus=1", "--min-worker-port=0", "--max-worker-port=0"]
        port = self.address.rpartition(":")[2]
        head = ["--head", f"--port={port}", "--include-dashboard=false", f"--temp-dir={scratch}"]
        # Its client server is not wanted, but cannot be switched off.
        head += [f"--ray-client-server-port={free_port()}"]
        self.parts = [self._start(scratch / "head.log", *head, *common)]
        self._wait(1)
        joined = self._start(scratch / "second.log", f"--address={self.address}", *common)
        self.parts.append(joined)
        self._wait(2)

    def _start(self, log: Path, *arguments: str) -> subprocess.Popen:
        return subprocess.Popen(
            [*RAY, *arguments],
            env=self.environment,
            stdout=log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    def _wait(self, nodes: int) -> None:
        ask = (
            "import ray, sys; ray.init(address=sys.argv[1], log_to_driver=False); "
            "print(sum(node['Alive'] for node in ray.nodes()))"
        )
        deadline = time.monotonic() + 180
        while True:
            done = subprocess.run(
                [sys.executable, "-c", ask, self.address],
                env=self.environment,
                capture_output=True,
                text=True,
                timeout=180,
            )
            if done.stdout.strip() == str(nodes):
                return
            assert time.monotonic() < deadline, done.stdout + done.stderr
            time.sleep(1)

    def stop(self) -> None:
        for process in self.parts:
            below = psutil.Process(process.pid).children(recursive=True)
            for one in [*below, process]:
                with suppress(psutil.Error, OSError):
                    one.kill()
            process.wait()


@pytest.fixture(scope="module")
def cluster():
    # Not under pytest's folder: Ray's sockets allow paths of 107 characters.
    with tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp", ignore_cleanup_errors=True) as name:
        started = Cluster(Path(name))
        try:
            yield started
        finally:
            started.stop()


STAGE = """
import sys, time
import ray
from trainer.backend import run

ray.init(address=sys.argv[1], log_to_driver=False)
run.ENDS = float(sys.argv[2])
claimed = run.claim(sys.argv[1])
print("at work", flush=True)
time.sleep(3600)
"""


def stage(cluster: Cluster, patience: float) -> subprocess.Popen:
    """What a stage does first on a cluster, and then nothing for an hour."""
    return subprocess.Popen(
        [sys.executable, "-c", STAGE, cluster.address, str(patience)],
        env={**cluster.environment, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def test_of_two_stages_that_begin_at_once_one_gets_the_cluster_until_it_is_killed(cluster):
    begun = [stage(cluster, patience=10), stage(cluster, patience=10)]
    deadline = time.monotonic() + 300
    while (ended := [one.poll() for one in begun]) == [None, None]:
        assert time.monotonic() < deadline
        time.sleep(0.2)
    holder, refused = begun if ended[0] is None else reversed(begun)
    assert refused.returncode == 1
    assert "hint: one stage at a time on a cluster" in refused.stderr.read()
    assert holder.stdout.readline() == "at work\n"

    holder.kill()
    after = stage(cluster, patience=30)
    assert after.stdout.readline() == "at work\n", after.stderr.read()
    after.kill()


def train(cluster: Cluster, output: Path) -> subprocess.Popen:
    settings = ["experiment=lab/smoke", "stage=1", "stages.0.steps=4", f"output={output}"]
    settings += ["hardware.nodes=2", f"hardware.ray_address={cluster.address}"]
    return subprocess.Popen(
        [sys.executable, "-m", "flows.train_stage", *settings],
        env={**cluster.environment, "PYTHONPATH": str(ROOT)},
        stdout=output.with_suffix(".log").open("ab"),
        stderr=subprocess.STDOUT,
        start_new_session=True,
    )


def test_a_stage_trains_over_two_nodes_is_killed_and_resumes(
    cluster, tmp_path, groups_not_together
):
    output = tmp_path / "outputs"
    log = output.with_suffix(".log")
    first = train(cluster, output)
    deadline = time.monotonic() + 900
    while "step 1/4" not in log.read_text():
        assert first.poll() is None and time.monotonic() < deadline, log.read_text()
        time.sleep(0.2)
    os.killpg(first.pid, signal.SIGKILL)
    first.wait()

    assert train(cluster, output).wait(900) == 0, log.read_text()
    (folder,) = (output / "stages").glob("1-*")
    manifest = read_json(folder / "stage.json")
    assert [one["outcome"] for one in manifest["attempts"]][-1] == "finished"
    assert len(manifest["attempts"]) == 2
    records = read_records(folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]
    assert all(record["probability_difference/max"] < 1e-3 for record in records)
    assert groups_not_together(folder / "advantages.jsonl", steps=4) > 0
    # One shard of weights from each node.
    shards = {path.name for path in (folder / "verl" / "global_step_4" / "actor").glob("model_*")}
    assert shards == {"model_world_size_2_rank_0.pt", "model_world_size_2_rank_1.pt"}
