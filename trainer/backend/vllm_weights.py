"""The way of weights into vLLM, one for each run: verl's has one name on the whole machine.

verl names the socket after Ray's job, and the first job of every Ray is called 01000000. Of two
runs on one machine the second would take the socket away from the first.
"""

import os
from pathlib import Path
from typing import Any

from verl.workers.rollout import vllm_rollout
from verl.workers.rollout.vllm_rollout.utils import vLLMColocateWorkerExtension

from trainer.warm import MARK

VERLS = "ipc:///tmp/"  # where verl has its socket
LONGEST = 107  # characters of a socket's path


def of_this_run(handle: str) -> str:
    """verl's socket, in the folder of this run's Ray, which nobody shares with it.

    Both sides run on one node and know that folder by the same variable. Where there is none (a
    Ray that was joined), or none that leaves room for the name, it stays where verl has it: the
    jobs of one Ray have different names.
    """
    folder = os.environ.get(MARK, "")
    moved = handle.replace(VERLS, f"ipc://{folder}/")
    fits = len(moved.removeprefix("ipc://")) <= LONGEST
    return moved if Path(folder).is_absolute() and Path(folder).is_dir() and fits else handle


class ServerAdapter(vllm_rollout.ServerAdapter):
    """verl's sender of weights."""

    def __init__(self, *arguments: Any, **settings: Any):
        super().__init__(*arguments, **settings)
        self.zmq_handle = of_this_run(self.zmq_handle)


class WorkerExtension(vLLMColocateWorkerExtension):
    """verl's receiver of weights, within vLLM's worker."""

    def _get_zmq_handle(self) -> str:
        return of_this_run(super()._get_zmq_handle())
