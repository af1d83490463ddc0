"""What a run has seen of its tasks, and what follows from it: pass rates, open levels, the length of an episode.

Plain numbers without randomness, so that the same episodes always lead to the same decisions. Left out: drawing tasks
(`task_sampler.py`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envgym_trainer.config.curriculum import HorizonConfig

UNSEEN = 0.5
"""Pass rate of a level of which nothing is known: the one most worth a try."""


def learnability(rate: float, *, floor: float) -> float:
    """How much a group of a task with this pass rate can teach: max(floor, 4 p (1 - p)).

    p (1 - p) is the variance of a reward of 0 or 1, so of the advantages before they are scaled; 0 where all siblings agree.

    Args:
        rate: share of episodes that solve it, in [0, 1].
        floor: the least weight, in (0, 1]: what is solved always or never is drawn now and then, or nobody would see it change.
    Returns: in [floor, 1].
    Source: sampling for learnability, Rutherford et al. 2024, arXiv 2408.15099; for language models Foster et al. 2025,
        arXiv 2502.12272.
    """
    return max(floor, 4 * rate * (1 - rate))


class PassRates:
    """Exponential moving shares of solved episodes, one group at a time: rate <- decay * rate + (1 - decay) * group.

    A template starts at the rate of its level, a level at 1/2.

    Args:
        decay: in [0, 1).
    """

    def __init__(self, *, decay: float):
        self.decay = decay
        self.templates: dict[str, float] = {}
        self.levels: dict[str, float] = {}

    def of(self, template: str, level: str) -> float:
        """The pass rate of a template, as far as it is known."""
        return self.templates.get(template, self.levels.get(level, UNSEEN))

    def observe(self, template: str, level: str, solved: float) -> None:
        """Takes in a group of which the share `solved` solved its task."""
        before = self.of(template, level)
        self.templates[template] = self._moved(before, solved)
        self.levels[level] = self._moved(self.levels.get(level, UNSEEN), solved)

    def _moved(self, rate: float, solved: float) -> float:
        return self.decay * rate + (1 - self.decay) * solved


class Ladder:
    """Levels in order, of which the first `unlocked` are open.

    Args:
        levels: from easy to hard.
        unlock_at: held-out success on the last open level that opens the next; None opens all at once.
    """

    def __init__(self, levels: Sequence[str], *, unlock_at: float | None):
        self.levels = tuple(levels)
        self.unlock_at = unlock_at
        self.unlocked = len(self.levels) if unlock_at is None else 1

    @property
    def open(self) -> tuple[str, ...]:
        return self.levels[: self.unlocked]

    def observe(self, scores: Mapping[str, float]) -> list[str]:
        """Opens what the scores (level -> held-out success) have earned: the next level, and the one behind it where that is
        passed too. Returns the levels that opened."""
        before = self.unlocked
        while self.unlocked < len(self.levels) and self.unlock_at is not None:
            if scores.get(self.levels[self.unlocked - 1], -1.0) < self.unlock_at:
                break
            self.unlocked += 1
        return list(self.levels[before : self.unlocked])


class Horizon:
    """How many turns an episode may take: from `start` to `end`, with the steps or by the score.

    Source: ScalingInter-RL of AgentGym-RL, arXiv 2509.08755 (stages over steps; growing by score is ours).
    """

    def __init__(self, config: HorizonConfig):
        self.config = config
        self.grown = 0
        """Turns added by scores."""

    def turns(self, done: int) -> int:
        """The limit at GRPO step `done`, counted from 1. By steps: `end` is reached after `steps` of them."""
        first = self.config.start
        last = self.config.end
        steps = self.config.steps
        if steps is None:
            return min(last, first + self.grown)
        return first + (last - first) * min(max(done - 1, 0), steps) // steps

    def observe(self, score: float) -> bool:
        """Takes in a held-out success; says whether the limit grew by a turn."""
        threshold = self.config.score
        if (
            threshold is None
            or score < threshold
            or self.config.start + self.grown >= self.config.end
        ):
            return False
        self.grown += 1
        return True
