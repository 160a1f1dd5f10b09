"""SIGKILL of random processes of the lab pipeline at random moments, again and again.

An output folder is resumed until its experiment is finished, then comes another seed. Once with a
stand-in for the trainer, which is quick, and once with verl.
"""

import random
import re
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import pytest
import truth
from attempts import Attempt, part_of
from stand_in_trainer import prompts_in_order
from table import Campaign

pytestmark = [pytest.mark.faults, pytest.mark.slow, pytest.mark.timeout(0)]
STEPS = ["experiment=lab/smoke", "stages.0.steps=10", "stages.1.steps=6"]
FIRST_GUESS = 40.0  # seconds to the first step, until one was measured
# Seconds after a kill in which a run ends, if it does not go on.
SETTLES = {"verl": 20.0, "a stand-in for verl": 3.0}
END = 3600.0  # seconds in which a run has ended whatever happened to it


class Killer:
    """Harms one run after the other, and looks at what is there after each.

    A kill comes within the time that a run needs to its first step, after the start or after the
    kill before: so starts, first steps and ends are all met, and few runs end unharmed.
    """

    def __init__(
        self,
        folder: Path,
        seed: int,
        start: Callable[..., Attempt],
        faults_of: Callable[[Path], list[str]],
        campaign: Campaign,
    ):
        self.folder = folder
        self.start = start
        self.faults_of = faults_of
        self.campaign = campaign
        self.random = random.Random(seed)
        self.experiment = 0  # seed of the experiment at work
        self.start_up = FIRST_GUESS
        self.seen: set[Attempt] = set()
        self.faults: list[str] = []

    @property
    def output(self) -> Path:
        """Folder of the experiment at work."""
        return self.folder / str(self.experiment) / "outputs"

    def attempt(self, kills: int) -> None:
        """One run, killed until it ends or so many kills were made; then everything is checked."""
        run = self.start(self.output, f"seed={self.experiment}")
        finished = truth.finished_stages(self.output)
        mine: list[dict] = []
        while len(self.campaign.log) + len(mine) < kills:
            if not self._alive_at(run, run.seconds + self.random.random() * self.start_up):
                break
            choice = self.random.random()
            if victims := run.processes():
                mine.append(self._kill(run, victims[int(choice * len(victims))], len(mine)))
        run.end(END)
        self._check(run, finished, mine)

    def _alive_at(self, run: Attempt, second: float) -> bool:
        while run.alive() and run.seconds < second:
            self._learn(run)
            time.sleep(0.1)
        return run.alive()

    def _learn(self, run: Attempt) -> None:
        """How long a run needs to its first step on this machine."""
        if run not in self.seen and re.search(r" step \d+/", run.text):
            self.seen.add(run)
            self.start_up = run.seconds

    def _kill(self, run: Attempt, victim, earlier: int) -> dict:
        made = {
            "kill": len(self.campaign.log) + earlier + 1,
            "seed": self.experiment,
            "second": round(run.seconds, 1),
            "part": part_of(victim),
            "steps": sum(truth.recorded_steps(self.output).values()),
        }
        said = len(run.text)
        victim.kill()
        settled = time.monotonic() + SETTLES[self.campaign.trainer]
        while run.alive() and (time.monotonic() < settled or len(run.text) == said):
            assert run.seconds < END, f"neither ends nor goes on:\n{run.text}"
            time.sleep(0.1)
        return made

    def _check(self, run: Attempt, finished: dict[str, int], kills: list[dict]) -> None:
        code, left, faults = run.process.returncode, run.left(), self.faults_of(self.output)
        # What was finished before is finished now, and was not trained again.
        now = truth.finished_stages(self.output)
        lost = [name for name, attempts in finished.items() if now.get(name) != attempts]
        for kill in kills:
            last = kill is kills[-1]
            kill |= {
                "ended": last and code != 0,
                "exit": code if last else None,
                "said": run.message() if last and code > 0 else "",
                "faults": faults if last else [],
                "stages lost": len(lost) if last else 0,
                "next run": "" if last else "the same",
            }
            kill |= {f"{what} left": names if last else [] for what, names in left.items()}
        log = self.campaign.log
        if log and log[-1]["seed"] == self.experiment and not log[-1]["next run"]:
            log[-1]["next run"] = truth.resumed(run.text)
        log += kills
        found = [*faults, *(f"{name} was finished, and is not" for name in lost)]
        found += [f"left {names}" for names in left.values() if names]
        if code != 0 and not kills:
            found.append(f"failed by itself, exit {code}: {run.message()}")
        if code == 0 and len(now) != 2:
            found.append(f"exit 0 with {len(now)} finished stages")
        self.faults += [f"{run.log}: {one}" for one in found]
        self.experiment += code == 0
        run.destroy()


@pytest.mark.parametrize("trainer", ["a stand-in for verl", "verl"])
def test_no_kill_at_any_moment_loses_or_leaves_anything(
    trainer, request, table, tmp_path_factory, stall, attempts
):
    option = request.config.getoption
    kills, seed = option("--faults-kills"), option("--faults-seed")
    if trainer == "verl":
        start = lambda output, *more: attempts(output, *STEPS, stall, *more)  # noqa: E731
        faults_of = truth.faults_of
    else:
        start = lambda output, *more: attempts(  # noqa: E731
            output, *STEPS, "wait=0.3", *more, module="stand_in"
        )
        faults_of = partial(truth.faults_of, sampler=prompts_in_order)
    campaign = Campaign(trainer, kills, seed)
    table.campaigns.append(campaign)
    killer = Killer(tmp_path_factory.mktemp("kills"), seed, start, faults_of, campaign)
    deadline = time.monotonic() + 60 * option("--faults-minutes")
    while len(campaign.log) < kills and time.monotonic() < deadline:
        killer.attempt(kills)
        table.write()
    # The experiment that was killed last is brought to its end.
    at_work = killer.experiment
    if campaign.log and campaign.log[-1]["seed"] == at_work:
        killer.attempt(0)
        table.write()
    assert killer.faults == []
    assert killer.experiment > 0, "no experiment was brought to its end"
    assert len(campaign.log) >= kills, f"only {len(campaign.log)} kills in the time that was given"
    campaign.held = True
    table.write()
