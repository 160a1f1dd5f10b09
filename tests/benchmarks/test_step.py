import json
import os
import subprocess
import sys
from dataclasses import replace

import pytest

from benchmarks import step_work
from benchmarks.scaling import exponent
from benchmarks.step import summary
from benchmarks.step_work import SYSTEMS, Work, launch_of, missing
from conf import telemetry
from trainer.lab import BASE

OURS = ("stagecraft", "trainer.backend", "GroupLoop", "PromptReplay")


@pytest.fixture
def work() -> Work:
    return Work(str(BASE), prompts=2, rollouts=2, steps=3)


@pytest.mark.parametrize("hardware", ["cpu", "gpu1"])
def test_stock_verl_is_told_nothing_of_ours_but_the_reward(work, tmp_path, hardware):
    stock = launch_of("stock", replace(work, hardware=hardware), tmp_path / "stock")
    assert stock.module == "verl.trainer.main_ppo"
    kept = [one for one in stock.arguments if not one.startswith("data.")]
    assert not [one for one in kept if any(word in one for word in OURS)]


def test_stock_verl_on_a_gpu_loads_the_log_probabilities_alone(tmp_path):
    work = Work(str(BASE), prompts=2, rollouts=2, steps=3, hardware="gpu1")
    given = launch_of("stock", work, tmp_path / "stock").environment
    assert {name: value for name, value in given.items() if name.startswith("VERL_")} == {
        "VERL_USE_EXTERNAL_MODULES": "benchmarks.step_stock_gpu",
        "VERL_FILE_LOGGER_PATH": str(tmp_path / "stock" / "steps.jsonl"),
    }
    code = "import sys, verl; print(sorted(m for m in sys.modules if m.startswith('trainer.')))"
    run = [sys.executable, "-c", code]
    done = subprocess.run(run, env={**os.environ, **given}, capture_output=True, text=True)
    assert done.stdout.strip().endswith("['trainer.backend', 'trainer.backend.log_probs']")


@pytest.mark.parametrize("system", SYSTEMS)
def test_nobody_calls_home(work, tmp_path, system):
    assert launch_of(system, work, tmp_path / "one").environment.items() >= telemetry.OFF.items()


def test_both_get_the_same_lengths_batches_and_optimizer(work, tmp_path):
    launch_of("ours", work, tmp_path / "ours")
    ours = json.loads((tmp_path / "ours" / "settings.json").read_text())["verl"]
    stock = dict(
        one.split("=", 1) for one in launch_of("stock", work, tmp_path / "stock").arguments
    )
    same = ("actor_rollout_ref.actor.", "actor_rollout_ref.model.", "data.max", "data.train_batch")
    for name, value in ours.items():
        if name.startswith(same):
            assert name in stock
            assert isinstance(value, dict | list | str | None) or stock[name] == str(value).lower()


def test_ratios_are_of_the_same_round():
    def one(step):
        return {"launch_s": 1.0, "launch_cpu_s": 1.0, "step_s": step, "step_cpu_s": step,
                "peak_gib": 1.0, "parts": {}}  # fmt: skip

    rounds = [{"ours": one(1.0), "stock": one(3.0)}, {"ours": one(4.0), "stock": one(12.0)}]
    assert summary(rounds)["stock"]["step_s_of_ours"] == 3.0


def test_without_trl_it_is_left_out_with_a_sentence(monkeypatch, tmp_path):
    monkeypatch.setattr(step_work, "TRL_FOLDER", tmp_path)
    assert "hint: python -m pip install" in missing("trl")
    assert not missing("plain")


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_an_exponent_is_found_again(power):
    sizes = [256, 1024, 4096]
    assert exponent(sizes, [3 * size**power for size in sizes]) == pytest.approx(power)
