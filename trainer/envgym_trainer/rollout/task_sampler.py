"""Choose the tasks of each step: seeded draws from the train split, weighted by the curriculum.

The draws of a step are a function of (seed, step) and of the curriculum's state, which checkpoints
store. A resumed run therefore draws the same tasks as an uninterrupted one. See `curriculum.py` for
the decisions and `groups.py` for playing.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError
from envgym.evaluation.stats import percent_text
from envgym.playing import Request
from envgym.spec.environment import EnvSpec
from envgym.tasks import stable_seed
from envgym.text import natural_key
from envgym.world import TaskSet
from envgym_trainer.config import TrainConfig
from envgym_trainer.rollout.curriculum import Horizon, LevelSchedule, PassRates, learnability
from envgym_trainer.rollout.plans import TrainingPlan
from envgym_trainer.rollout.plans.ordinary import draw_tasks


class TaskSampler:
    """Sampler of training tasks, with the state of the curriculum.

    Args:
        spec: Environment specification, for its limits and for error messages.
        config: The `train:` block.
        tasks: Task set of the world.
        plan: Chooses the tasks of GRPO steps.

    Raises:
        SpecError: If the curriculum could never have an effect.
    """

    def __init__(self, spec: EnvSpec, config: TrainConfig, tasks: TaskSet, plan: TrainingPlan):
        self.spec = spec
        self.config = config
        self.tasks = tasks
        self.options = config.tasks
        self.plan = plan
        found = tasks.templates_of("train", levels=config.tasks.levels)
        self.templates = {template.name: template.level for template in found}
        """Level of each template that may be drawn, by name."""
        self.rates = PassRates(decay=self.options.pass_rate_decay)
        self.ladder = LevelSchedule(
            _ordered_levels(spec, config, set(self.templates.values())),
            unlock_at=self.options.unlock_at,
        )
        self.horizon = Horizon(self.options.horizon) if self.options.horizon else None
        self._check()

    def draws(self, step: int, *, done: int = 0) -> TaskDraw:
        """Return the draws of a step.

        Args:
            step: Step of the whole run.
            done: Number of GRPO steps including this one. 0 during the warm start, which draws from
                all levels with the full number of turns.
        """
        return TaskDraw(self, step, done)

    def shares(self) -> dict[str, float]:
        """Return each template's fraction of the draws. They add up to 1; a locked level has 0."""
        weights = {
            template: self._weight(template, level) for template, level in self.templates.items()
        }
        total = sum(weights.values())
        return {template: weight / total for template, weight in weights.items()}

    def metrics(self, done: int) -> dict[str, float]:
        """Return the curriculum's metrics for GRPO step `done`. Empty without a curriculum."""
        numbers: dict[str, float] = {}
        if self.options.adaptive or self.options.unlock_at is not None:
            numbers |= {
                f"curriculum/draw_probability/{template}": share
                for template, share in self.shares().items()
            }
            numbers |= {
                f"curriculum/pass_rate/{template}": rate
                for template, rate in self.rates.templates.items()
            }
            numbers |= {
                f"curriculum/level_pass_rate/{level}": rate
                for level, rate in self.rates.levels.items()
                if level
            }
        if self.options.unlock_at is not None:
            numbers["curriculum/unlocked"] = float(self.ladder.unlocked)
        if self.horizon:
            numbers["curriculum/max_turns"] = float(self.horizon.turns(done))
        return numbers

    def observe(self, groups: Sequence[Sequence[Episode]]) -> None:
        """Update success rates from a step's groups, in order.

        Void members and members without a known success are ignored.
        """
        if not self.options.has_curriculum:
            return
        for group in groups:
            known = [bool(episode.success) for episode in group if episode.success is not None]
            if known:
                self.rates.observe(group[0].template, group[0].level, sum(known) / len(known))

    def validated(self, episodes: Sequence[Episode]) -> list[str]:
        """Update the curriculum from a validation. Return one line of text for each decision."""
        self.plan.validated(episodes)
        known = [episode for episode in episodes if episode.success is not None]
        levels = {episode.level for episode in known}
        scores = {
            level: _mean([bool(e.success) for e in known if e.level == level]) for level in levels
        }
        tried = self.ladder.open
        about_open = [bool(e.success) for e in known if e.level in tried or not tried]
        lines = [
            f"curriculum: level {level} is open, after {percent_text(scores[before])}% of "
            f"validation tasks of {before}"
            for level, before in self._opened(scores)
        ]
        if self.horizon and about_open and self.horizon.observe(_mean(about_open)):
            turns = self.horizon.turns(0)
            lines.append(
                f"curriculum: episodes may take {turns} turns, "
                f"after {percent_text(_mean(about_open))}% of validation tasks"
            )
        return lines

    def state_dict(self) -> dict[str, Any]:
        """Return the state that later draws depend on, as JSON types."""
        return {
            "rates": {"templates": dict(self.rates.templates), "levels": dict(self.rates.levels)},
            "levels": list(self.ladder.levels),
            "unlocked": self.ladder.unlocked,
            "grown": self.horizon.grown if self.horizon else 0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state. An empty state (a checkpoint without a curriculum) is ignored.

        Raises:
            UsageError: If the state has other levels than this run.
        """
        if not state:
            return
        self.rates.templates, self.rates.levels = (
            dict(state["rates"]["templates"]),
            dict(state["rates"]["levels"]),
        )
        if self.horizon:
            self.horizon.grown = state["grown"]
        if self.options.unlock_at is None:
            return
        if list(self.ladder.levels) != state["levels"]:
            was, now = (
                ", ".join(levels) or "none" for levels in (state["levels"], self.ladder.levels)
            )
            raise UsageError(
                f"the checkpoint's curriculum has levels {was}; this run has {now}. Resume with "
                "the same train.tasks.levels."
            )
        self.ladder.unlocked = state["unlocked"]

    def _weight(self, template: str, level: str) -> float:
        if self.options.unlock_at is not None and level not in self.ladder.open:
            return 0.0
        return (
            learnability(self.rates.of(template, level), floor=self.options.min_weight)
            if self.options.adaptive
            else 1.0
        )

    def _opened(self, scores: dict[str, float]) -> list[tuple[str, str]]:
        """Return the levels that a validation opens, each with the level before it."""
        opened = self.ladder.observe(scores)
        levels = self.ladder.levels
        return [(level, levels[levels.index(level) - 1]) for level in opened]

    def _check(self) -> None:
        options = self.options
        every = self.config.evaluation.validate_every_steps
        if options.adaptive and len(self.templates) < 2:
            self._refuse("adaptive", "needs at least two templates. Remove it")
        if options.unlock_at is not None:
            self._check_ladder()
        by_score = [
            name
            for name, score in (
                ("unlock_at", options.unlock_at),
                ("horizon.grow_at", self._horizon_score()),
            )
            if score
        ]
        if by_score and not every:
            self._refuse(
                by_score[0],
                "needs validations, and train.evaluation.validate_every_steps is 0. Set "
                "train.evaluation.validate_every_steps to 1 or more",
            )
        limit = self.spec.episode.max_turns
        if self.horizon and not self.spec.is_foreign and self.horizon.config.end_turns > limit:
            end = self.horizon.config.end_turns
            self._refuse(
                "horizon.end_turns",
                f"is {end}, but episode.max_turns is {limit}. Set both to the same number",
            )

    def _check_ladder(self) -> None:
        if unnamed := [template for template, level in self.templates.items() if not level]:
            self._refuse(
                "unlock_at",
                f"template '{unnamed[0]}' has no level. Mark it with @template(level=...)",
            )
        if len(self.ladder.levels) < 2:
            self._refuse(
                "unlock_at",
                f"needs two levels, found {', '.join(self.ladder.levels) or 'none'}. Remove it",
            )
        count = self.config.evaluation.validation_tasks
        held_out = self.tasks.ids("val", levels=self.config.tasks.levels, count=count)
        seen = {self.tasks.templates[task.split("/")[1]].level for task in held_out}
        for level in self.ladder.levels[:-1]:
            if level not in seen:
                self._refuse(
                    "unlock_at",
                    f"none of the {count} validation tasks has level {level}. Raise "
                    f"train.evaluation.validation_tasks, or remove {level} from train.tasks.levels",
                )

    def _horizon_score(self) -> float | None:
        return self.horizon.config.grow_at if self.horizon else None

    def _refuse(self, where: str, why: str) -> None:
        raise SpecError(f"{self.spec.path}: train.tasks.{where}: {why}")


class TaskDraw:
    """Training tasks of one step. Their order depends only on the step and on the states.

    Args:
        sampler: Provides settings, plan and curriculum.
        step: Step of the whole run.
        done: Number of GRPO steps including this one. 0 during the warm start.
    """

    def __init__(self, sampler: TaskSampler, step: int, done: int):
        self.sampler = sampler
        self.step = step
        self.groups = 0
        self.is_warm_start = done == 0
        self.trained_steps = max(0, done - 1)
        self._rng = random.Random(stable_seed(sampler.config.seed, step, "tasks"))
        options = sampler.options
        self._levels: Sequence[str] = options.levels
        self._weights: dict[str, float] | None = None
        self._max_turns: int | None = None
        if self.is_warm_start:
            self._levels = sampler.plan.warm_start_levels
            return
        if options.unlock_at is not None:
            self._levels = sampler.ladder.open
        if options.adaptive:
            self._weights = sampler.shares()
        if sampler.horizon:
            self._max_turns = sampler.horizon.turns(done)

    def requests(self, tasks: int, episodes: int) -> list[Request]:
        """Return requests for the next `tasks` tasks, with `episodes` episodes each.

        Episodes of a task start from one state and use different sampling seeds.
        """
        seed = self.sampler.config.seed
        first = self.groups
        self.groups += tasks
        return [
            Request(
                task,
                stable_seed(seed, self.step, first + n, g),
                self._max_turns,
                self.trained_steps,
            )
            for n, task in enumerate(self._ids(tasks))
            for g in range(episodes)
        ]

    def _ids(self, count: int) -> list[str]:
        if self.is_warm_start:
            return draw_tasks(self.sampler.tasks, self._rng, count, levels=self._levels)
        return self.sampler.plan.choose_tasks(
            self._rng, count, levels=self._levels, weights=self._weights
        )


def _ordered_levels(spec: EnvSpec, config: TrainConfig, found: set[str]) -> list[str]:
    """Return the levels with training templates, from easy to hard: in listed order, or by name."""
    listed = config.tasks.levels or spec.tasks.levels or sorted(found, key=natural_key)
    return [level for level in listed if level in found and level]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
