"""Inside the trainer process: give verl its settings and run one stage.

python -m trainer.backend.main FOLDER, where FOLDER/settings.json holds what `settings` gave.
A failure leaves FOLDER/failure.json: what went wrong, in one message, for whoever started this.
"""

import json
import re
import sys
import traceback
from pathlib import Path

import ray
from verl.trainer.main_ppo import TaskRunnerV1, run_ppo
from verl.trainer.ppo.utils import need_critic, need_reference_policy
from verl.utils.config import validate_config
from verl.utils.device import auto_set_device

from conf.compose import compose
from trainer.backend.settings import overrides
from trainer.backend.stop import STOP, StopRequestedError

STOPPED = 143  # as a shell reports SIGTERM


@ray.remote
class TaskRunner(TaskRunnerV1.__ray_metadata__.modified_class):
    """verl's task runner, with our trainer in its registry."""

    def run(self, config) -> None:
        """Train and export; on failure leave the reason beside the metrics."""
        import trainer.backend.stage_trainer  # noqa: F401  registers itself
        from trainer.backend.export import export

        verl_folder = Path(config.trainer.default_local_dir)
        start = Path(config.actor_rollout_ref.model.path)
        steps = config.trainer.total_training_steps
        failure = verl_folder.parent / "failure.json"
        try:
            super().run(config)
            # Here, where torch and transformers are loaded already: it saves their start-up.
            target = verl_folder.parent / "checkpoint"
            export(verl_folder, start, target, steps, config.actor_rollout_ref.rollout.dtype)
        except StopRequestedError:
            print("stopped: it was asked for", flush=True)
        except Exception as error:
            write_failure(failure, error)
            raise


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


def main(folder: Path) -> None:
    """Run the stage whose settings stand in `folder`."""
    try:
        values = json.loads((folder / "settings.json").read_text())["verl"]
        config = compose("verl.trainer.config", "ppo_trainer", overrides(values))
        auto_set_device(config)
        validate_config(
            config=config,
            use_reference_policy=need_reference_policy(config),
            use_critic=need_critic(config),
        )
        run_ppo(config, task_runner_class=TaskRunner)
        if (folder / STOP).exists():
            sys.exit(STOPPED)
    except Exception as error:
        write_failure(folder / "failure.json", error)
        raise


if __name__ == "__main__":
    main(Path(sys.argv[1]))
