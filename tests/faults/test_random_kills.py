"""SIGKILL of random processes of the lab pipeline at random moments, again and again.

An output folder is resumed until its experiment is finished, then comes another seed.
"""

import random
import time
from pathlib import Path

import pytest
from attempts import Attempt, part_of
from truth import faults_of, finished_stages, recorded_steps, resumed

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(0)]
SETTINGS = ["experiment=lab/smoke", "stages.0.steps=10", "stages.1.steps=6"]
SETTINGS += ["hardware.stall_timeout=120"]
FIRST_GUESS = 40.0  # seconds to the first step, until one was measured
STOPS = 20.0  # seconds after a kill in which the run ends, or goes on
STALLS = 300.0  # seconds in which a run that neither ends nor goes on must have been stopped


class Campaign:
    """Kills one after the other, and what was found after each."""

    def __init__(self, folder: Path, seed: int, attempts):
        self.folder = folder
        self.seed = seed
        self.attempts = attempts
        self.random = random.Random(seed)
        self.experiment = 0  # seed of the experiment at work
        self.start_up = FIRST_GUESS
        self.seen: set[Attempt] = set()
        self.log: list[dict] = []
        self.faults: list[str] = []

    @property
    def output(self) -> Path:
        return self.folder / str(self.experiment) / "outputs"

    def attempt(self, kills: int) -> None:
        """One run: killed at least once, unless it ends before; then everything is checked."""
        run = self.attempts(self.output, *SETTINGS, f"seed={self.experiment}")
        finished = finished_stages(self.output)
        mine: list[dict] = []
        while run.alive() and len(self.log) + len(mine) < kills:
            if not self._wait(run, run.seconds + self.random.random() * 2 * self.start_up):
                break
            victims = run.processes()
            choice = self.random.random()
            if victims:
                mine.append(self._kill(run, victims[int(choice * len(victims))]))
        if run.alive():
            run.end(1200)
        self._check(run, finished, mine)

    def _wait(self, run: Attempt, until: float) -> bool:
        """Whether the run is still alive at that moment of its life."""
        while run.alive() and run.seconds < until:
            self._learn(run)
            time.sleep(0.1)
        return run.alive()

    def _learn(self, run: Attempt) -> None:
        """How long a run needs to its first step on this machine."""
        if run not in self.seen and " step " in run.text:
            self.seen.add(run)
            self.start_up = run.seconds

    def _kill(self, run: Attempt, victim) -> dict:
        part, moment = part_of(victim), run.seconds
        said = len(run.text)
        steps = recorded_steps(self.output)
        victim.kill()
        deadline = time.monotonic() + STALLS
        quiet = time.monotonic() + STOPS
        while run.alive() and time.monotonic() < deadline:
            went_on = time.monotonic() > quiet and len(run.text) > said
            if went_on:
                break
            time.sleep(0.1)
        return {
            "kill": len(self.log) + 1,
            "seed": self.experiment,
            "second": round(moment, 1),
            "part": part,
            "steps": sum(steps.values()),
            "ended": not run.alive(),
        }

    def _check(self, run: Attempt, finished: dict[str, int], kills: list[dict]) -> None:
        code = run.process.returncode
        left = run.left()
        faults = faults_of(self.output)
        # What was finished before is finished now, and was not trained again.
        now = finished_stages(self.output)
        lost = [name for name, attempts in finished.items() if now.get(name) != attempts]
        for kill in kills:
            last = kill is kills[-1]
            kill["exit"] = code if last else None
            kill["said"] = run.message() if last and code > 0 else ""
            kill["processes left"] = left["processes"] if last else []
            kill["shared memory left"] = left["shared memory"] if last else []
            kill["scratch left"] = left["scratch"] if last else []
            kill["faults"] = faults if last else []
            kill["stages lost"] = len(lost) if last else 0
            kill["next run"] = ""
        before = self.log[-1] if self.log else None
        if before and before["seed"] == self.experiment:
            before["next run"] = resumed(run.text)
        self.log += kills
        self.faults += [f"{run.log}: {fault}" for fault in faults]
        self.faults += [f"{run.log}: {name} was finished, and lost" for name in lost]
        self.faults += [f"{run.log}: left {what}" for what in left.items() if what[1]]
        if code != 0 and not any(kill["ended"] for kill in kills):
            self.faults.append(f"{run.log}: failed by itself, exit {code}: {run.message()}")
        if code == 0:
            if len(now) != 2:
                self.faults.append(f"{run.log}: exit 0 with {len(now)} finished stages")
            self.experiment += 1
        run.destroy()


def test_no_kill_at_any_moment_loses_or_leaves_anything(request, table, tmp_path_factory, attempts):
    kills = request.config.getoption("--faults-kills")
    minutes = request.config.getoption("--faults-minutes")
    campaign = Campaign(tmp_path_factory.mktemp("kills"), table.seed, attempts)
    table.kills, table.kills_asked = campaign.log, kills
    deadline = time.monotonic() + 60 * minutes
    while len(campaign.log) < kills and time.monotonic() < deadline:
        campaign.attempt(kills)
    # The experiment that was killed last is brought to its end: nothing of it was lost.
    while campaign.log and campaign.log[-1]["ended"] and not campaign.faults:
        before = campaign.experiment
        campaign.attempt(0)
        if campaign.experiment != before:
            break
    assert campaign.faults == []
    assert len(campaign.log) >= kills, f"only {len(campaign.log)} kills in {minutes:g} minutes"
    table.kills_held = True
