"""The reward of the benchmark's rollouts, for the systems that do not call ours by themselves."""

from trainer.backend import reward

SETTINGS = {
    "right": 1.0,
    "wrong": 0.0,
    "malformed": 0.0,
    "overlong_share": 0.0,
    "overlong_penalty": 1.0,
    "think": "optional",
    "boxed": False,
    "seconds": 3.0,
    "memory": 1024,
    "workers": 0,
    "reward_workers": 1,
}


def compute_score(data_source, solution_str, ground_truth, extra_info=None, **_) -> dict:
    """What our reward says of one response, as verl asks for it: `score`, `acc`, `reason`."""
    facts = {**(extra_info or {}), "thinking": True, "response_tokens": 0}
    return reward.compute_score(
        data_source, solution_str, ground_truth, facts, context_length=1, **SETTINGS
    )
