"""The benchmarks of selections: every arm composes, and what is simulated is what formulas say."""

from pathlib import Path

import numpy as np
import pytest

from benchmarks.selection import GROUP, formulas, pass_rates, simulated
from benchmarks.selection_lab import ARMS, BASELINES, settings_of


@pytest.mark.parametrize("arm", ARMS)
def test_each_arm_composes_whatever_its_folder_is_called(arm):
    output, data = Path(f"/tmp/{arm}-0/out"), Path("/tmp/a b/prompts.parquet")
    settings = settings_of(arm, 3, output, data)
    assert (settings.output, settings.data.train.path) == (str(output), str(data))
    assert settings.seed == 3
    assert (
        settings.method.advantage == settings_of(BASELINES[arm], 3, output, data).method.advantage
    )


@pytest.mark.parametrize("name", ["uniform", "dapo", "speed"])
def test_a_group_that_teaches_costs_what_the_formula_says(name):
    rates = pass_rates(160, 0.5, seed=1)
    # The second half of the steps draws each prompt once.
    found = [simulated(name, rates, 16, 20, seed) for seed in range(3)]
    costs = [run["rollouts_per_teaching_group"] for run in found]
    assert np.mean(costs) == pytest.approx(formulas(rates)[name], rel=0.1)


def test_where_all_prompts_teach_uniform_sampling_pays_for_its_own_rollouts_alone():
    rates = [0.5] * 64
    assert formulas(rates)["uniform"] == pytest.approx(GROUP, rel=1e-5)
    assert simulated("uniform", rates, 16, 8, 0)["rollouts_per_teaching_group"] == GROUP
