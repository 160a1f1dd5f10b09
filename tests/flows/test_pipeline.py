"""The real flow on real verl: interrupted, resumed, finished, and run again. Minutes, no GPU.

The runs share one output folder and build on each other, as they do for a person.
"""

import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path
from uuid import uuid4

import psutil
import pyarrow.parquet as pq
import pytest
import torch
from torchdata.stateful_dataloader.sampler import RandomSampler

from tasks.artifacts import read_json
from trainer.records import read_records

ROOT = Path(__file__).parents[2]
COMMAND = [sys.executable, "-m", "flows.pipeline", "experiment=lab/smoke", "stages.0.steps=4"]
# The second stage keeps a reference policy: every published recipe trains with a KL term.
COMMAND += ["stages.1.kl_coefficient=0.001"]
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Run:
    """One `python -m flows.pipeline` as a person would start it, in a folder of its own."""

    def __init__(self, output: Path, *overrides: str):
        self.mark = uuid4().hex  # in the environment of every process that the run starts
        self.log = output.parent / f"{self.mark}.log"
        self.process = subprocess.Popen(
            [*COMMAND, f"output={output}", *overrides],
            cwd=output.parent,
            env={**os.environ, "PYTHONPATH": str(ROOT), "STAGECRAFT_RUN": self.mark},
            stdout=self.log.open("wb"),
            stderr=subprocess.STDOUT,
            start_new_session=True,
        )

    @property
    def text(self) -> str:
        return self.log.read_text(errors="replace")

    def wait_for(self, pattern: str, seconds: float) -> None:
        deadline = time.monotonic() + seconds
        while not re.search(pattern, self.text):
            assert self.process.poll() is None, f"ended before {pattern!r}:\n{self.text}"
            assert time.monotonic() < deadline, f"{pattern!r} did not come:\n{self.text}"
            time.sleep(0.1)

    def left_behind(self) -> list[str]:
        """Command lines of processes of this run that are still alive."""
        found = []
        for process in psutil.process_iter():
            try:
                if process.environ().get("STAGECRAFT_RUN") == self.mark:
                    found.append(" ".join(process.cmdline()))
            except psutil.Error:
                continue
        return found


@pytest.fixture(scope="module")
def output(tmp_path_factory) -> Path:
    return tmp_path_factory.mktemp("pipeline") / "outputs"


@pytest.fixture(scope="module")
def interrupted(output) -> Run:
    run = Run(output)
    run.wait_for(r"step 1/4", 600)
    run.asked = time.monotonic()
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    run.process.wait(60)
    run.took = time.monotonic() - run.asked
    return run


@pytest.fixture(scope="module")
def finished(interrupted, output) -> Run:
    """The same command again, to its end."""
    run = Run(output)
    run.process.wait(1200)
    assert run.process.returncode == 0, run.text
    return run


@pytest.fixture(scope="module")
def stages(finished, output) -> list[dict]:
    found = [read_json(path) for path in (output / "stages").glob("*/stage.json")]
    return sorted(found, key=lambda stage: stage["position"])


def test_ctrl_c_ends_everything_within_ten_seconds(interrupted):
    assert interrupted.process.returncode == 130, interrupted.text
    assert interrupted.took < 10
    assert interrupted.left_behind() == []
    assert "goes on from the last checkpoint" in interrupted.text


def test_the_next_run_resumes_and_makes_each_step_once(finished, stages):
    # A quick machine saves another step before the signal arrives.
    resumed = int(re.search(r"resumes after step (\d)", finished.text)[1])
    assert 1 <= resumed < 4
    first = stages[0]
    assert [attempt["first_step"] for attempt in first["attempts"]] == [1, resumed + 1]
    assert [attempt["outcome"] for attempt in first["attempts"]] == ["interrupted", "finished"]
    records = read_records(Path(first["checkpoint"]["path"]).parent / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2, 3, 4]


def test_a_resumed_stage_sees_the_prompts_that_an_uninterrupted_one_would(stages):
    """verl draws them with torchdata's sampler from the seed: no prompt is skipped or repeated."""
    folder = Path(stages[0]["checkpoint"]["path"]).parent
    data = pq.read_table(folder / "prompts.parquet")
    ids = [info["id"] for info in data["extra_info"].to_pylist()]
    generator = torch.Generator().manual_seed(0)
    order = [ids[i] for i in RandomSampler(ids, generator=generator)]
    seen = [record["prompts"] for record in read_records(folder / "order.jsonl")]
    assert [sorted(step) for step in seen] == [sorted(order[i : i + 8]) for i in (0, 8, 16, 24)]


def test_an_export_gives_the_log_probabilities_of_the_trainer(stages):
    for stage in stages:
        assert stage["handoff"]["logprob_difference"] < 1e-4
        assert stage["handoff"]["logprob_tokens"] > 8


def test_a_stage_starts_where_the_one_before_ended(stages):
    assert stages[1]["start"] == stages[0]["checkpoint"]
    assert [stage["steps"] for stage in stages] == [4, 2]


def test_rollout_and_trainer_agree_on_probabilities_at_every_step(stages):
    for stage in stages:
        for record in read_records(Path(stage["checkpoint"]["path"]).parent / "metrics.jsonl"):
            assert 0 <= record["probability_difference/max"] < 1e-3


def test_a_kl_term_is_measured_against_the_start_of_its_stage(stages):
    """Before the first update policy and reference are the same model, so their KL is 0."""
    first, second = read_records(Path(stages[1]["checkpoint"]["path"]).parent / "metrics.jsonl")
    assert first["kl"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] > 0
    assert (
        "kl" not in read_records(Path(stages[0]["checkpoint"]["path"]).parent / "metrics.jsonl")[0]
    )


def test_counters_are_what_was_asked_for(stages):
    counters = stages[0]["counters"]
    assert (counters["steps"], counters["updates"]) == (4, 4)
    assert (counters["prompts"], counters["rollouts"]) == (4 * 8, 4 * 8 * 4)
    assert 0 < counters["tokens_generated"] <= counters["rollouts"] * 64


def test_every_response_of_every_evaluation_is_kept(finished, output):
    folders = list((output / "evaluations").iterdir())
    assert len(folders) == 3, folders  # base and two stages, and nothing half made
    for folder in folders:
        table = pq.read_table(folder / "responses.parquet")
        assert len(table) == 8 * 2
        score = read_json(folder / "evaluation.json")["metrics"]["avg_at_k"]
        assert sum(table["correct"].to_pylist()) / 16 == pytest.approx(score)


def test_progress_summary_and_report_are_shown(finished, output):
    assert re.search(r"step 4/4 +reward \d.* tokens/s +left \d", finished.text)
    assert re.search(r"^base ", finished.text, re.M)
    assert "make ui" in finished.text
    page = (output / "reports" / "lab_smoke-seed0" / "report.html").read_text()
    assert "2-L2-" in page
    assert not re.search(r"""(src|href)=["']https?:""", page)


def test_mlflow_has_a_run_for_each_attempt_with_its_outcome(finished, output):
    from tasks.track import store_uri

    mlflow = pytest.importorskip("mlflow")
    client = mlflow.MlflowClient(store_uri(output))
    (experiment,) = [e for e in client.search_experiments() if e.name == "lab_smoke"]
    runs = client.search_runs([experiment.experiment_id])
    kinds = [
        (run.data.tags["stagecraft.kind"], run.data.tags.get("stagecraft.name"), run.info.status)
        for run in runs
    ]
    names = sorted((name, status) for kind, name, status in kinds if kind == "stage")
    assert [status for _, status in names] == ["FINISHED", "KILLED", "FINISHED"]
    pipelines = sorted(status for kind, _, status in kinds if kind == "pipeline")
    assert pipelines == ["FINISHED", "KILLED"]
    parents = {run.info.run_id for run in runs if run.data.tags["stagecraft.kind"] == "pipeline"}
    for run in runs:
        if run.data.tags["stagecraft.kind"] == "stage":
            assert run.data.tags["mlflow.parentRunId"] in parents
            assert run.data.metrics and run.inputs.dataset_inputs


def test_a_finished_experiment_trains_nothing(finished, output):
    run = Run(output)
    run.process.wait(120)
    assert run.process.returncode == 0, run.text
    assert run.text.count("already trained") == 2
    assert "step 1/" not in run.text


def test_probabilities_that_differ_fail_the_stage_with_a_sentence_and_no_trace(finished, output):
    """With a bound below rounding, at the first step of a stage that was not trained before."""
    run = Run(output, "hardware.probability_tolerance=1e-12", "seed=7")
    run.process.wait(600)
    assert run.process.returncode == 1, run.text
    assert "step 1: rollout and trainer probabilities differ by up to" in run.text
    assert "likely causes" in run.text and "trainer.log" in run.text
    assert "Traceback" not in run.text
    assert run.left_behind() == []
