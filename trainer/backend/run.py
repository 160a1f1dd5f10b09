"""Inside the trainer process: give verl its settings and run one stage.

A failure leaves failure.json in the stage's folder: what went wrong, in one message, for whoever
started this.
"""

import json
import os
import re
import sys
import time
import traceback
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from pathlib import Path

import ray
from omegaconf import OmegaConf
from verl.trainer.constants_ppo import get_ppo_ray_runtime_env
from verl.trainer.main_ppo import TaskRunnerV1
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

import trainer.backend.stage_trainer  # noqa: F401  registers itself
from conf.compose import compose
from trainer.backend.advantages import register
from trainer.backend.export import export
from trainer.backend.queue_watch import QueueLostError, watched
from trainer.backend.settings import overrides
from trainer.backend.stop import StopRequestedError
from trainer.holding import hold
from trainer.records import read_records
from trainer.transitions import ended

STOPPED = 143  # as a shell reports SIGTERM
CLAIM = {"name": "stagecraft", "namespace": "stagecraft"}
QUEUE = {"name": "TransferQueueController", "namespace": "transfer_queue"}  # as it names itself
ENDS = 30.0  # seconds that the queue of a stage which has just ended may take to do so, too


class StageRunner(TaskRunnerV1.__ray_metadata__.modified_class):
    """verl's task runner, in this process: as an actor it would start and import all of verl anew.

    Then the checkpoint is exported here, where torch and transformers are loaded already.
    """

    def run(self, config, leaves: bool, lost: Callable[[QueueLostError], None]) -> None:
        """Train and export.

        Args:
            config: verl's.
            leaves: This process ends with all that it started, once it is done.
            lost: Told if the transfer queue dies, before this process ends.

        Raises:
            StopRequestedError: it was asked to stop, and has saved its last whole step.
        """
        register(config.algorithm)  # here: verl computes advantages in this process
        with watched(lost, leave_open=leaves):
            super().run(config)
        verl_folder = Path(config.trainer.default_local_dir)
        export(
            verl_folder,
            Path(config.actor_rollout_ref.model.path),
            verl_folder.parent / "checkpoint",
            steps_of(config.trainer),
            config.actor_rollout_ref.rollout.dtype,
        )


def steps_of(trainer) -> int:
    """Steps that a stage was to make: fewer than it was given where its transition ended it."""
    records = read_records(Path(trainer.stagecraft.metrics_file))
    transition = json.loads(trainer.stagecraft.endings)["transition"]
    ending = ended(records, transition, trainer.total_training_steps)
    return ending.step if ending else trainer.total_training_steps


def start_ray(config, python: str | None) -> None:
    """Start or join Ray as verl's `run_ppo` does, with the environment that verl's workers want.

    Args:
        config: verl's.
        python: Command that starts a worker's Python; None: Ray's own way.
    """
    given = OmegaConf.to_container(config.ray_kwargs.ray_init, resolve=True)
    runtime_env = OmegaConf.merge(
        get_ppo_ray_runtime_env(config),
        {"env_vars": {"TRANSFER_QUEUE_ENABLE": "1"}},
        given.pop("runtime_env", None) or {},
        {"py_executable": python} if python else {},
    )
    ray.init(**given, runtime_env=OmegaConf.to_container(runtime_env))


def claim(cluster: str) -> ray.actor.ActorHandle:
    """See that no other stage trains on a Ray cluster that was joined, nor begins to.

    A cluster has one transfer queue, by its name. Of two stages each would train on rollouts of the
    other's, and the first to end would take the queue away. Since the queue is made long after a
    look for it, a stage first takes a name that Ray gives to one actor only.

    Args:
        cluster: Its address, for the message.

    Returns:
        What keeps others away until it is forgotten, or this process ends.

    Raises:
        RuntimeError: there is another stage, or another program's queue, and it stays.
    """

    class Claim:
        """Does nothing. Not this module's: its process would import all that this one does."""

    deadline = time.monotonic() + ENDS
    mine = None
    while True:
        with suppress(ValueError):  # another has this name
            mine = mine or ray.remote(num_cpus=0)(Claim).options(**CLAIM).remote()
        try:
            ray.get_actor(**QUEUE)
        except ValueError:  # nobody has this name
            if mine:
                return mine
        if time.monotonic() > deadline:
            raise RuntimeError(
                f"found another stage at work on the Ray cluster {cluster}, needed none: they "
                "would share one transfer queue\n\n"
                "hint: one stage at a time on a cluster: wait for the other, or give another "
                "hardware.ray_address, or none"
            )
        time.sleep(0.5)


def prepare(values: dict[str, object], python: str | None) -> None:
    """Start Ray for a stage that is to come, and have its first worker import what all will need.

    Args:
        values: verl's settings of Ray.
        python: Command that starts a worker's Python.
    """
    start_ray(compose("verl.trainer.config", "ppo_trainer", overrides(values)), python)
    ray.get(_nothing.options(num_cpus=0).remote())


@ray.remote
def _nothing() -> None:
    """What a first worker does."""


def write_failure(path: Path, error: BaseException) -> None:
    """Record an error unless the process nearest to its cause already has."""
    if not path.exists():
        kind, message = root_cause(error)
        trace = "".join(traceback.format_exception(error))
        path.write_text(json.dumps({"type": kind, "message": message, "traceback": trace}))


def root_cause(error: BaseException) -> tuple[str, str]:
    """Type and message of what went wrong first, out of Ray's wrapping.

    Ray keeps the original error of a task as `cause`; of an actor that died while it was made
    only the text remains, whose last paragraph starts with the original's type.
    """
    cause = getattr(error, "cause", None)
    if isinstance(cause, BaseException):
        return root_cause(cause)
    text = str(error)
    name = r"[\w.]+(?:Error|Exception)"
    original = re.findall(rf"^({name}): (.*(?:\n(?!{name}: ).*)*)", text, re.M)
    if isinstance(error, ray.exceptions.RayError) and original:
        kind, message = original[-1]
        return kind.rpartition(".")[2], message.strip()
    return type(error).__name__, text


def run(folder: Path, python: str | None) -> bool:
    """Run the stage whose settings stand in `folder`.

    Args:
        folder: The stage's; its settings.json holds what `settings` gave.
        python: Command that starts the Python of Ray's workers; None: Ray's own way.

    Returns:
        Whether this process may leave at once: all workers are forks, of a Ray that it started.
    """
    try:
        hold(folder, "trainer")
        values = json.loads((folder / "settings.json").read_text())["verl"]
        config = compose("verl.trainer.config", "ppo_trainer", overrides(values))
        auto_set_device(config)
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(config),
            use_critic=need_critic(config),
        )
        if not ray.is_initialized():
            start_ray(config, python)
        joined = config.ray_kwargs.ray_init.get("address") or os.environ.get("RAY_ADDRESS")
        claimed = claim(joined) if joined else None
        leaves = bool(python) and not joined
        StageRunner().run(config, leaves, partial(write_failure, folder / "failure.json"))
        del claimed
        return leaves
    except StopRequestedError:
        print("stopped: it was asked for", flush=True)
        sys.exit(STOPPED)
    except Exception as error:
        write_failure(folder / "failure.json", error)
        raise
