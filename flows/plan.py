"""What an experiment would do, stage by stage: steps, updates, tokens, verl's settings, doubts.

python -m flows.plan experiment=fastcurl
python -m flows.plan experiment=fastcurl --settings
python -m flows.plan experiment=fastcurl --json

The same as `stagecraft plan`. Needs no GPU; downloads and trains nothing.
"""

import sys

from tasks.disk import readable
from tasks.plan import RESUME, Plan, StagePlan
from tasks.words import ABSENT, count, number, table

AMOUNTS = {
    "steps": "steps",
    "updates": "updates",
    "prompts": "prompts",
    "rollouts": "rollouts",
    "tokens_at_most": "tokens at most",
    "steps_at_128": "steps at 128",
}
# What says how a stage learns; `--settings` shows the rest too.
LEARNING = (
    "data.train_batch_size",
    "data.max_prompt_length",
    "data.max_response_length",
    "data.seed",
    "trainer.total_training_steps",
    "trainer.save_freq",
    "algorithm.adv_estimator",
    "algorithm.use_kl_in_reward",
    "algorithm.kl_penalty",
    "algorithm.kl_ctrl.kl_coef",
    *(
        f"actor_rollout_ref.{name}"
        for name in (
            "rollout.n",
            "rollout.temperature",
            "rollout.top_p",
            "actor.ppo_mini_batch_size",
            "actor.optim.lr",
            "actor.optim.lr_warmup_steps",
            "actor.optim.weight_decay",
            "actor.optim.clip_grad",
            "actor.loss_agg_mode",
            "actor.loss_scale_factor",
            "actor.policy_loss.loss_mode",
            "actor.clip_ratio_low",
            "actor.clip_ratio_high",
            "actor.clip_ratio_c",
            "actor.use_kl_loss",
            "actor.kl_loss_coef",
            "actor.kl_loss_type",
            "actor.entropy_coeff",
        )
    ),
)


def plan_text(plan: Plan, *, whole: bool = False) -> str:
    """A plan for people: amounts by stage, the reasons for each, verl's settings, doubts.

    Args:
        plan: The plan.
        whole: Whether to show every setting that verl gets, or those of learning.
    """
    parts = [
        [
            f"{plan.experiment}, seed {plan.seed}, output {plan.output} "
            f"({readable(plan.disk_free)} free)"
        ],
        _amounts(plan),
        [line for stage in plan.stages for line in _reasons(stage)],
        _settings(plan, whole),
        [f"warning: {remark}" for remark in plan.remarks],
        [
            *(["the sources disagree:"] if plan.notes else []),
            *(f"  {name}: {note}" for name, note in plan.notes.items()),
        ],
    ]
    return "\n\n".join("\n".join(part) for part in parts if part)


def _amounts(plan: Plan) -> list[str]:
    rows = [["stage", "", *AMOUNTS.values(), "disk"]]
    sums = {name: sum(stage.expected[name] for stage in plan.stages) for name in AMOUNTS}
    disks = [stage.disk_bytes for stage in plan.stages]
    for name, state, amounts, disk in (
        *((stage.name, _state(stage), stage.expected, stage.disk_bytes) for stage in plan.stages),
        ("all stages", "", sums, None if None in disks else sum(disks)),
        ("left to do", "", plan.left, plan.disk_to_come),
    ):
        cells = [_amount(key, amounts[key]) for key in AMOUNTS]
        rows.append([name, state, *cells, ABSENT if disk is None else readable(disk)])
    return table(rows, left=2)


def _amount(name: str, value: float) -> str:
    return number(value) if name == "steps_at_128" else count(value)


def _state(stage: StagePlan) -> str:
    if stage.state == RESUME:
        return f"resume after step {stage.after_step}"
    return stage.state


def _reasons(stage: StagePlan) -> list[str]:
    lines = [*stage.reasons, *filter(None, (stage.may_end, stage.alarm))]
    return [f"{stage.name}: {lines[0]}", *(f"  {line}" for line in lines[1:])]


def _settings(plan: Plan, whole: bool) -> list[str]:
    """A row for each of verl's settings, a column for each stage."""
    names = list(dict.fromkeys(name for stage in plan.stages for name in stage.settings))
    shown = names if whole else [name for name in names if name in LEARNING]
    rows = [["verl's setting", *(stage.name for stage in plan.stages)]]
    for name in shown:
        values = [_value(stage.settings.get(name, ABSENT)) for stage in plan.stages]
        # Long values, such as paths, would push the others out of sight.
        short = [value if len(value) <= 40 else f"...{value[-37:]}" for value in values]
        rows.append([name.lstrip("+"), *short])
    if not shown:  # the settings are refused
        return []
    hidden = len(names) - len(shown)
    more = [f"and {hidden} more: add --settings"] if hidden else []
    return [*table(rows, left=len(rows[0])), *more]


def _value(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)


if __name__ == "__main__":
    from flows.cli import main

    sys.exit(main(["plan", *sys.argv[1:]]))
