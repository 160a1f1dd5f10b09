"""What a study would do, in words for a terminal."""

from conf.schema.study import Study
from tasks.sharing import Sharing
from tasks.words import count, number, percent, things

UNITS = {
    "steps_at_128": "steps of 128 prompts",
    "updates": "optimizer updates",
    "rollouts": "rollouts",
    "tokens_at_most": "tokens at most",
}


def study_plan(study: Study, shared: Sharing, cached: set[str]) -> str:
    """A study's stages and what sharing them saves.

    Args:
        study: The study.
        shared: Its stages.
        cached: Labels of runs, with a slash and the stage's position, of what is trained already.
    """
    needed = sum(len(stage.runs) for stage in shared.stages)
    runs = len(study.arms) * len(study.seeds)
    lines = [
        f"{study.name}: {study.question}",
        "",
        f"{things(len(study.arms), 'arm')} by {things(len(study.seeds), 'seed')}: "
        f"{things(runs, 'run')} of {things(needed, 'stage')}, {len(shared.stages)} of them distinct"
        + (f"; {_trained(shared, cached)} trained already" if cached else ""),
        "",
    ]
    first = study.seeds[0]
    for arm in study.arms:
        label = f"{arm.name} seed {first}"
        parts = []
        for stage in shared.of_run(label):
            mark = "" if stage.runs[0] == label else f" (of {stage.runs[0].split(' seed ')[0]})"
            parts.append(f"{stage.name}{mark}")
        lines.append(f"{arm.name}: {' > '.join(parts)}")
    lines += [
        "",
        "cost if each run trained all its stages > cost with each distinct stage trained once:",
    ]
    for unit, name in UNITS.items():
        alone, together = shared.alone[unit], shared.shared[unit]
        show = number if alone < 10 else count  # the lab's come to less than one step of 128
        lines.append(
            f"  {name}: {show(alone)} > {show(together)}, {percent(shared.saved(unit))} saved"
        )
    return "\n".join(lines)


def _trained(shared: Sharing, cached: set[str]) -> int:
    return sum(
        any(f"{run}/{stage.position}" in cached for run in stage.runs) for stage in shared.stages
    )
