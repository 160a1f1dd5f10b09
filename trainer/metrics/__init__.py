"""How good is a policy, and how sure are we? Scores from graded samples, without models or files.

Vocabulary (papers mix these up; we do not):
    avg@k   mean correctness over k samples per problem. Many papers print it as "pass@1".
    pass@k  chance that at least one of k samples is correct.
    maj@k   whether the most frequent of k answers is correct.
"""

from trainer.metrics.costs import Cost, Speedup, cost_to_target, score_at, speed_up
from trainer.metrics.design import (
    POWER,
    WITHIN,
    holm,
    smallest_difference,
    smallest_difference_of_design,
)
from trainer.metrics.intervals import (
    RESAMPLES,
    Difference,
    Interval,
    interval,
    paired_difference,
)
from trainer.metrics.scores import (
    Lengths,
    avg_at_k,
    g_pass_at_k,
    lengths_by_correctness,
    m_g_pass_at_k,
    maj_at_k,
    pass_at_k,
    pass_at_k_by_problem,
    spread_over_samples,
    truncation_share,
)
from trainer.metrics.seeds import (
    Estimate,
    SeedSpread,
    over_seeds,
    paired_over_seeds,
    spread_over_seeds,
)

__all__ = [
    "POWER",
    "RESAMPLES",
    "WITHIN",
    "Cost",
    "Difference",
    "Estimate",
    "Interval",
    "Lengths",
    "SeedSpread",
    "Speedup",
    "avg_at_k",
    "cost_to_target",
    "g_pass_at_k",
    "holm",
    "interval",
    "lengths_by_correctness",
    "m_g_pass_at_k",
    "maj_at_k",
    "over_seeds",
    "paired_difference",
    "paired_over_seeds",
    "pass_at_k",
    "pass_at_k_by_problem",
    "score_at",
    "smallest_difference",
    "smallest_difference_of_design",
    "speed_up",
    "spread_over_samples",
    "spread_over_seeds",
    "truncation_share",
]
