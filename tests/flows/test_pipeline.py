"""The real flow on real verl: stopped, killed twice, resumed, finished, run again. Minutes, no GPU.

The runs share one output folder and build on each other, as they do for a person. One more, in a
folder of its own, is never interrupted: what the others give in the end must be the same, bit by
bit.

The first prompt set holds 29 prompts, three steps of 8: the fourth step begins the second epoch.
"""

import os
import re
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from uuid import uuid4

import psutil
import pyarrow.parquet as pq
import pytest

from tasks.artifacts import read_json
from trainer.backend.resume import last_whole_step
from trainer.holding import at_work
from trainer.records import read_records
from trainer.selection.cursor import Cursor

ROOT = Path(__file__).parents[2]
STEPS = 5
SETTINGS = ["experiment=lab/smoke", f"stages.0.steps={STEPS}", "stages.0.save_every=3"]
# The second stage keeps a reference policy, as published recipes do, and here also the optimizer.
SETTINGS += ["stages.1.kl_coefficient=0.001", "stages.1.optimizer=carry", "stages.1.reference=keep"]
# It may make four steps, and ends after two: a share is always below 1.1.
ALWAYS = "{metric:truncated_share,below:1.1,window:2}"
SETTINGS += ["stages.1.steps=4", "stages.1.save_every=3"]
SETTINGS += [f"stages.1.transition={{policy:any,when:[{ALWAYS}]}}"]
KEEP = {"STAGECRAFT_KEEP_ADVANTAGES": "1"}
pytestmark = [pytest.mark.slow, pytest.mark.timeout(1500)]


class Run:
    """One `python -m flows.pipeline` as a person would start it, in a folder of its own."""

    def __init__(self, output: Path, *overrides: str, flow: str = "flows.pipeline"):
        self.mark = uuid4().hex  # in the environment of every process that the run starts
        self.log = output.parent / f"{self.mark}.log"
        self.process = subprocess.Popen(
            [sys.executable, "-m", flow, *SETTINGS, f"output={output}", *overrides],
            cwd=output.parent,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "PREFECT_HOME": str(output.parent / "prefect"),
                "STAGECRAFT_RUN": self.mark,
                **KEEP,
            },
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

    def processes(self) -> list[psutil.Process]:
        """Every living process of this run."""
        return [
            p for p in psutil.process_iter() if _environment(p).get("STAGECRAFT_RUN") == self.mark
        ]

    def kill_when(self, there: Callable[[], bool], seconds: float) -> None:
        """Stop every process of the run at a moment, and kill those if it was that moment still.

        The moment may be over in a tenth of a second: who they are is found out before it.
        """
        self.wait_for(rf"step {STEPS - 1}/{STEPS}", seconds)
        found = self.processes()
        deadline = time.monotonic() + seconds
        while True:
            assert self.process.poll() is None, f"ended before its moment:\n{self.text}"
            assert time.monotonic() < deadline, f"the moment did not come:\n{self.text}"
            if not there():
                time.sleep(0.001)
                continue
            _each(found, psutil.Process.suspend)
            if there():
                break
            _each(found, psutil.Process.resume)
        _each(self.processes(), psutil.Process.kill)
        self.process.wait(30)


def _each(processes: list[psutil.Process], do: Callable[[psutil.Process], None]) -> None:
    for process in processes:
        with suppress(psutil.Error):
            do(process)


def _environment(process: psutil.Process) -> dict[str, str]:
    try:
        return process.environ()
    except psutil.Error:
        return {}


@pytest.fixture(scope="module")
def output(tmp_path_factory, prefect_home) -> Path:
    folder = tmp_path_factory.mktemp("pipeline")
    os.rename(prefect_home(), folder / "prefect")
    return folder / "outputs"


@pytest.fixture(scope="module")
def stopped(output) -> Run:
    """Ctrl-C within a step that no checkpoint is due after."""
    run = Run(output)
    run.wait_for(rf"step 1/{STEPS}", 600)
    (stage,) = (output / "stages").glob("1-*")
    run.held = at_work(stage)
    run.asked = time.monotonic()
    os.killpg(run.process.pid, signal.SIGINT)  # as a terminal does: to the whole group
    run.process.wait(60)
    run.took = time.monotonic() - run.asked
    return run


@pytest.fixture(scope="module")
def killed_while_saving(stopped, output) -> Run:
    """SIGKILL to everything while the last checkpoint is written: begun, and not yet whole."""
    run = Run(output)
    saved = output / "stages"

    def saving() -> bool:
        return any(
            folder.is_dir() and not (folder / "data.pt").exists()
            for folder in saved.glob(f"1-*/verl/global_step_{STEPS}")
        )

    run.kill_when(saving, 600)
    return run


@pytest.fixture(scope="module")
def killed_while_exporting(killed_while_saving, output) -> Run:
    """SIGKILL to everything between the last checkpoint and the finished stage."""
    run = Run(output)
    stages = output / "stages"

    def exporting() -> bool:
        saved = any(last_whole_step(folder) == STEPS for folder in stages.glob("1-*"))
        return saved and not list(stages.glob("1-*/checkpoint/handoff.json"))

    run.kill_when(exporting, 600)
    return run


@pytest.fixture(scope="module")
def finished(killed_while_exporting, output) -> Run:
    """The same command again, to its end."""
    run = Run(output)
    run.process.wait(1200)
    assert run.process.returncode == 0, run.text
    return run


@pytest.fixture(scope="module")
def uninterrupted(finished, output) -> dict:
    """The first stage as one run from start to end makes it."""
    elsewhere = output.with_name("elsewhere")
    run = Run(elsewhere, "stage=1", flow="flows.train_stage")
    run.process.wait(600)
    assert run.process.returncode == 0, run.text
    (manifest,) = (elsewhere / "stages").glob("*/stage.json")
    return read_json(manifest)


@pytest.fixture(scope="module")
def stages(finished, output) -> list[dict]:
    found = [read_json(path) for path in (output / "stages").glob("*/stage.json")]
    return sorted(found, key=lambda stage: stage["position"])


def test_ctrl_c_ends_everything_within_ten_seconds(stopped):
    assert stopped.process.returncode == 130, stopped.text
    assert stopped.took < 10
    assert stopped.processes() == []
    assert "resumes from the last checkpoint" in stopped.text


def test_a_trainer_and_a_sampler_hold_their_folders_until_they_end(stopped, output):
    assert stopped.held == ["trainer"]
    assert list(output.glob("generations/*/sampler-0.lock"))
    assert not any(at_work(path.parent) for path in output.glob("*/*/*.lock"))


def test_the_second_stage_has_its_ray_begun_beside_the_evaluation_of_the_first(finished, output):
    (log,) = (output / "stages").glob("2-*/trainer.log")
    assert re.search(r"was ready \d+\.\d s before its stage", log.read_text())


def test_a_stop_saves_the_last_whole_step(killed_while_saving):
    """No checkpoint was due before step 3; a quick machine makes another step meanwhile."""
    resumed = re.search(r"resumes after step (\d)", killed_while_saving.text)
    assert resumed and int(resumed[1]) in (1, 2)


def test_a_checkpoint_that_was_being_written_is_not_resumed_from(killed_while_exporting):
    assert "resumes after step 3" in killed_while_exporting.text


def test_each_attempt_is_told_and_each_step_made_once(finished, stages):
    assert f"resumes after step {STEPS}" in finished.text
    first = stages[0]
    outcomes = [attempt["outcome"] for attempt in first["attempts"]]
    assert outcomes == ["interrupted", "killed", "killed", "finished"]
    records = read_records(Path(first["checkpoint"]["path"]).parent / "metrics.jsonl")
    assert [record["step"] for record in records] == list(range(1, STEPS + 1))


def test_a_resumed_stage_is_bit_by_bit_the_uninterrupted_one(stages, uninterrupted):
    """Stopped in the first epoch, killed at its edge and in the second: the same weights."""
    assert stages[0]["digest"] == uninterrupted["digest"]
    assert stages[0]["checkpoint"]["digest"] == uninterrupted["checkpoint"]["digest"]
    assert stages[0]["counters"] == uninterrupted["counters"]
    ours, theirs = (
        read_records(Path(one["checkpoint"]["path"]).parent / "metrics.jsonl")
        for one in (stages[0], uninterrupted)
    )
    for name in ("loss", "reward/mean", "grad_norm", "entropy", "tokens/generated"):
        assert [record[name] for record in ours] == [record[name] for record in theirs]
    orders = [
        read_records(Path(one["checkpoint"]["path"]).parent / "order.jsonl")
        for one in (stages[0], uninterrupted)
    ]
    assert orders[0] == orders[1]


def test_the_prompts_are_those_of_the_seed_epoch_after_epoch(stages):
    """No prompt is skipped or repeated within an epoch, whatever interrupted it."""
    folder = Path(stages[0]["checkpoint"]["path"]).parent
    data = pq.read_table(folder / "prompts.parquet")
    ids = [info["id"] for info in data["extra_info"].to_pylist()]
    cursor, expected = Cursor(len(ids), 0), []
    for _ in range(STEPS):
        drawn: list[int] = []
        for _ in range(8):
            drawn.append(cursor.next(drawn))
        expected.append([ids[index] for index in drawn])
    seen = [record["prompts"] for record in read_records(folder / "order.jsonl")]
    assert seen == expected


def test_what_a_stage_keeps_of_the_one_before_is_told(stages):
    first, second = stages
    assert first["reference"] == first["start"]
    assert second["reference"] == first["start"] != second["start"]
    assert second["identity"]["upstream"] == first["digest"]


def test_an_export_gives_the_log_probabilities_of_the_trainer(stages):
    for stage in stages:
        assert stage["handoff"]["logprob_difference"] < 1e-4
        assert stage["handoff"]["logprob_tokens"] > 8


def test_a_stage_starts_where_the_one_before_ended(stages):
    assert stages[1]["start"] == stages[0]["checkpoint"]
    assert [stage["steps"] for stage in stages] == [STEPS, 2]


def test_every_group_is_given_the_advantages_of_its_own_prompt(stages, groups_not_together):
    """On one rank verl keeps the order of rows; `test_ranks.py` has two."""
    for stage in stages:
        folder = Path(stage["checkpoint"]["path"]).parent
        assert groups_not_together(folder / "advantages.jsonl", steps=stage["steps"]) == 0


def test_a_stage_whose_transition_holds_ends_early_and_is_finished(finished, stages):
    """No checkpoint was due after its last step, and its export was proved as any other."""
    first, second = stages
    assert (first["ended_by"], first["evidence"]) == ("steps", [])
    assert (second["outcome"], second["ended_by"]) == ("finished", "transition")
    [evidence] = second["evidence"]
    assert (evidence["metric"], evidence["first"], evidence["last"]) == ("truncated_share", 1, 2)
    folder = Path(second["checkpoint"]["path"]).parent
    records = read_records(folder / "metrics.jsonl")
    assert [record["step"] for record in records] == [1, 2]
    shares = [record["truncated_share"] for record in records]
    assert evidence["found"] == pytest.approx(sum(shares) / 2)
    assert last_whole_step(folder) == 2
    assert "ended after step 2 of 4: truncated_share" in finished.text


def test_rollout_and_trainer_agree_on_probabilities_at_every_step(stages):
    for stage in stages:
        for record in read_records(Path(stage["checkpoint"]["path"]).parent / "metrics.jsonl"):
            assert 0 <= record["probability_difference/max"] < 1e-3
            assert abs(record["kl_to_engine"]) < 1e-4


def test_each_metric_is_explained(stages):
    text = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")
    explained = set(re.findall(r"`([a-z_/]+)`", text))
    for stage in stages:
        for record in read_records(Path(stage["checkpoint"]["path"]).parent / "metrics.jsonl"):
            assert set(record) <= explained


def test_a_kept_reference_is_not_where_the_stage_starts(stages):
    """Of a fresh reference the KL would be 0 before the first update: the same model."""
    first, second = read_records(Path(stages[1]["checkpoint"]["path"]).parent / "metrics.jsonl")
    assert first["kl"] > 1e-6
    assert second["kl"] > 0
    assert (
        "kl" not in read_records(Path(stages[0]["checkpoint"]["path"]).parent / "metrics.jsonl")[0]
    )


def test_counters_are_what_was_asked_for(stages):
    counters = stages[0]["counters"]
    assert (counters["steps"], counters["updates"]) == (STEPS, STEPS)
    assert (counters["prompts"], counters["rollouts"]) == (STEPS * 8, STEPS * 8 * 4)
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
    assert re.search(r"step 2/4 +reward \d.* tokens/s +left \d", finished.text)
    assert re.search(r"^base ", finished.text, re.M)
    assert f"all runs: make -C {ROOT} ui OUTPUT={output}\n" in finished.text
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
    assert [status for _, status in names] == ["FINISHED", "KILLED", "KILLED", "KILLED", "FINISHED"]
    pipelines = sorted(status for kind, _, status in kinds if kind == "pipeline")
    assert pipelines == ["FINISHED", "KILLED", "KILLED", "KILLED"]
    parents = {run.info.run_id for run in runs if run.data.tags["stagecraft.kind"] == "pipeline"}
    for run in runs:
        if run.data.tags["stagecraft.kind"] == "stage":
            assert run.data.tags["mlflow.parentRunId"] in parents
            assert run.inputs.dataset_inputs
    (whole,) = [
        run
        for run in runs
        if run.data.tags.get("stagecraft.name") == "1-L1-64" and run.info.status == "FINISHED"
    ]
    curve = client.get_metric_history(whole.info.run_id, "reward/mean")
    assert sorted(point.step for point in curve) == list(range(1, STEPS + 1))


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
    assert run.processes() == []
