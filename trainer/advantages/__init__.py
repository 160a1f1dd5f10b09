"""Advantages: what a rollout is worth beside others, as pure functions of the rewards.

Shapes: P prompt groups, G rollouts per group. Every estimator takes `rewards` [P, G] and gives
advantages [P, G]. Where groups are of unequal size, rows are filled up and `present` [P, G] says
which entries are rollouts; `by_prompt` does this from a flat batch and its prompt ids.
"""

from trainer.advantages.batch import (
    batch_return,
    batch_return_tokens,
    reinforce_plus_plus,
    reinforce_plus_plus_tokens,
    returns_to_go,
)
from trainer.advantages.group import dr_grpo, grpo, maxrl, rloo
from trainer.advantages.james_stein import james_stein
from trainer.advantages.rows import by_prompt

__all__ = [
    "ESTIMATORS",
    "PER_TOKEN",
    "batch_return",
    "batch_return_tokens",
    "by_prompt",
    "dr_grpo",
    "grpo",
    "james_stein",
    "maxrl",
    "reinforce_plus_plus",
    "reinforce_plus_plus_tokens",
    "returns_to_go",
    "rloo",
]

# Under the name that `method.advantage` and the tables use.
ESTIMATORS = {
    function.__name__: function
    for function in (
        grpo,
        dr_grpo,
        rloo,
        reinforce_plus_plus,
        batch_return,
        james_stein,
        maxrl,
    )
}
# The same two where every token has a reward of its own, as with the KL term in the reward.
PER_TOKEN = {
    "reinforce_plus_plus": reinforce_plus_plus_tokens,
    "batch_return": batch_return_tokens,
}
