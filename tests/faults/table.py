"""The table of faults: what was done to a run, what its user saw, and what the next run did."""

import json
import os
import platform
import subprocess
import time
from dataclasses import asdict, dataclass, field
from importlib.metadata import version
from pathlib import Path

ROOT = Path(__file__).parents[2]
PACKAGES = ("verl", "torch", "ray", "prefect", "mlflow", "transformers")


@dataclass
class Row:
    """One fault.

    Attributes:
        fault: What was done.
        sees: What the user saw: exit code and message.
        kept: What was there afterwards.
        then: What the next run did.
        trainer: verl, or a stand-in for it.
        left: What was left behind: processes, shared memory, scratch folders.
        held: Whether everything that must hold did.
        seconds: How long it took.
        commit: Which code was harmed; `+` if it was changed.
        command: What harmed it.
    """

    fault: str = ""
    sees: str = ""
    kept: str = ""
    then: str = ""
    trainer: str = "verl"
    left: dict[str, list[str]] = field(default_factory=dict)
    held: bool = False
    seconds: float = 0.0
    commit: str = ""
    command: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What a later run of the same replaces."""
        return (self.fault, self.trainer)


@dataclass
class Table:
    """What runs of the matrix found: this one, and what earlier ones found that it did not do."""

    seed: int
    rows: list[Row] = field(default_factory=list)
    campaigns: list["Campaign"] = field(default_factory=list)
    began: float = field(default_factory=time.time)
    folder: Path | None = None
    command: str = ""

    def to(self, folder: Path, command: str) -> None:
        """Where it is written, and which command fills it."""
        self.folder, self.command = folder, command

    def write(self) -> None:
        """Write `faults.json` and `faults.md` as they are by now."""
        folder = self.folder
        if folder is None:
            return
        for one in (*self.rows, *self.campaigns):
            one.commit, one.command = one.commit or _commit(), self.command
        before = self._before()
        rows = _newest([Row(**row) for row in before.get("rows", [])], self.rows)
        kills = [Campaign(**campaign) for campaign in before.get("random_kills", [])]
        kills = _newest(kills, self.campaigns)
        facts = {
            "seed": self.seed,
            "minutes": round((time.time() - self.began) / 60, 1),
            "cpus": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        }
        plain = {"rows": [asdict(row) for row in rows], "random_kills": [asdict(k) for k in kills]}
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "faults.json").write_text(json.dumps({**facts, **plain}, indent=2) + "\n")
        (folder / "faults.md").write_text(_markdown(facts, rows, kills))

    def _before(self) -> dict:
        path = self.folder / "faults.json"
        return json.loads(path.read_text()) if path.is_file() else {}


def _newest(before: list, now: list) -> list:
    again = {one.key for one in now}
    return [*(one for one in before if one.key not in again), *now]


def _markdown(facts: dict, rows: list[Row], kills: list["Campaign"]) -> str:
    packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
    lines = [
        "# What was done to runs, and what became of them",
        "",
        f"`make test-faults`, or parts of it: {facts['cpus']} cores, Python {facts['python']}, "
        f"{packages}. Written by the runs themselves, the last with seed {facts['seed']} in "
        f"{facts['minutes']} minutes; `faults.json` has the command of each row and the log of "
        "every kill.",
        "",
        "A row holds only if, after the fault and after the run that followed: each step is "
        "recorded once; each step's prompts are those that torchdata's sampler (or the "
        "stand-in's) draws from the stage's seed, none skipped and none repeated; counters are "
        "exact; what says finished is whole; and no process, no file in shared memory and no "
        "scratch folder is left.",
        "",
    ]
    if rows:
        lines += [
            "| fault | trainer | the user sees | kept | the next run | left behind | held | of |",
            "|---|---|---|---|---|---|---|---|",
        ]
    for row in rows:
        left = ", ".join(f"{len(names)} {what}" for what, names in row.left.items() if names)
        cells = (row.fault, row.trainer, row.sees, row.kept, row.then, left or "nothing")
        held = "yes" if row.held else "**no**"
        lines.append("| " + " | ".join(_cell(one) for one in (*cells, held, row.commit)) + " |")
    if kills:
        lines += ["", "## SIGKILL of random processes at random moments", ""]
    for campaign in kills:
        lines += campaign.markdown()
    return "\n".join(lines).rstrip() + "\n"


@dataclass
class Campaign:
    """Random kills, one after the other.

    Attributes:
        trainer: verl, or a stand-in for it.
        asked: How many kills were asked for.
        seed: What moments and victims were drawn from.
        log: One entry for each.
        held: Whether all that were asked for were made, and nothing was lost or left.
    """

    trainer: str
    asked: int
    seed: int
    log: list[dict] = field(default_factory=list)
    held: bool = False
    commit: str = ""
    command: str = ""

    @property
    def key(self) -> tuple[str, ...]:
        """What a later run of the same replaces."""
        return (self.trainer, str(self.seed))

    def markdown(self) -> list[str]:
        """What was killed how often, and what that did."""
        held = "yes" if self.held else "**no**"
        totals = {
            key: sum(len(kill[key]) for kill in self.log)
            for key in ("faults", "processes left", "shared memory left", "scratch left")
        }
        lines = [
            f"{len(self.log)} kills of the {self.asked} asked for, with {self.trainer}, seed "
            f"{self.seed}, commit {self.commit}. A moment is uniform over the time that a run "
            "needs to its first step, after its start or the kill before; the victim is any "
            "process of the run.",
            "",
            f"Stages lost: {sum(kill['stages lost'] for kill in self.log)}. Faults of records, "
            f"prompts, counters or results: {totals['faults']}. Left behind: "
            f"{totals['processes left']} processes, {totals['shared memory left']} files in shared "
            f"memory, {totals['scratch left']} scratch folders. All asked for, and all held: "
            f"{held}.",
            "",
            "| killed | times | and the run failed | and the run went on |",
            "|---|---|---|---|",
        ]
        for part in sorted({kill["part"] for kill in self.log}):
            mine = [kill for kill in self.log if kill["part"] == part]
            ended = sum(kill["ended"] for kill in mine)
            lines.append(f"| {part} | {len(mine)} | {ended} | {len(mine) - ended} |")
        return [*lines, ""]


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    # The table itself may differ from the commit: it is what is being written.
    changed = git("status", "--porcelain", "--", "flows", "tasks", "trainer", "conf", "tests")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")
