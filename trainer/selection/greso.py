"""GRESO: a prompt that taught nothing lately is skipped, the more surely the longer that lasts."""

from collections.abc import Collection, Sequence
from typing import Any

from trainer.selection.curriculum import Curriculum, Draw, Group, informative

LEAST = 0.01  # of an exploration probability: whoever is at 0 never hears of a change


class Greso(Curriculum):
    """Takes a prompt with probability p_e^z, z its latest visits in a row without contrast.

    p_e is kept apart for prompts that were all right (easy) and all wrong (hard). After each step
    it falls by `pace` where the share of such groups in the step reached its goal, and rises by as
    much where not. Goals: a third of `target` for easy, two thirds for hard. What was sampled and
    shows no contrast does not train.

    Source:
        Zheng et al. 2025, "GRESO", arXiv:2506.02177, algorithm 1, with the published p_e = .5,
        target 25 %, pace 1 %. Their batch of prompts grows with the yield; so does ours, in
        `trainer.selection.stream`.
    """

    def configure(self, explore: float = 0.5, target: float = 0.25, pace: float = 0.01) -> None:
        """First p_e, goal for the share of groups without contrast, and change per step."""
        self.explore = {"easy": explore, "hard": explore}
        self.goal = {"easy": target / 3, "hard": target * 2 / 3}
        self.pace = pace
        self.streaks: dict[str, list] = {}  # id -> [visits in a row without contrast, kind]

    def chance(self, prompt: str) -> float:
        """Probability that a prompt is taken when its turn comes."""
        visits, kind = self.streaks.get(prompt, [0, "hard"])
        return self.explore[kind] ** visits

    def draw(self, count: int, step: int, busy: Collection[int]) -> list[Draw]:
        """The next prompts that are not skipped; after one pass over the set, the next ones."""
        taken, result = set(busy), []
        random, turns = self.random(), 0
        while len(result) < count and (prompt := self.cursor.next(taken)) is not None:
            turns += 1
            # Where all are skipped somebody must be taken, or the stage would never end.
            sure = turns > len(self.prompts)
            if not sure and random.random() >= self.chance(self.prompts[prompt].id):
                self.skipped += 1
                continue
            taken.add(prompt)
            result.append(self.planned(prompt, step))
        return result

    def trains(self, group: Group) -> bool:
        """Whether its rollouts disagree."""
        return informative(group.pass_rate)

    def remember(self, groups: Sequence[Group], step: int) -> None:
        """Lengthen or end streaks, and move p_e."""
        flat = {"easy": 0, "hard": 0}
        for group in groups:
            if informative(group.pass_rate):
                self.streaks.pop(group.id, None)
                continue
            kind = "easy" if group.pass_rate == 1 else "hard"
            visits, before = self.streaks.get(group.id, [0, kind])
            self.streaks[group.id] = [visits + 1 if before == kind else 1, kind]
            flat[kind] += 1
        for kind, count in flat.items():
            if groups:
                up = count / len(groups) < self.goal[kind]
                moved = self.explore[kind] + (self.pace if up else -self.pace)
                self.explore[kind] = min(1.0, max(LEAST, moved))

    def metrics(self) -> dict[str, float]:
        """Both exploration probabilities, and how many prompts are in a streak."""
        explore = {f"explore_{kind}": value for kind, value in self.explore.items()}
        return {**explore, "in_a_streak": len(self.streaks)}

    def memory(self) -> dict[str, Any]:
        """Streaks and exploration."""
        streaks = {prompt: list(streak) for prompt, streak in self.streaks.items()}
        return {"explore": dict(self.explore), "streaks": streaks}

    def recall(self, state: dict[str, Any]) -> None:
        """Streaks and exploration."""
        self.explore = dict(state["explore"])
        self.streaks = {prompt: list(streak) for prompt, streak in state["streaks"].items()}
