"""Selection on real verl: killed and resumed, one group failing, everything in the ledger."""

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from conf.load import load
from tasks.download import download
from tasks.model import starting_model
from tasks.segment import segment
from tasks.train_stage import train_stage
from tests.conftest import NoTracker
from trainer.lab.task import problems
from trainer.records import read_records

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]
STEPS = 4
TOO_LONG = 3  # prompts that no rollout can be made for: the trainer's own limit refuses them


class KilledError(Exception):
    """Stands for whatever ends a trainer in the middle of its stage."""


class Killer(NoTracker):
    """A tracker that ends the run after a step."""

    def __init__(self, after: int):
        self.after = after

    def child_run(self, *arguments, **settings):
        run = super().child_run(*arguments, **settings)
        after = self.after

        class Ending:
            def __enter__(self):
                inner = run.__enter__()

                def log_step(record):
                    if record["step"] >= after:
                        raise KilledError(record["step"])

                inner.log_step = log_step
                return inner

            def __exit__(self, *reason):
                return run.__exit__(*reason)

        return Ending()


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Problems of the lab, some with more text than a prompt may have."""
    path = tmp_path_factory.mktemp("selection")
    rows = problems(120, 0, "train")
    for row in rows[:TOO_LONG]:
        row["prompt"][0]["content"] = "7 a+2 =? " * 40 + row["prompt"][0]["content"]
    pq.write_table(pa.Table.from_pylist(rows), path / "prompts.parquet")
    return path


def run(folder: Path, name: str, tracker) -> Path:
    """Train one stage of four steps; its folder."""
    experiment = load(
        "experiment=lab/smoke",
        "selection=speed_ahead",  # what waits from step to step, with its rollouts, matters most
        "selection.speed.screening=2",
        f"stages.0.steps={STEPS}",
        f"output={folder / name}",
        "data.train.kind=file",
        f"data.train.path={folder / 'prompts.parquet'}",
        "stages.0.prompts=L2",
    )
    output = Path(experiment.output)
    sets = segment(
        download(experiment.data.train, experiment.data, output), experiment.data, output
    )
    start = starting_model(experiment.model)
    manifest = train_stage(experiment, 0, sets["L2"], start, tracker, "none")
    return Path(manifest["folder"])


@pytest.fixture(scope="module")
def whole(folder):
    return run(folder, "whole", NoTracker())


@pytest.fixture(scope="module")
def resumed(folder):
    with pytest.raises(KilledError):
        run(folder, "cut", Killer(1))
    return run(folder, "cut", NoTracker())


def groups(stage: Path) -> list[dict]:
    return read_records(stage / "groups.jsonl")


def test_a_killed_and_resumed_stage_makes_the_same_decisions(whole, resumed):
    attempts = json.loads((resumed / "stage.json").read_text())["attempts"]
    assert attempts[0]["first_step"] == 1 < attempts[1]["first_step"]
    assert groups(resumed) == groups(whole)
    assert read_records(resumed / "order.jsonl") == read_records(whole / "order.jsonl")


def test_no_prompt_group_is_screened_or_trained_twice(resumed):
    numbers = [group["number"] for record in groups(resumed) for group in record["groups"]]
    assert len(set(numbers)) == len(numbers)


def test_speed_trains_on_as_many_rollouts_and_updates_as_uniform_sampling_would(whole):
    records = read_records(whole / "metrics.jsonl")
    for record in records:
        assert record["updates"] == 1
        assert record["rollouts/trained"] == 8 * 4
        assert record["zero_variance_share"] == 0
    assert sum(r["rollouts"] for r in records) > sum(r["rollouts/trained"] for r in records)


def test_groups_were_screened_a_step_ahead(whole):
    first, *others = read_records(whole / "metrics.jsonl")
    assert first["age/max"] == 0 < min(record["stale_share"] for record in others)
    assert max(record["age/max"] for record in others) == 1


def test_the_ledger_agrees_with_the_groups(whole):
    records = read_records(whole / "metrics.jsonl")
    sealed = [group for record in groups(whole) for group in record["groups"]]
    last = records[-1]
    assert last["counters/steps"] == last["counters/updates"] == STEPS
    waiting = last["selection/waiting"]
    assert last["counters/prompts"] == len(sealed) == sum(r["prompts"] for r in records)
    assert sum(group["fate"] == "waiting" for group in sealed) == waiting
    trained = [group for group in sealed if group["fate"] == "trained"]
    assert len(trained) == 8 * STEPS
    assert sum(group["tokens"] for group in trained) == sum(r["tokens/trained"] for r in records)
    table = pq.read_table(whole / "groups.parquet").to_pylist()
    assert [row["number"] for row in table] == sorted(group["number"] for group in sealed)
    assert pq.read_table(whole / "ledger.parquet").num_rows == STEPS


def test_a_prompt_that_fails_is_replaced_and_counted_and_the_stage_goes_on(whole):
    failed = [
        group
        for record in groups(whole)
        for group in record["groups"]
        if group["fate"].startswith("failed")
    ]
    drawn = {group["id"] for record in groups(whole) for group in record["groups"]}
    long = {f"lab_train-{place}" for place in range(TOO_LONG)}
    assert {group["id"] for group in failed} == long & drawn
    assert {group["fate"] for group in failed} <= {"failed: ValueError"}
    counted = sum(r["selection/failed"] for r in read_records(whole / "metrics.jsonl"))
    assert counted == len(failed)


def test_rollouts_of_the_present_policy_agree_with_the_trainer(whole):
    for record in read_records(whole / "metrics.jsonl"):
        assert 0 <= record["probability_difference/max"] < 1e-3
        assert abs(record["kl_to_engine"]) < 1e-4


def test_what_waits_is_in_the_checkpoint(whole):
    saved = whole / "verl" / f"global_step_{STEPS}"
    state = json.loads((saved / "stagecraft.json").read_text())["selection"]
    last = read_records(whole / "metrics.jsonl")[-1]
    assert len(state["waiting"]) == last["selection/waiting"]
    assert state["number"] == last["counters/prompts"]
    assert (saved / "waiting.pt").is_file()
