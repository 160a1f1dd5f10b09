"""The reward as verl asks for it: one rollout in, one number and what is to be kept out."""

from trainer.rewards import grade


def compute_score(data_source, solution_str: str, ground_truth, extra_info=None) -> dict:
    """Reward 1 for a right response and 0 for any other.

    Not `async`: verl calls a plain function in a thread, so that its event loop goes on while
    expressions are compared.

    Args:
        data_source: Name of the source; the same grader serves all.
        solution_str: Decoded response.
        ground_truth: Acceptable answers.
        extra_info: Whatever else the dataset holds; not looked at.

    Returns:
        `score` in {0, 1}, `acc` the same as correctness (they differ once a reward is shaped),
        and `reason`, why it was decided so.
    """
    result = grade(solution_str, list(ground_truth))
    return {
        "score": float(result.correct),
        "acc": float(result.correct),
        "reason": str(result.reason),
    }
