"""verl's replay buffer, taken over: it follows the stream of prompt groups until a step is ready.

The built-in one waits for a batch of groups and hands them out as they completed, which no two runs
share. This one tells the stream what came back, has sampled what the stream asks for, and hands out
what it chose, in the order in which the prompts were drawn.
"""

import math
import time
from collections.abc import Callable, Iterable, Sequence
from pathlib import Path
from typing import Any

import transfer_queue as tq
from transfer_queue import KVBatchMeta
from verl.trainer.ppo.v1.replay_buffer import ReplayBuffer

from trainer.backend.group_store import PARTITION
from trainer.backend.signs import Signs
from trainer.backend.stop import check_stop
from trainer.selection import Choice, Order, Rollout, Stream

LOOK = 0.2  # seconds between looks for a stop, or for a group that is overdue
# Errors, Ray's and vLLM's, that tell of a process: every group that comes after fails by it, too.
DEATHS = ("ActorDiedError", "EngineDeadError")


class EngineLostError(RuntimeError):
    """No group comes back any more. To take other prompts would skip them one by one."""


class PromptReplayBuffer(ReplayBuffer):
    """Feeds a stream and materialises its choices.

    Attributes:
        stream: The stream it follows.
        choices: What `sample` gave last.
    """

    def __init__(self, **settings: Any):
        super().__init__(**settings)
        self.stop_file = Path(self.sampler_kwargs["stop_file"])
        self.choices: list[Choice] = []
        self.kept: frozenset[str] = frozenset()
        self.put_off: list[str] = []  # dropped while they were kept
        self.signs = Signs()

    def follow(
        self,
        stream: Stream,
        submit: Callable[[Sequence[Order]], None],
        wait: Callable[[float], None],
        timeout: float,
    ) -> None:
        """Follow a stream from here on.

        Args:
            stream: It says what is to be sampled.
            submit: Has it sampled.
            wait: Returns when groups came back, or after as many seconds. verl's own buffer looks
                every 2 s, which on a laptop would be longer than a step.
            timeout: Seconds in which no group at all came back, after which those are given up
                that have been asked for as long. From its own order alone a group would have to
                wait for the others in the engine's queue, and the longest would be lost.
                Where those that took their places do not come back either, the engine is lost.
        """
        self.stream, self.submit, self.wait, self.timeout = stream, submit, wait, timeout
        self.alive = time.monotonic()  # when a group came back last
        self.given_up = -math.inf  # when some were given up last
        self.asked: dict[str, tuple[int, float]] = {}  # uid -> first rollout asked for, when

    def begin(self, step: int) -> None:
        """Start a step: what waited gets its places, and the first prompts are sampled."""
        self.stream.begin(step)
        self._submit()

    def sample(self, global_steps: int, partition_id: str, batch_size: int):
        """What the step trains on, once nothing is being sampled any more.

        Returns:
            The rollouts with a say in the step's advantages, by draw and number; no metrics.

        Raises:
            NothingToTrainOnError: not one group qualified.
            StopRequestedError: a stop was asked for.
            EngineLostError: a process that samples or grades died, or is silent for good.
        """
        while not self.stream.ready:
            if self._hear():
                out = len(self.asked)
                self.signs.tell(f"step {global_steps}: prompt groups came back, {out} are out")
            else:
                check_stop(self.stop_file)
                self.wait(LOOK)
            self._submit()
        self.choices = self.stream.take()
        return self._materialised(), {}

    def _hear(self) -> int:
        """Tell the stream of every group that came back, or that is given up; how many."""
        tags = tags_in_queue()
        heard, now = 0, time.monotonic()
        for uid, (first, _) in list(self.asked.items()):
            tag = tags.get(uid, {})
            back = tag.get("status") in ("finished", "failure") and tag.get("first") == first
            if back:
                heard, self.alive = heard + 1, now
                del self.asked[uid]
                if tag["status"] == "finished":
                    self.stream.graded(uid, [Rollout(*values) for values in tag["rollouts"]])
                elif tag["reason"] in DEATHS:
                    raise EngineLostError(
                        f"prompt group {uid} failed by {tag['reason']}: a sampling engine, a "
                        "reward worker or the router of requests died\n\nhint: `grep -A20 "
                        "failed: trainer.log` shows which; one that nobody killed may have been "
                        "ended for want of memory (`dmesg` says so); run again, the stage goes on "
                        "from its last checkpoint"
                    )
                elif not self.stream.failed(uid, tag["reason"]):  # given up before
                    self.stream.released.append(uid)
        heard += self._give_up(now)
        self._forget(self.stream.released, tags)
        self.stream.released.clear()
        return heard

    def _give_up(self, now: float) -> int:
        """Give up the groups that the engine has been silent on for too long; how many."""
        before, count = self.given_up, 0
        for uid, (_, since) in self.asked.items():
            quiet = now - max(since, self.alive)
            if quiet > self.timeout and self.stream.failed(uid, "timeout"):
                count, self.given_up = count + 1, now
                print(f"prompt group {uid} given up: none came back for {quiet:.0f} s", flush=True)
                if since >= before > self.alive:
                    raise EngineLostError(
                        f"found a sampling engine from which no prompt group came back for "
                        f"{now - self.alive:.0f} s, nor any of those that took the places of "
                        "groups that were given up, needed one that answers\n\nhint: run again, "
                        "the stage goes on from its last checkpoint; an engine that is only slow "
                        f"needs more than selection.timeout={self.timeout:g}"
                    )
        return count

    def _submit(self) -> None:
        orders = self.stream.orders()
        if orders:
            now = time.monotonic()
            self.asked |= {order.group.uid: (order.first, now) for order in orders}
            self.submit(orders)

    def _materialised(self) -> KVBatchMeta:
        tags = tags_in_queue()
        keys = [key for choice in self.choices for key in rows(choice.group.uid, choice.baseline)]
        chosen = set(keys)
        taken = {choice.group.uid for choice in self.choices}
        done = [key for key in tags if key.split("_")[0] in taken and key not in chosen]
        self._forget(self.stream.released, tags)
        self.stream.released.clear()
        self.drop(done)
        return KVBatchMeta(partition_id=PARTITION, keys=keys, tags=[tags[key] for key in keys])

    def _forget(self, uids: Iterable[str], tags: dict[str, dict]) -> None:
        """Drop groups and their rollouts, but a group that may still come back keeps its name."""
        uids = set(uids)
        if not uids:
            return
        self.drop([key for key in tags if key.split("_")[0] in uids and key not in self.asked])

    def drop(self, keys: Sequence[str]) -> None:
        """Take rollouts and words out of the queue; kept rollouts, once they no longer are."""
        later = {key for key in keys if "_" in key and key.split("_")[0] in self.kept}
        self.put_off += later
        if gone := [key for key in keys if key not in later]:
            tq.kv_clear(keys=gone, partition_id=PARTITION)

    def keep(self, uids: Iterable[str]) -> None:
        """Keep the rollouts of these groups in the queue until the next call.

        They are a part of the state after the last whole step. To fetch them at the end of each
        would cost as much as to put them, and only a stop asks for them.
        """
        self.kept = frozenset(uids)
        if self.put_off:
            there = tags_in_queue()
            put_off, self.put_off = self.put_off, []
            self.drop([key for key in put_off if key in there])


def tags_in_queue() -> dict[str, dict[str, Any]]:
    """Every key of the training partition with its tag."""
    return (tq.kv_list(PARTITION) or {}).get(PARTITION, {})


def rows(uid: str, numbers: Iterable[int]) -> list[str]:
    """Keys of rollouts of a group.

    >>> rows("000000008", range(2))
    ['000000008_0_0', '000000008_1_0']
    """
    return [f"{uid}_{number}_0" for number in numbers]
