"""State of the curriculum: pass rates, unlocked levels and the horizon of episodes.

There is no randomness, so the same episodes always lead to the same decisions. See
`task_sampler.py` for drawing tasks.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from envgym_trainer.config.curriculum import HorizonConfig

UNSEEN = 0.5
"""Pass rate of a level without episodes. A rate of 1/2 has the highest learnability."""


def learnability(rate: float, *, floor: float) -> float:
    """Return the learnability of a task with this pass rate: max(floor, 4 p (1 - p)).

    p (1 - p) is the variance of a reward of 0 or 1. It is 0 if all group members agree.

    Args:
        rate: Fraction of episodes that solve the task, in [0, 1].
        floor: Minimum weight, in (0, 1]. Tasks that are always or never solved are still drawn
            sometimes, so that a change is noticed.

    Returns:
        Weight in [floor, 1].

    References:
        Sampling for learnability, Rutherford et al. 2024, arXiv 2408.15099. For language models:
            Foster et al. 2025, arXiv 2502.12272.
    """
    return max(floor, 4 * rate * (1 - rate))


class PassRates:
    """Exponential moving averages of solved episodes: rate <- decay * rate + (1 - decay) * group.

    A template starts at the rate of its level, a level at 1/2.

    Args:
        decay: Decay per group, in [0, 1).
    """

    def __init__(self, *, decay: float):
        self.decay = decay
        self.templates: dict[str, float] = {}
        self.levels: dict[str, float] = {}

    def of(self, template: str, level: str) -> float:
        """Return the pass rate of a template, or of its level if the template has no episodes."""
        return self.templates.get(template, self.levels.get(level, UNSEEN))

    def observe(self, template: str, level: str, solved: float) -> None:
        """Update the rates with a group in which the fraction `solved` solved the task."""
        before = self.of(template, level)
        self.templates[template] = self._moved(before, solved)
        self.levels[level] = self._moved(self.levels.get(level, UNSEEN), solved)

    def _moved(self, rate: float, solved: float) -> float:
        return self.decay * rate + (1 - self.decay) * solved


class LevelSchedule:
    """Ordered levels. The first `unlocked` of them are open.

    Args:
        levels: Levels from easy to hard.
        unlock_at: Held-out success on the last open level that unlocks the next one. `None` unlocks
            all at once.
    """

    def __init__(self, levels: Sequence[str], *, unlock_at: float | None):
        self.levels = tuple(levels)
        self.unlock_at = unlock_at
        self.unlocked = len(self.levels) if unlock_at is None else 1

    @property
    def open(self) -> tuple[str, ...]:
        return self.levels[: self.unlocked]

    def observe(self, scores: Mapping[str, float]) -> list[str]:
        """Unlock levels by held-out success (level -> success) and return the new ones.

        Several levels are unlocked at once if their scores are high enough.
        """
        before = self.unlocked
        while self.unlocked < len(self.levels) and self.unlock_at is not None:
            if scores.get(self.levels[self.unlocked - 1], -1.0) < self.unlock_at:
                break
            self.unlocked += 1
        return list(self.levels[before : self.unlocked])


class Horizon:
    """Maximum turns of an episode, growing from `start` to `end` by steps or by score.

    References:
        ScalingInter-RL of AgentGym-RL, arXiv 2509.08755 (stages by step; growing by score is ours).
    """

    def __init__(self, config: HorizonConfig):
        self.config = config
        self.grown = 0
        """Turns added by scores."""

    def turns(self, done: int) -> int:
        """Return the maximum turns at GRPO step `done`, counted from 1.

        By steps, `end` is reached after `steps` of them.
        """
        first = self.config.start_turns
        last = self.config.end_turns
        steps = self.config.over_steps
        if steps is None:
            return min(last, first + self.grown)
        return first + (last - first) * min(max(done - 1, 0), steps) // steps

    def observe(self, score: float) -> bool:
        """Update with a held-out success. Return whether the limit grew by one turn."""
        threshold = self.config.grow_at
        if (
            threshold is None
            or score < threshold
            or self.config.start_turns + self.grown >= self.config.end_turns
        ):
            return False
        self.grown += 1
        return True
