"""Refuse method settings that cannot work, or that nothing would look at; warn of doubtful ones."""

from collections.abc import Callable, Collection, Mapping

from conf.load import ConfigError, refusal
from conf.schema import Experiment, Method, Reward
from conf.schema.method import ADVANTAGES, LOSSES
from trainer.functions import check_arguments, find
from trainer.reward_functions import GIVEN as GIVEN_TO_REWARDS

# Arguments that the trainer gives; all others are the user's settings.
GIVEN_TO_ESTIMATORS = ("rewards", "present", "lengths", "token_rewards", "mask")
GIVEN_TO_LOSSES = (
    "log_probs",
    "old_log_probs",
    "advantages",
    "mask",
    "clip_low",
    "clip_high",
    "dual_clip",
)
BASELINES_OF_THEIR_OWN = ("reinforce_plus_plus", "batch_return")  # no second rollout needed
# Metrics that a filter of groups by their pass rate moves.
OF_WHAT_TRAINS = {"reward/mean", "correct/mean", "zero_variance_share"}
FEW_PROMPTS = {"published": 8, "corrected": 16}  # of james_stein: rloo is safer below


def check(experiment: Experiment) -> None:
    """Refuse a method that cannot work or a setting of it that would be ignored.

    Raises:
        ConfigError: for the first thing that is wrong.
    """
    method = experiment.method
    _check_functions(experiment)
    _check_reward(experiment.reward)
    _check_ignored(experiment)
    for position, stage in enumerate(experiment.stages):
        needs = _rollouts_needed(method)
        if stage.group_size < needs:
            raise refusal(
                f"stages.{position}.group_size: found {stage.group_size} rollout, needed {needs} "
                f"or more for the advantage {method.advantage!r}: alone, a rollout has no baseline",
                f"set stages.{position}.group_size=8",
            )
    if method.advantage == "maxrl" and _negative_rewards(experiment):
        raise refusal(
            "method.advantage: found maxrl with rewards below 0, needed none: it divides by the "
            "pass rate",
            "use rewards of 1 and 0 without penalties (method.kl_in=loss), or another advantage",
        )


def warnings(experiment: Experiment) -> list[str]:
    """What will run, but perhaps not as meant: one sentence each."""
    method, reward, found = experiment.method, experiment.reward, []
    if reward.right <= reward.wrong and not reward.function:
        found.append(
            f"reward.right is {reward.right:g}, no more than reward.wrong, {reward.wrong:g}: "
            "so right answers are not what training rewards"
        )
    for stage in experiment.stages:
        watched = {each.metric for each in (*stage.transition.when, *stage.alarm.when)}
        chosen = sorted(watched & OF_WHAT_TRAINS)
        if chosen and filters_equal_groups(experiment):
            found.append(
                f"{stage.name}: its transition or alarm watches {', '.join(chosen)}, measured only "
                f"on the groups that selection={experiment.selection.name} lets train"
            )
        updates = experiment.selection.updates(
            stage.batch_size, stage.mini_batch_size, stage.group_size
        )
        usual = Method()
        clips = any(
            getattr(method, key) not in (None, getattr(usual, key))
            for key in ("clip_low", "clip_high", "dual_clip")
        )
        if updates == 1 and clips and _on_policy(experiment):
            found.append(
                f"{stage.name}: one update a step, so the policy is still the one that sampled and "
                f"the clip {method.clip_low:g}/{method.clip_high:g} never acts"
            )
        if method.advantage == "james_stein":
            variant = str(method.advantage_settings.get("variant", "published"))
            if stage.batch_size < FEW_PROMPTS.get(variant, 0):
                found.append(
                    f"{stage.name}: {stage.batch_size} prompts are few for james_stein "
                    f"({variant}), whose baseline may be worse than rloo's there"
                )
    if method.advantage == "james_stein" and filters_equal_groups(experiment):
        found.append(
            "james_stein gives groups of equal rewards an advantage that is not 0; "
            f"selection={experiment.selection.name} takes those groups out"
        )
    if method.overlong_filter and method.loss_average.startswith("seq-mean"):
        found.append(
            f"overlong_filter with {method.loss_average}: verl divides by all rollouts, those "
            "filtered out included"
        )
    return found


def filters_equal_groups(experiment: Experiment) -> bool:
    """Whether prompt groups of equal rewards are kept from training."""
    return experiment.selection.name in ("dapo", "greso", "speed", "speed_mopps")


def _check_functions(experiment: Experiment) -> None:
    """Refuse an advantage or a loss that is not there, or that fails on a few made-up rollouts."""
    method = experiment.method
    variant = method.advantage_settings.get("variant", "published")
    if method.advantage == "james_stein" and variant not in FEW_PROMPTS:
        raise refusal(
            f"method.advantage_settings.variant: found {variant!r}, needed published or corrected",
            "set method.advantage_settings.variant=published",
        )
    for key, ours in (("advantage", ADVANTAGES), ("loss", LOSSES)):
        name, settings = getattr(method, key), getattr(method, f"{key}_settings")
        if name in ours and not settings:
            continue  # nothing to look up, which would import torch
        functions, given = _functions(key)
        function = _function(f"method.{key}", name, settings, functions, given)
        try:
            _try(key, function, experiment)
        except ValueError as error:
            raise ConfigError(f"method.{key}: {error}") from error


def _try(key: str, function: Callable, experiment: Experiment) -> None:
    """Call it as training will, with the smallest prompt groups of the experiment."""
    from trainer import trial

    settings = getattr(experiment.method, f"{key}_settings")
    if key == "loss":
        trial.try_loss(function, settings)
        return
    smallest = min(stage.group_size for stage in experiment.stages)
    if smallest >= _rollouts_needed(experiment.method):  # refused after this, with a hint
        trial.try_advantage(
            function, settings, smallest, equal=not filters_equal_groups(experiment)
        )


def _check_reward(reward: Reward) -> None:
    """Refuse a function of the user's that is not there, or that fails on made-up rollouts."""
    name, settings = reward.function, reward.function_settings
    if settings and not name:
        raise refusal(
            f"reward.function_settings: found {', '.join(settings)}, but no function to take them",
            "set reward.function=file.py:function",
        )
    if not name:
        return
    function = _function("reward.function", name, settings, {}, GIVEN_TO_REWARDS)
    from trainer import trial

    try:
        trial.try_reward(function, settings)
    except ValueError as error:
        raise ConfigError(f"reward.function: {error}") from error


def _function(
    knob: str, name: str, settings: Mapping[str, object], ours: dict, given: Collection[str]
) -> Callable:
    """The function that a knob names, whose settings are those that it takes."""
    try:
        function = find(name, ours)
    except ValueError as error:
        raise ConfigError(f"{knob}: {error}") from error
    try:
        check_arguments(function, settings, given, f"{knob}_settings")
    except ValueError as error:
        raise ConfigError(str(error)) from error
    return function


def _functions(key: str) -> tuple[dict, tuple[str, ...]]:
    """What ships for `advantage` or `loss`, and the arguments that are not the user's to set."""
    if key == "loss":
        from trainer import losses

        return losses.LOSSES, GIVEN_TO_LOSSES
    from trainer import advantages

    return {**advantages.ESTIMATORS, **advantages.PER_TOKEN}, GIVEN_TO_ESTIMATORS


def _check_ignored(experiment: Experiment) -> None:
    method, default = experiment.method, Method()
    if all(stage.kl_coefficient == 0 for stage in experiment.stages):
        for key in ("kl_in", "kl_estimator"):
            if getattr(method, key) != getattr(default, key):
                raise refusal(
                    f"method.{key}: found {getattr(method, key)}, but no stage has a KL term: "
                    "there is no reference to compare with",
                    "set kl_coefficient on a stage, or leave it out",
                )


def _rollouts_needed(method: Method) -> int:
    if method.advantage in BASELINES_OF_THEIR_OWN:
        return 1
    if method.advantage == "james_stein":
        return 1 if method.advantage_settings.get("variant") == "corrected" else 2
    return 2 if method.advantage in ADVANTAGES else 1


def _negative_rewards(experiment: Experiment) -> bool:
    """Whether a rollout's reward, with all that is taken off it, may be below 0."""
    reward = experiment.reward
    penalised = reward.overlong_share > 0 and reward.overlong_penalty > 0
    # The reward of each token is less a KL term, and an estimate of KL may be of either sign.
    kl = any(stage.kl_coefficient > 0 for stage in experiment.stages)
    penalised |= kl and experiment.method.kl_in == "reward"
    return penalised or min(reward.right, reward.wrong, reward.malformed) < 0


def _on_policy(experiment: Experiment) -> bool:
    """Whether the rollouts of a step are all of the policy that the step began with."""
    return experiment.selection.name in ("uniform", "mopps", "e2h")
