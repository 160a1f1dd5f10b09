"""Each fault on the real lab pipeline: what its user sees, what is kept, what the next run does.

The runs share an output folder and build on each other, as they do for a person: each fault meets
the run that resumed from the fault before.
"""

import math
import re
import shutil
import signal
import time
from pathlib import Path

import pytest
from attempts import ROOT, Attempt, manifests, may_mount, part_of
from truth import faults_of, finished_stages, recorded_steps, resumed, stage_folders

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(4000)]
STEPS = 400  # a start takes as long as twenty steps, and the matrix many starts
SILENCE = 20  # seconds without a group after which those on their way are given up
SETTINGS = ["experiment=lab/smoke", f"stages.0.steps={STEPS}", f"selection.timeout={SILENCE}"]
NOTHING = {"processes": [], "shared memory": [], "scratch": []}
START, END = 900, 1800  # seconds that a run may take to its first step, and to its end
CLOCK = str(Path(__file__).parent / "clock")


class Chain:
    """An output folder, and the run that works on it at the moment."""

    def __init__(self, output: Path, settings: list[str], attempts):
        self.output = output
        self.settings = settings
        self.attempts = attempts
        self.run: Attempt | None = None

    def start(self, **keywords) -> Attempt:
        return self.attempts(self.output, *self.settings, **keywords)

    def at_a_step(self) -> Attempt:
        """The run that works, once it has made a step; a new one where none does."""
        if self.run is None or not self.run.alive():
            self.run = self.start()
        self.run.wait_for(r" step \d+/", START)
        return self.run

    def resume(self, row, **keywords) -> Attempt:
        """Start the next run; it must go on after the last step that was recorded."""
        steps = recorded_steps(self.output)
        row.kept = row.kept or f"{sum(steps.values())} steps, all that were made"
        self.run = self.start(**keywords)
        self.run.wait_for(r" step \d+/", START)
        row.then = resumed(self.run.text)
        [(name, made)] = [(name, made) for name, made in steps.items() if made < STEPS]
        assert f"resumes after step {made}\n" in self.run.text, (name, made, self.run.text)
        return self.run


@pytest.fixture(scope="module")
def chain(tmp_path_factory, stall, attempts) -> Chain:
    output = tmp_path_factory.mktemp("matrix") / "outputs"
    return Chain(output, [*SETTINGS, stall], attempts)


def check_end(run: Attempt, row) -> None:
    """Nothing is left of a run that ended, and what it wrote is right."""
    row.left = run.left()
    assert row.left == NOTHING, run.text
    assert faults_of(run.output) == []


# What a person is told when a part of a run dies under it.
DEATHS = {
    "the trainer": 1,
    "the trainer worker": 1,
    "the rollout server": 1,
    "the agent loop": 1,
    "the transfer queue's controller": 1,
    "the transfer queue's storage": 1,
    "the router of requests": 1,
    "Ray's raylet": 1,
    "Ray's GCS server": 1,
    "the guard": 1,
    "the flow": -9,
}


@pytest.mark.parametrize("part", ["Prefect's temporary server", "the guard of Prefect's server"])
def test_prefects_temporary_server_is_killed_and_the_run_goes_on(
    tmp_path, stall, attempts, row, part
):
    """First, in a folder of its own: here the stage at work is trained to its end."""
    row.fault = f"SIGKILL of {part}"
    chain = Chain(
        tmp_path / "outputs", ["experiment=lab/smoke", "stages.0.steps=12", stall], attempts
    )
    run = chain.at_a_step()
    run.kill(part)
    assert run.end(END) == 0, run.text
    said = "was killed by SIGKILL: another takes its place"
    assert said in run.text
    row.sees, row.kept, row.then = f"the server {said}", "everything", "none is needed"
    check_end(run, row)
    assert set(finished_stages(chain.output).values()) == {1}, "an attempt of each stage"
    assert len(finished_stages(chain.output)) == 2


def test_a_trainer_that_waits_for_its_stage_is_killed_and_the_run_goes_on(
    tmp_path, stall, attempts, row
):
    part = "a trainer that waits for its stage"
    row.fault = f"SIGKILL of {part}"
    run = attempts(tmp_path / "outputs", "experiment=lab/smoke", stall)
    deadline = time.monotonic() + START
    while part not in map(part_of, run.processes()):
        assert run.alive() and time.monotonic() < deadline, run.text
        time.sleep(0.1)
    run.kill(part)
    assert run.end(END) == 0, run.text
    row.sees, row.kept, row.then = "nothing: the run goes on", "everything", "none is needed"
    check_end(run, row)
    assert set(finished_stages(run.output).values()) == {1}, "an attempt of each stage"
    first, second = (folder / "trainer.log" for folder in stage_folders(run.output))
    assert "was ready" not in first.read_text() and "was ready" in second.read_text()


@pytest.mark.parametrize("part", DEATHS)
def test_a_run_whose_part_is_killed_leaves_nothing_and_the_next_goes_on(part, chain, row):
    row.fault = f"SIGKILL of {part}"
    run = chain.at_a_step()
    run.kill(part)
    code = run.end(900)
    row.sees = f"exit {code}: {run.message()}" if code > 0 else f"exit {code}"
    assert code == DEATHS[part], run.text
    check_end(run, row)
    if code > 0:
        assert re.search(r"^log: \S+trainer\.log$", run.text, re.M), run.text
        assert "Traceback" not in run.text.split("the trainer")[0], run.text
        assert "no line in the log" not in run.text, "found by its silence, and not by its death"
    chain.resume(row)


def test_a_sampling_engine_that_hangs_is_given_up_and_the_next_run_goes_on(chain, row):
    row.fault = "SIGSTOP of the rollout server"
    run = chain.at_a_step()
    server, used = run.find("the rollout server"), math.inf
    while sum(server.cpu_times()[:2]) - used < 0.05:  # until it samples
        used = sum(server.cpu_times()[:2])
        time.sleep(0.1)
    server.send_signal(signal.SIGSTOP)
    code = run.end(900)
    row.sees = f"exit {code}: {run.message()}"
    assert code == 1, run.text
    # At the end of its sampling by chance: then the next weights wait, and the watch for a stall.
    assert re.search(r"EngineLostError|no progress and no line in the log", run.text), run.text
    check_end(run, row)
    chain.resume(row)


def test_a_flow_that_is_told_to_end_says_how_to_go_on(chain, row):
    row.fault = "SIGTERM of the flow"
    run = chain.at_a_step()
    run.kill("the flow", signal.SIGTERM)
    began = time.monotonic()
    code = run.end(60)
    row.sees = f"exit {code} after {time.monotonic() - began:.0f} s: {run.message()}"
    check_end(run, row)
    assert code == 143, run.text
    assert "resumes from the last checkpoint" in run.text
    [manifest] = manifests(chain.output)
    assert manifest["outcome"] == "interrupted"
    jump = chain.output.parent / "jump"
    jump.write_text("0")
    here = str(ROOT / "tests" / "faults")
    environment = {"PYTHONPATH": f"{CLOCK}:{ROOT}:{here}", "FAULTS_CLOCK": str(jump)}
    chain.resume(row, environment=environment)


@pytest.mark.parametrize("hours", [-24, 48])
def test_the_clock_jumps_and_the_stage_goes_on(hours, chain, row):
    row.fault = f"the clock jumps by {hours:+d} h in the middle of a stage"
    run = chain.at_a_step()
    made = len(re.findall(r" step \d+/", run.text))
    (chain.output.parent / "jump").write_text(str(hours * 3600))
    run.wait_for(r" step \d+/", 300, made + 3)
    row.sees = "nothing: the run goes on"
    row.kept, row.then = "everything", "none is needed"
    assert run.alive()
    assert faults_of(chain.output) == []


def test_a_second_pipeline_waits_for_the_first_and_takes_over_when_it_is_killed(chain, row):
    row.fault = "two pipelines need the same stage, and the one that trains it is killed"
    first = chain.at_a_step()
    second = chain.start()
    second.wait_for(r"is being made by process \d+: waiting for it", 300)
    assert f"by process {first.find('the flow').pid}" in second.text
    made = recorded_steps(chain.output)
    first.kill("the flow")
    assert first.end(30) == -9
    row.left = first.left()
    assert row.left == NOTHING
    second.wait_for(r" step \d+/", START)
    row.sees = "the second says which process it waits for"
    [resumed_at] = re.findall(r"resumes after step (\d+)", second.text)
    assert int(resumed_at) >= min(made.values())
    assert f" step {int(resumed_at) + 1}/" in second.text  # not one that the first had yet to save
    row.kept, row.then = "every step", f"the one that waited resumes after step {resumed_at}"
    chain.run = second


def test_two_pipelines_at_once_train_each_stage_once(chain, row):
    row.fault = "two pipelines need the same stages, both to their end"
    first = chain.at_a_step()
    second = chain.start()
    second.wait_for("waiting for it", START)
    assert (first.end(END), second.end(END)) == (0, 0), first.text + second.text
    check_end(first, row)
    check_end(second, row)
    row.sees = "both end with exit 0 and the same report"
    row.kept = "one folder for each stage"
    for text in (first.text, second.text):
        assert re.search(r"report: \S+report\.html$", text, re.M)
    assert len(stage_folders(chain.output)) == len(manifests(chain.output)) == 2
    trained_by = [text.count("2-L2-96  step 2/2") for text in (first.text, second.text)]
    assert sum(trained_by) == 1, trained_by
    assert "already trained" in first.text + second.text
    again = chain.start()
    assert again.end(300) == 0, again.text
    row.then = resumed(again.text)
    assert again.text.count("already trained") == 2
    check_end(again, row)


def test_a_damaged_manifest_or_checkpoint_is_told_and_made_good(chain, row):
    row.fault = "stage 1's manifest is cut in half, stage 2's weights are truncated"
    before = manifests(chain.output)
    first, second = (Path(one["checkpoint"]["path"]).parent for one in before)
    manifest = first / "stage.json"
    manifest.write_text(manifest.read_text()[: manifest.stat().st_size // 2])
    weights = second / "checkpoint" / "model.safetensors"
    with weights.open("r+b") as file:
        file.truncate(weights.stat().st_size // 2)
    run = chain.start()
    assert run.end(END) == 0, run.text
    said = re.findall(r"(?:was damaged|is not what its manifest says).*", run.text)
    row.sees = "; ".join(said).replace(f"{chain.output}/", "")
    assert "stage.json was damaged" in run.text and "stage.json.corrupt-" in run.text
    assert "checkpoint is not what its manifest says; it is made again" in run.text
    row.kept = "the damaged manifest, as stage.json.corrupt-<time>; every step"
    row.then = f"{resumed(run.text)}; the same checkpoints again"
    check_end(run, row)
    after = manifests(chain.output)
    assert [one["checkpoint"] for one in after] == [one["checkpoint"] for one in before]
    assert len(finished_stages(chain.output)) == 2
    assert not re.search(r" step \d+/", run.text)  # no step was made twice


def test_a_checkpoint_of_a_finished_stage_that_was_deleted_is_made_again(chain, row):
    row.fault = "the checkpoint of a finished stage is deleted"
    before = manifests(chain.output)
    shutil.rmtree(before[0]["checkpoint"]["path"])
    run = chain.start()
    assert run.end(END) == 0, run.text
    assert "is missing although its stage had finished; it is made again" in run.text
    row.sees = "the checkpoint is missing although its stage had finished; it is made again"
    row.kept = "every step, and the stage after it"
    row.then = resumed(run.text)
    check_end(run, row)
    assert [one["checkpoint"] for one in manifests(chain.output)] == [
        one["checkpoint"] for one in before
    ]
    assert run.text.count("already trained") == 1 and not re.search(r" step \d+/", run.text)


# --- A full disk ---------------------------------------------------------------------------------


@pytest.fixture
def small_disk(tmp_path):
    """A folder on a disk of its own, 300 MiB."""
    if not may_mount():
        pytest.skip("a small disk is a tmpfs, and this user may not mount one")
    import subprocess

    folder = tmp_path / "outputs"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=300m", "tmpfs", str(folder)], check=True)
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


def test_a_disk_that_fills_during_a_save_costs_no_step_that_was_saved(
    small_disk, stall, attempts, row
):
    row.fault = "the disk is full during a save (tmpfs of 300 MiB)"
    settings = [
        "experiment=lab/smoke",
        "stage=1",
        "stages.0.steps=12",
        "hardware.stall_timeout=120",
    ]
    run = attempts(small_disk, *settings, module="flows.train_stage")
    run.wait_for(r" step 2/", START)
    ballast = small_disk / "ballast"
    with ballast.open("wb") as file:
        try:
            while True:
                file.write(bytes(1 << 20))
        except OSError:
            file.close()
    with ballast.open("r+b") as file:
        file.truncate(max(0, ballast.stat().st_size - (256 << 10)))
    code = run.end(900)
    row.sees = f"exit {code}: {run.message()}"
    assert code == 1, run.text
    assert re.search(r"[Nn]o space left on device|disk is full", run.text), run.text
    row.left = run.left()
    assert row.left == NOTHING
    ballast.unlink()
    assert faults_of(small_disk) == []
    made = recorded_steps(small_disk)
    row.kept = f"{sum(made.values())} steps"
    again = attempts(small_disk, *settings, module="flows.train_stage")
    assert again.end(END) == 0, again.text
    row.then = resumed(again.text) + ", finished"
    after = re.findall(r"resumes after step (\d+)", again.text)
    assert after and int(after[0]) >= 2
    assert finished_stages(small_disk)
    check_end(again, row)
