"""verl's worker, and what a stage may keep of the one before: its optimizer, its reference policy.

By default a stage starts with both anew, as FastCuRL did; verl alone has no other way. Beside that,
the worker's loss knows steps of a single update, and steps that are short of prompts.
"""

from functools import partial
from typing import Any

import torch
from omegaconf import open_dict
from tensordict import TensorDict
from torch import Tensor
from verl.single_controller.base.decorator import Dispatch, register
from verl.utils import tensordict_utils as tu
from verl.utils import torch_functional
from verl.utils.device import get_device_id
from verl.workers.engine.fsdp import transformer_impl
from verl.workers.engine_workers import ActorRolloutRefWorker, TrainingWorker

from trainer.backend import single_update
from trainer.backend.signs import Signs
from trainer.backend.temporary import removed_after

SIGNS = Signs()


class ReferenceWorker(TrainingWorker):
    """The reference policy, with the weights of another folder than the trained model's."""

    def __init__(self, config, *, weights: str):
        config.model_config.local_path = weights  # a copy of the trained model's: verl makes one
        super().__init__(config)


class ActorWorker(TrainingWorker):
    """The policy that trains."""

    def train_batch(self, data: TensorDict) -> TensorDict:
        """As verl does, one update, with its rollouts counted."""
        count_rollouts(data, self.engine.get_data_parallel_group())
        result = super().train_batch(data)
        SIGNS.tell("an update was made, the step goes on")  # of all ranks Ray tells it once
        return result


class StageWorker(ActorRolloutRefWorker):
    """verl's actor, rollout and reference in one, for one stage."""

    actor_worker_cls = ActorWorker

    def __init__(self, config, *arguments: Any, **settings: Any):
        with open_dict(config):
            reference = config.pop("reference_from", None)
        if reference:
            self.ref_worker_cls = partial(ReferenceWorker, weights=reference)
        super().__init__(config, *arguments, **settings)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def init_model(self) -> None:
        """As verl does, with our loss around its own."""
        super().init_model()
        if "actor" in self.role:
            self.set_loss_fn(partial(single_update.loss, self.loss_fn))
            if not self.config.actor.entropy_coeff:
                gradient_over_logits()

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def save_checkpoint(self, *arguments: Any, **settings: Any) -> None:
        """As verl does, without the lock files that it leaves."""
        with removed_after():
            super().save_checkpoint(*arguments, **settings)

    @register(dispatch_mode=Dispatch.ONE_TO_ALL)
    def carry_optimizer(self, folder: str, learning_rate: float) -> None:
        """Take over the optimizer state (moments, step count) that verl saved of another stage.

        The learning rate is this stage's own, where its warm-up begins: the saved state holds the
        other's.

        Args:
            folder: verl's checkpoint of that stage, `global_step_N/actor`.
            learning_rate: Of this stage.
        """
        saver = self.actor.engine.checkpoint_manager
        usual = saver.checkpoint_load_contents
        saver.checkpoint_load_contents = ["optimizer"]
        try:
            self.actor.engine.load_checkpoint(folder, del_local_after_load=False)
        finally:
            saver.checkpoint_load_contents = usual
        engine = self.actor.engine
        scheduled = engine.lr_scheduler.get_last_lr()
        for group, now in zip(engine.optimizer.param_groups, scheduled, strict=True):
            group["lr"], group["initial_lr"] = now, learning_rate


def count_rollouts(data: TensorDict, group: Any) -> None:
    """Let a mean over rollouts (`seq-mean-*`) be one over those that are there.

    verl divides by the rollouts of a whole mini-batch; of a step that is short of prompts some are
    padding, which would make the update smaller than that of a full one. Rollouts that the overlong
    filter took out keep a token, and count.

    Args:
        data: This rank's share of a mini-batch; `loss_mask` is 0 in all of a row of padding.
        group: Ranks that share the mini-batch.
    """
    there = torch.stack([row.any() for row in data["loss_mask"].unbind()]).sum()
    there = there.to(get_device_id())
    torch.distributed.all_reduce(there, group=group)
    tu.assign_non_tensor(data, global_batch_size=max(1, there.item()))


def gradient_over_logits() -> None:
    """Let the gradient of log-probabilities take the place of the logits, whether or not verl is to
    tell entropy. For a loss without a term of it.

    Where verl tells entropy it has flash-attn's kernel keep the logits, since a gradient of entropy
    would want them: the largest tensor of an update twice, for a gradient that nobody asks for.
    """
    of_logits = torch_functional.logprobs_from_logits

    def in_place(logits: Tensor, labels: Tensor, inplace_backward: bool = True) -> Tensor:
        return of_logits(logits, labels)

    transformer_impl.logprobs_from_logits = in_place
