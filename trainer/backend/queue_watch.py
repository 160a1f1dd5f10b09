"""A transfer queue that dies is told at once: a call to it would wait for its answer for ever.

verl asks the queue over sockets of its own, which say nothing when the other side is gone. Ray,
which started its processes, knows.
"""

import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import ray
import transfer_queue
from transfer_queue import interface

NAME = "watch of the transfer queue"
LOOK = 2.0  # seconds between looks
GRACE = 10.0  # seconds in which whoever else noticed may say more, such as that Ray is gone


class QueueLostError(RuntimeError):
    """A process of the transfer queue died, and with it the rollouts that it held."""


@contextmanager
def watched(lost: Callable[[QueueLostError], None], *, leave_open: bool) -> Iterator[None]:
    """Watch verl's queue, from where it opens one within the block to where it closes it.

    Args:
        lost: Called with the error if a process of the queue died, from a thread of its own: the
            others may wait for the queue. This process then ends with exit code 1.
        leave_open: Where no error is on its way, let verl leave the queue open: its storage looks
            once a second whether it should end, and goes with Ray anyway.
    """
    init, close = transfer_queue.init, transfer_queue.close
    ended = threading.Event()

    def opened(*given: Any) -> Any:
        made = init(*given)
        there = processes()
        threading.Thread(target=_watch, args=(there, ended, lost), name=NAME, daemon=True).start()
        return made

    def closed() -> None:
        ended.set()
        if sys.exception() or not leave_open:
            close()

    transfer_queue.init, transfer_queue.close = opened, closed
    try:
        yield
    finally:
        ended.set()
        transfer_queue.init, transfer_queue.close = init, close


def processes() -> dict[str, ray.actor.ActorHandle]:
    """The processes of the queue that this one opened, each by what it is."""
    storage = (interface._TQ_STORAGE or {}).get("SimpleStorage", {})
    return {"controller": interface._TQ_CONTROLLER} | {
        f"storage {number}": unit for number, unit in enumerate(storage.values())
    }


def dead(watched: Mapping[str, ray.actor.ActorHandle]) -> list[str]:
    """Names of processes that ended. One that is busy, or out of reach for a moment, did not."""
    found = []
    for name, process in watched.items():
        try:
            ray.get(process.__ray_ready__.remote(), timeout=LOOK)
        except ray.exceptions.ActorDiedError:
            found.append(name)
        except (ray.exceptions.GetTimeoutError, ray.exceptions.ActorUnavailableError):
            continue
    return found


def _watch(
    watched: Mapping[str, ray.actor.ActorHandle],
    ended: threading.Event,
    lost: Callable[[QueueLostError], None],
) -> None:
    while not ended.wait(LOOK):
        try:
            gone = dead(watched)
        except Exception as error:  # Ray itself is gone, which the trainer hears of by itself
            print(f"the transfer queue is not watched any more: {error!r}", flush=True)
            return
        if gone and not ended.wait(GRACE):
            try:
                lost(
                    QueueLostError(
                        f"found the transfer queue's {' and '.join(gone)} dead, needed it to hold "
                        "the rollouts of a step\n\nhint: a process that nobody killed may have "
                        "been ended for want of memory (`dmesg` says so); run again, the stage "
                        "goes on from its last checkpoint"
                    )
                )
                sys.stdout.flush()
            finally:  # also where the disk is full, and nothing can be told
                os._exit(1)  # the guard ends what is left; the main thread may never hear of it
