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
    """

    fault: str = ""
    sees: str = ""
    kept: str = ""
    then: str = ""
    trainer: str = "verl"
    left: dict[str, list[str]] = field(default_factory=dict)
    held: bool = False
    seconds: float = 0.0


@dataclass
class Table:
    """What one run of the matrix found."""

    seed: int
    rows: list[Row] = field(default_factory=list)
    kills: list[dict] = field(default_factory=list)
    kills_asked: int = 0
    kills_held: bool = False
    began: float = field(default_factory=time.time)

    def write(self, folder: Path, command: str) -> None:
        """Write `faults.json` and `faults.md`."""
        facts = {
            "command": command,
            "commit": _commit(),
            "seed": self.seed,
            "minutes": round((time.time() - self.began) / 60, 1),
            "cpus": len(os.sched_getaffinity(0)),
            "python": platform.python_version(),
            "packages": {name: version(name) for name in PACKAGES},
        }
        kills = {
            "asked": self.kills_asked,
            "made": len(self.kills),
            "held": self.kills_held,
            "log": self.kills,
        }
        rows = [asdict(row) for row in self.rows]
        text = json.dumps({**facts, "rows": rows, "random_kills": kills}, indent=2)
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "faults.json").write_text(text + "\n")
        (folder / "faults.md").write_text(self._markdown(facts))

    def _markdown(self, facts: dict) -> str:
        packages = ", ".join(f"{name} {number}" for name, number in facts["packages"].items())
        lines = [
            "# What was done to runs, and what became of them",
            "",
            f"`{facts['command']}`: commit {facts['commit']}, seed {facts['seed']}, "
            f"{facts['cpus']} cores, {facts['minutes']} minutes. Python {facts['python']}, "
            f"{packages}. Written by that run; the log of every kill is in `faults.json`.",
            "",
            "Every row holds only if, after the fault and after the run that followed: each step "
            "is recorded once; each step's prompts are those that torchdata's sampler draws from "
            "the stage's seed, none skipped and none repeated; counters are exact; what says "
            "finished is whole; and no process, no file in shared memory and no scratch folder is "
            "left.",
            "",
        ]  # fmt: skip
        if self.rows:
            lines += [
                "| fault | trainer | the user sees | kept | the next run | left behind | held |",
                "|---|---|---|---|---|---|---|",
            ]
            for row in self.rows:
                left = ", ".join(
                    f"{len(names)} {what}" for what, names in row.left.items() if names
                )
                cells = (row.fault, row.trainer, row.sees, row.kept, row.then, left or "nothing")
                held = "yes" if row.held else "**no**"
                lines.append("| " + " | ".join(_cell(cell) for cell in (*cells, held)) + " |")
            lines.append("")
        if self.kills_asked:
            lines += self._random_kills()
        return "\n".join(lines).rstrip() + "\n"

    def _random_kills(self) -> list[str]:
        held = "yes" if self.kills_held else "**no**"
        lines = [
            "## SIGKILL of random processes at random moments",
            "",
            f"{len(self.kills)} of {self.kills_asked} asked for, all on verl. Held: {held}. "
            "Moments are uniform over twice the time that a run needs to its first step; the "
            "victim is any process of the run.",
            "",
            "| killed | times | of them: the run failed or ended | went on to its end |",
            "|---|---|---|---|",
        ]  # fmt: skip
        for part in sorted({kill["part"] for kill in self.kills}):
            mine = [kill for kill in self.kills if kill["part"] == part]
            ended = sum(kill["ended"] for kill in mine)
            lines.append(f"| {part} | {len(mine)} | {ended} | {len(mine) - ended} |")
        totals = {
            key: sum(len(kill[key]) for kill in self.kills)
            for key in ("faults", "processes left", "shared memory left", "scratch left")
        }
        lost = sum(kill["stages lost"] for kill in self.kills)
        lines += [
            "",
            f"Stages lost: {lost}. Faults of records, prompts, counters or results: "
            f"{totals['faults']}. Left behind: {totals['processes left']} processes, "
            f"{totals['shared memory left']} files in shared memory, "
            f"{totals['scratch left']} scratch folders.",
            "",
        ]
        return lines


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("\n", " ")


def _commit() -> str:
    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True)
        return done.stdout.strip()

    # The table itself may differ from the commit: it is what is being written.
    changed = git("status", "--porcelain", "--", "flows", "tasks", "trainer", "conf", "tests")
    return (git("rev-parse", "--short", "HEAD") or "unknown") + ("+" if changed else "")
