"""Which prompts are sampled, which prompt groups go on, which train."""

from typing import Any, Literal

from pydantic import model_validator

from conf.schema.knobs import Knobs, knob


class PassRates(Knobs):
    """Which pass rates teach something. On correctness, never on the shaped reward."""

    low: float = knob(0.0, "Pass rate that a group must exceed.", "pass rate", ge=0, lt=1)
    high: float = knob(1.0, "Pass rate that a group must stay below.", "pass rate", gt=0, le=1)

    @model_validator(mode="after")
    def _in_order(self) -> "PassRates":
        if self.low >= self.high:
            raise ValueError(
                f"low is {self.low}, high {self.high}: no group lies between\n\n"
                "hint: lower selection.bounds.low"
            )
        return self


class Speed(Knobs):
    """SPEED: screen, then continue what is worth it (arXiv:2506.09016)."""

    screening: int = knob(4, "N_init; N_cont is group_size less that.", "rollouts", gt=0)
    rows: Literal["all", "continuation"] = knob(
        "all", "Train on all rollouts, or on those that did not choose the group.", "choice"
    )
    updates: Literal["equal", "as_published"] = knob(
        "equal",
        "Mini-batch by all rollouts of a prompt (as many updates as uniform sampling makes), or "
        "as published by N_init alone (group_size / N_init times as many).",
        "choice",
    )
    ahead: bool = knob(
        False,
        "Screen the next step's prompts beside this step's continuations, as published: one "
        "request to the engine a step, and screenings that are one update older.",
        "switch",
    )


class Mopps(Knobs):
    """MoPPS: a Beta posterior per prompt (arXiv:2507.04632)."""

    target: float = knob(0.5, "Pass rate to be near to.", "pass rate", ge=0, le=1)
    pool: float = knob(2.0, "Candidates per prompt that is wanted.", "1", ge=1)
    decay: float = knob(1.0, "Evidence kept when new comes; 1 forgets nothing.", "1", ge=0, le=1)


class Sure(Knobs):
    """When SPEED with a posterior leaves the screening out."""

    sure: float = knob(
        0.8,
        "Whole group from this probability of contrast, of what a pass rate of 1/2 gives.",
        "share",
        ge=0,
    )
    hopeless: float = knob(
        0.7,
        "Skipped up to this probability of contrast, of what an unknown prompt gives.",
        "share",
        ge=0,
        lt=1,
    )
    prior: float = knob(0.3, "α0 = β0 of the posterior; below 1 it is U-shaped.", "1", gt=0)
    decay: float = knob(0.95, "Evidence kept per step that passes.", "1 per step", ge=0, le=1)


class Greso(Knobs):
    """GRESO: skip what taught nothing lately (arXiv:2506.02177)."""

    explore: float = knob(
        0.5, "First p_e: a visit without contrast halves the chance.", "1", gt=0, le=1
    )
    target: float = knob(0.25, "Share of groups without contrast aimed at.", "share", ge=0, le=1)
    pace: float = knob(0.01, "Change of p_e per step.", "1 per step", ge=0, le=1)


class E2H(Knobs):
    """E2H: from easy to hard (arXiv:2506.06632)."""

    schedule: Literal["balanced", "classic", "cosine", "gaussian"] = knob(
        "gaussian", "How the levels' probabilities move.", "choice"
    )
    levels: int = knob(4, "Levels, at most.", "levels", gt=0)
    exponent: float = knob(0.5, "Of the Gaussian's centre over time.", "1", gt=0)
    width: float = knob(0.5, "Of the Gaussian.", "levels", gt=0)
    floor: bool = knob(False, "The Gaussian keeps every level in play.", "switch")


class ShuffleR1(Knobs):
    """Shuffle-R1: the widest pairs of twice the rollouts, the best repeated (arXiv:2508.05612)."""

    oversample: int = knob(2, "Rollouts sampled per rollout trained.", "1", ge=1)
    replay: int = knob(8, "Times that pairs are drawn from the batch.", "draws", gt=0)


# The groups of knobs that each curriculum looks at.
USES = {
    "uniform": (),
    "dapo": ("bounds",),
    "speed": ("bounds", "speed"),
    "mopps": ("mopps",),
    "speed_mopps": ("bounds", "speed", "sure"),
    "greso": ("greso",),
    "e2h": ("e2h",),
    "shuffle_r1": ("shuffle_r1",),
}


class Selection(Knobs):
    """Which prompts are sampled, which groups go on, which train. Groups not named lie idle."""

    name: Literal[
        "uniform", "dapo", "speed", "mopps", "speed_mopps", "greso", "e2h", "shuffle_r1"
    ] = knob("uniform", "The curriculum.", "choice")
    in_flight: float = knob(
        4.0, "Groups drawn whose fate is open, at most, per group that trains.", "batches", ge=1
    )
    max_age: int = knob(
        1, "Steps that a surplus group may wait; 0 drops it with its step.", "steps", ge=0
    )
    max_draws: float = knob(
        16.0, "Prompts drawn per step at most, per group that trains.", "batches", ge=1
    )
    timeout: float = knob(
        1800.0, "Without any group back, until those out are given up.", "seconds", gt=0
    )
    bounds: PassRates = knob(PassRates, "Pass rates that teach.", "group")
    speed: Speed = knob(Speed, "SPEED.", "group")
    mopps: Mopps = knob(Mopps, "MoPPS.", "group")
    sure: Sure = knob(Sure, "SPEED with a posterior.", "group")
    greso: Greso = knob(Greso, "GRESO.", "group")
    e2h: E2H = knob(E2H, "E2H.", "group")
    shuffle_r1: ShuffleR1 = knob(ShuffleR1, "Shuffle-R1.", "group")

    def unread(self, key: str) -> str:
        """Why a group of knobs lies idle, or ""."""
        readers = [name for name, uses in USES.items() if key in uses]
        if not readers or self.name in readers:
            return ""
        found = getattr(self, key).model_dump(exclude_defaults=True)
        return (
            f"found {key} {found}, which name={self.name} does not read, needed one that does\n\n"
            f"hint: choose selection={' or selection='.join(readers)}, or leave {key} out"
        )

    def fault(self, group_size: int, batch_size: int, mini_batch_size: int) -> str:
        """What makes it unusable for a stage of these sizes, with a hint, or ""."""
        screens = self.name in ("speed", "speed_mopps")
        if screens and self.speed.screening >= group_size:
            return (
                f"a screening of {self.speed.screening} rollouts leaves nothing of a group_size of "
                f"{group_size}\n\nhint: lower selection.speed.screening or raise group_size"
            )
        mini = mini_batch_size * self.speed.screening
        if screens and self.speed.updates == "as_published" and batch_size * group_size % mini:
            return (
                f"{batch_size} × {group_size} rollouts are no multiple of {mini_batch_size} × "
                f"{self.speed.screening}, the published mini-batch\n\n"
                "hint: choose a group_size that selection.speed.screening divides"
            )
        if screens and self.speed.updates == "as_published" and self.speed.rows != "all":
            return "as published SPEED trains on all rows\n\nhint: set selection.speed.rows=all"
        if screens and self.speed.ahead and not self.max_age:
            return (
                "prompts that are screened a step ahead wait for it, and max_age is 0\n\n"
                "hint: set selection.max_age=1"
            )
        if screens and self.speed.rows == "continuation" and group_size - self.speed.screening < 2:
            return (
                "a continuation of 1 rollout has no baseline\n\n"
                "hint: lower selection.speed.screening or raise group_size"
            )
        if self.name == "shuffle_r1" and group_size % 2:
            return f"group_size {group_size} is odd, Shuffle-R1 trains pairs\n\nhint: make it even"
        return ""

    @property
    def ahead(self) -> bool:
        """Whether prompts are drawn a step before they train."""
        return "speed" in USES[self.name] and self.speed.ahead

    def rows_trained(self, group_size: int) -> int:
        """Rollouts of a prompt that train: all of its group, or those of SPEED's continuation."""
        if "speed" in USES[self.name] and self.speed.rows == "continuation":
            return group_size - self.speed.screening
        return group_size

    def rows_per_prompt(self, group_size: int) -> int:
        """Rollouts of a prompt by which mini-batches are sized: those that train.

        SPEED as published sizes them by its screening alone, and so makes more updates of a batch.
        """
        if "speed" in USES[self.name] and self.speed.updates == "as_published":
            return self.speed.screening
        return self.rows_trained(group_size)

    def updates(self, batch_size: int, mini_batch_size: int, group_size: int) -> int:
        """Optimizer updates of a step whose batch is whole."""
        rows = batch_size * self.rows_trained(group_size)
        return rows // (mini_batch_size * self.rows_per_prompt(group_size))

    def most_rollouts(self, batch_size: int, group_size: int) -> int:
        """Rollouts that a step samples at most, those of replaced groups left out."""
        drawn = int(self.max_draws * batch_size)
        if self.name == "speed":
            rest = batch_size * (group_size - self.speed.screening)
            return drawn * self.speed.screening + rest
        if self.name in ("dapo", "greso", "speed_mopps"):
            return drawn * group_size
        more = self.shuffle_r1.oversample if self.name == "shuffle_r1" else 1
        return batch_size * group_size * more

    def identity(self) -> dict[str, Any]:
        """What of it determines what a stage learns: idle groups of knobs do not."""
        idle = {group for uses in USES.values() for group in uses} - set(USES[self.name])
        return self.model_dump(mode="json", exclude=idle | {"timeout"})
