"""What every verl process loads first (`VERL_USE_EXTERNAL_MODULES`): our platform and our rollouts.

Kept light: it runs in each of the ten or so processes of a stage.
"""

import os

from trainer.backend import log_probs
from trainer.lean import lean_transformers

ROLLOUT = "torch"


def register_rollouts() -> None:
    """Make `rollout.name=torch` known to verl, the worker's side and the server's side.

    Of vLLM only the worker's side is ours.
    """
    from verl.workers.rollout import base
    from verl.workers.rollout.replica import RolloutReplicaRegistry

    def load_replica() -> type:
        from trainer.backend.rollout import TorchReplica

        return TorchReplica

    # A plain dict in verl 0.9.1; there is no function to register with.
    base._ROLLOUT_REGISTRY[(ROLLOUT, "async")] = "trainer.backend.rollout.ServerAdapter"
    base._ROLLOUT_REGISTRY[("vllm", "async")] = "trainer.backend.vllm_weights.ServerAdapter"
    RolloutReplicaRegistry.register(ROLLOUT, load_replica)


lean_transformers()
if os.environ.get("VERL_PLATFORM") == "cpu":
    from trainer.backend import cpu

    cpu.install()
log_probs.install()
register_rollouts()
if "STAGECRAFT_LOSS" in os.environ:  # `trainer.backend.surroundings.LOSS_VARIABLE`
    import trainer.backend.losses  # noqa: F401  registers itself
