"""Two runs on one machine have different sockets for their weights, each the same on both sides.

vLLM is not installed here, and without it verl's own two sides cannot be imported.
"""

import importlib
import importlib.util
import sys
import tempfile
from pathlib import Path
from types import ModuleType

import pytest

from trainer.warm import MARK

VERLS = "ipc:///tmp/rl-colocate-zmq-01000000-replica-0-rank-0.sock"  # the first job's, of every Ray
PACKAGE = "verl.workers.rollout.vllm_rollout"


class Sender:
    """As much of verl's as names the socket."""

    def __init__(self, *, replica_rank: int):
        self.zmq_handle = VERLS.replace("replica-0", f"replica-{replica_rank}")


class Receiver:
    """As much of verl's as names the socket."""

    def _get_zmq_handle(self) -> str:
        return VERLS


@pytest.fixture
def ours(monkeypatch):
    """Our module, on top of these."""
    package, within = ModuleType(PACKAGE), ModuleType(f"{PACKAGE}.utils")
    package.ServerAdapter, within.vLLMColocateWorkerExtension = Sender, Receiver
    monkeypatch.setattr("verl.workers.rollout.vllm_rollout", package, raising=False)
    monkeypatch.setitem(sys.modules, PACKAGE, package)
    monkeypatch.setitem(sys.modules, f"{PACKAGE}.utils", within)
    for name in ("vllm_weights", "vllm_cpu"):
        monkeypatch.delitem(sys.modules, f"trainer.backend.{name}", raising=False)
    yield importlib.import_module("trainer.backend.vllm_weights")
    for name in ("vllm_weights", "vllm_cpu"):
        sys.modules.pop(f"trainer.backend.{name}", None)


def sockets(ours, monkeypatch, scratch: Path) -> set[str]:
    """Names that the two sides give the socket in a run with this scratch folder."""
    monkeypatch.setenv(MARK, str(scratch))
    cpu = importlib.import_module("trainer.backend.vllm_cpu")
    receivers = [ours.WorkerExtension(), object.__new__(cpu.WorkerExtension)]
    return {
        ours.ServerAdapter(replica_rank=0).zmq_handle,
        *(receiver._get_zmq_handle() for receiver in receivers),
    }


def test_each_run_has_a_socket_of_its_own(ours, monkeypatch):
    with tempfile.TemporaryDirectory() as first, tempfile.TemporaryDirectory() as second:
        (one,) = sockets(ours, monkeypatch, Path(first))
        (other,) = sockets(ours, monkeypatch, Path(second))
    assert one != other
    assert one == f"ipc://{first}/rl-colocate-zmq-01000000-replica-0-rank-0.sock"


@pytest.mark.parametrize("name", ["gone", "l" * 100, ""])
def test_where_no_folder_can_hold_it_it_is_verls(ours, monkeypatch, tmp_path, name):
    if len(name) == 100:
        (tmp_path / name).mkdir()
    assert sockets(ours, monkeypatch, tmp_path / name if name else Path()) == {VERLS}


def test_a_guards_folder_has_room_for_it(ours):
    longest = VERLS.replace("replica-0-rank-0", "replica-1023-rank-1023").removeprefix("ipc:///tmp")
    assert len("/tmp/stagecraft-________" + longest) <= ours.LONGEST


def test_verl_still_names_it_so():
    spec = importlib.util.find_spec("verl")
    folder = Path(spec.origin).parent / "workers" / "rollout" / "vllm_rollout"
    for file in ("vllm_rollout.py", "utils.py"):
        assert 'f"ipc:///tmp/rl-colocate-zmq-' in (folder / file).read_text()


def test_verl_takes_them(monkeypatch):
    from verl.workers.rollout import base

    monkeypatch.setattr(base, "_ROLLOUT_REGISTRY", dict(base._ROLLOUT_REGISTRY))
    from trainer.backend.plugin import register_rollouts

    register_rollouts()
    name = base._ROLLOUT_REGISTRY["vllm", "async"]
    assert name == "trainer.backend.vllm_weights.ServerAdapter"
