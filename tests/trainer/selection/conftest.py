"""A stream over prompts whose pass rates are known, and a simulator that drives it."""

import numpy as np
import pytest

from conf.schema import Selection
from trainer.selection import Bounds, Draw, Group, Prompt, Rollout, Stream, make_curriculum
from trainer.selection.simulator import Simulator, constant


@pytest.fixture
def simulate():
    """Builds a simulator: `simulate("speed", rates, batch_size=8, speed={"screening": 4})`."""

    def build(
        name,
        rates,
        *,
        group_size=8,
        batch_size=8,
        steps=100,
        seed=0,
        in_flight=4,
        max_age=1,
        max_draws=1000,
        levels=None,
        engine=None,
        **knobs,
    ):
        if name == "speed_ahead":
            name, knobs["speed"] = "speed", {**knobs.get("speed", {}), "ahead": True}
        selection = Selection(name=name, **knobs)
        levels = levels if levels is not None else [None] * len(rates)
        prompts = [Prompt(f"p{i}", level) for i, level in enumerate(levels)]
        curriculum = make_curriculum(
            selection.model_dump(), prompts, group_size=group_size, seed=seed, steps=steps
        )
        ahead = batch_size if selection.ahead else 0
        bounds = Bounds(batch_size, in_flight * batch_size, max_age, max_draws * batch_size, ahead)
        pass_rate = rates if callable(rates) else constant(rates)
        return Simulator(Stream(curriculum, bounds), pass_rate, **(engine or {}))

    return build


@pytest.fixture
def mixed():
    """2,000 prompts: a quarter hopeless, a quarter solved, the rest spread evenly."""
    rng = np.random.default_rng(1)
    rates = np.concatenate([np.zeros(500), np.ones(500), rng.uniform(size=1000)])
    return rng.permutation(rates).tolist()


@pytest.fixture
def group_of():
    """A finished group of a prompt, from which of its rollouts were right."""

    def build(prompt, outcomes):
        rollouts = [Rollout(float(right), float(right), 1) for right in outcomes]
        return Group(0, prompt, Draw(0, len(rollouts)), 1, rollouts)

    return build
