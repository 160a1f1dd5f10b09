"""Overlong filtering: rollouts cut off at the context length do not train.

Source: Yu et al. 2025, "DAPO", arXiv:2503.14476, section 3.4. verl 0.9.1's V1 trainer has none.
"""

from collections.abc import Collection

import torch
import transfer_queue as tq
from tensordict import TensorDict


def drop_truncated(batch, ends: Collection[int]) -> int:
    """Take rollouts that do not end in an end token out of the loss, after advantages are known.

    Their rewards have counted in the baseline. One token of each stays, with advantage 0: a
    mini-batch of nothing but such rollouts then has a loss of 0, where verl would divide by 0
    tokens. Both masks are written, since verl divides by the tokens of `loss_mask` and adds those
    of `response_mask`. The sequence means of verl count the rollouts that were dropped.

    Args:
        batch: verl's batch in the transfer queue.
        ends: Ids of end tokens.

    Returns:
        Tokens that were taken out.
    """
    rows = tq.kv_batch_get(
        keys=batch.keys,
        partition_id=batch.partition_id,
        select_fields=["responses", "response_mask", "advantages"],
    )
    responses = list(rows["responses"].unbind())
    masks = list(rows["response_mask"].unbind())
    advantages = list(rows["advantages"].unbind())
    dropped = without_truncated(responses, masks, advantages, ends)
    if dropped:
        mask = torch.nested.as_nested_tensor(masks, layout=torch.jagged)
        fields = {
            "response_mask": mask,
            "loss_mask": mask,
            "advantages": torch.nested.as_nested_tensor(advantages, layout=torch.jagged),
        }
        tq.kv_batch_put(
            keys=batch.keys,
            partition_id=batch.partition_id,
            fields=TensorDict(fields, batch_size=len(masks)),
        )
    return dropped


def without_truncated(
    responses: list[torch.Tensor],
    masks: list[torch.Tensor],
    advantages: list[torch.Tensor],
    ends: Collection[int],
) -> int:
    """Mask all but one token of every truncated rollout, and make its advantage 0, in the lists.

    Args:
        responses: [N] of [T] ids.
        masks: [N] of [T].
        advantages: [N] of [T].
        ends: Ids of end tokens.

    Returns:
        Tokens that were masked.
    """
    dropped = 0
    for row, response in enumerate(responses):
        if int(response[-1]) in ends:
            continue
        kept = torch.zeros_like(masks[row])
        kept[0] = masks[row][0]
        dropped += int((masks[row] - kept).sum())
        masks[row], advantages[row] = kept, torch.zeros_like(advantages[row])
    return dropped
