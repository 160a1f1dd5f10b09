"""Settings drawn at random: each is refused before anything trains, or trains to its end.

What trains does so twice: undisturbed, and with a SIGKILL of a random process at a random moment
and a run that goes on. Both must come to the same checkpoints and the same metrics. In float32: in
bfloat16 what a sampler computes for a token depends on how many it samples at the same moment.
"""

import math
import random
import re
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

import pytest
import truth
from attempts import Attempt, manifests, part_of

from conf.load import ConfigError, choices
from flows.parameters import settings_of
from trainer.records import read_records

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(0)]
END = 900.0  # seconds in which a run of a few steps has ended
REFUSED = 2
REFUSALS = 20  # for each that trains, at most; of 200 draws a third is let through
GROUPS = ("method", "selection", "reward")
# Whatever was drawn of the groups above, some of these are set beside it.
KNOBS: Mapping[str, Sequence[object]] = {
    "seed": (1, 7),
    "data.train.rows": (32, 48),
    "method.loss_average": (
        "token-mean", "seq-mean-token-mean", "seq-mean-token-sum", "seq-mean-token-sum-norm",
    ),
    "method.kl_in": ("loss", "reward"),
    "method.kl_estimator": ("k1", "k2", "k3"),
    "method.overlong_filter": ("true",),
    "method.dual_clip": ("null", 2.0),
    "method.gradient_clip": (0.05,),
    "reward.malformed": (-1.0,),
    "reward.overlong_share": (0.5,),
    "reward.think": ("optional",),
    "hardware.ranks": (2,),
    "hardware.attention": ("eager",),
    "hardware.micro_batch": (2, 8),
    "hardware.tokens_per_rank": (200, 2000),
    "hardware.gradient_checkpointing": ("true",),
    "hardware.threads": (2,),
    "selection.max_age": (0, 2),
    "selection.in_flight": (1.0, 2.0),
    "selection.max_draws": (1.0, 3.0),
    "evaluation.samples": (1, 3),
    "evaluation.boxed": ("false",),
}  # fmt: skip
OF_A_STAGE: Mapping[str, Sequence[object]] = {
    "steps": (1, 2, 3, 5),
    "prompts": ("L1", "L2", "L3"),
    "batch_size": (4, 8, 12),
    "group_size": (3, 6, 8),
    "context_length": (20, 40),
    "warmup_steps": (1,),
    "temperature": (0.7, 1.3),
    "top_p": (0.9,),
    "kl_coefficient": (0.01,),
    "entropy_coefficient": (0.01,),
    "save_every": (2, 3),
    "optimizer": ("carry",),
    "reference": ("keep",),
}
OF_ALL, OF_ONE = 0.15, 0.25  # the shares of knobs that are set
SCREENING = "selection.speed.screening=2"  # most groups are too small for the usual 4
# What of a step's record depends on the hour, the machine, and on who was sampled together.
FINITE = ("loss", "grad_norm", "reward/mean", "entropy")
TIMED = re.compile(r"time$|seconds/|tokens_per_second|memory|probability_difference/|kl_to_engine")
# A stage whose prompts are all solved, or none of them, ends with this, and a hint.
NOTHING_LEFT = "NothingToTrainOnError"


def drawn(draw: random.Random) -> list[str]:
    """Settings of a run of lab/smoke, as words of a command line."""
    words = [f"{group}={draw.choice(choices(group))}" for group in GROUPS]
    words += [SCREENING] if any(word.startswith("selection=speed") for word in words) else []
    for key, values in KNOBS.items():
        words += [f"{key}={draw.choice(values)}"] if draw.random() < OF_ALL else []
    for stage in (0, 1):
        words.append(f"stages.{stage}.mini_batch_size={draw.choice((2, 4))}")
        for key, values in OF_A_STAGE.items():
            if draw.random() < OF_ONE:
                words.append(f"stages.{stage}.{key}={draw.choice(values)}")
    return words


def refusal(words: list[str], output: Path) -> str:
    """What is said of settings that cannot work; "" where they may."""
    try:
        settings_of("lab/smoke", words, str(output))
    except ConfigError as error:
        return str(error)
    return ""


def killed_once(start, seconds: float, draw: random.Random) -> tuple[list[Attempt], str]:
    """Runs until one ends well, the first of them killed in part; and what was killed, and when."""
    moment, choice = draw.uniform(1.0, seconds), draw.random()
    runs, what = [start()], "nothing"
    while runs[0].alive() and runs[0].seconds < moment:
        time.sleep(0.02)
    if victims := runs[0].processes():
        victim = victims[int(choice * len(victims))]
        what = f"{part_of(victim)} after {runs[0].seconds:.1f} s"
        victim.kill()
    while runs[-1].end(END) != 0:
        assert len(runs) < 3, f"{what}: does not go on:\n{runs[-1].text}"
        runs.append(start())
    return runs, what


def told(output: Path) -> dict[str, tuple]:
    """What each stage came to, by its folder's name: checkpoint, counters, steps and prompts."""
    found = {}
    for manifest in manifests(output):
        assert manifest["outcome"] == "finished"
        folder = Path(manifest["checkpoint"]["path"]).parent
        records = read_records(folder / "metrics.jsonl")
        assert all(math.isfinite(record[name]) for record in records for name in FINITE)
        steps = [
            {name: repr(value) for name, value in record.items() if not TIMED.match(name)}
            for record in records
        ]
        order = read_records(folder / "order.jsonl")
        digest = manifest["checkpoint"]["digest"]
        found[folder.name] = (digest, manifest["counters"], steps, order)
    assert len(found) == 2, f"stages of {output}: {list(found)}"
    return found


def test_settings_at_random_are_refused_or_train_and_a_kill_changes_nothing(
    request, tmp_path_factory, attempts, stall
):
    draw = random.Random(request.config.getoption("--faults-seed"))
    wanted = request.config.getoption("--faults-draws")
    trained, refused, faults = 0, [], []
    while trained < wanted:
        assert len(refused) < REFUSALS * wanted, refused
        folder = tmp_path_factory.mktemp("drawn")
        words = drawn(draw)
        if said := refusal(words, folder / "whole"):
            refused.append((words, said))
            continue
        command = f"experiment=lab/smoke {' '.join(words)}"
        print(command)

        def start(name: str, folder=folder, words=words) -> Attempt:
            output = folder / name / "outputs"
            return attempts(output, "experiment=lab/smoke", *words, stall)

        whole = start("whole")
        code, took = whole.end(END), whole.seconds
        if code == REFUSED:  # by what the data are like
            refused.append((words, whole.text))
            assert not truth.recorded_steps(whole.output), f"{command}\n{whole.text}"
            continue
        if code == 1 and NOTHING_LEFT in whole.message():
            refused.append((words, whole.text))
            continue
        if code != 0:
            faults.append(f"{command}\nexit {code}: {whole.message()}\n{whole.log}")
            trained += 1
            continue
        runs, what = killed_once(lambda: start("killed"), took, draw)
        print(f"  {took:.0f} s; killed: {what}")
        left = [names for run in (whole, *runs) for names in run.left().values() if names]
        faults += [f"{command}\n{what}: left {left}"] if left else []
        if told(whole.output) != told(runs[-1].output):
            faults.append(f"{command}\n{what}: other results than undisturbed in {folder}")
        trained += 1
    assert all("hint: " in said for _, said in refused), refused
    assert faults == [], "\n\n".join(faults)
