"""Which tasks a step plays: seeded draws from the train split, bent by the curriculum where one is asked for.

A step's draws are a function of (seed, step) and of the state of the curriculum, which `state_dict` holds; so a resumed run
draws what the run that was not stopped would have drawn; without a curriculum nothing in it ever changes. Left out: the decisions
themselves (`curriculum.py`), playing (`groups.py`).
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any, Protocol

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError
from envgym.play import Request
from envgym.spec.environment import EnvSpec
from envgym.tasks import stable_seed
from envgym_trainer.config import TrainConfig
from envgym_trainer.rollout.curriculum import Horizon, Ladder, PassRates, learnability


class Pool(Protocol):
    """The tasks of a run that has no others."""

    def check(self) -> None:
        """Raises SpecError where it could not serve the run."""
        ...

    def draw(self, rng: random.Random, count: int, *, levels: Sequence[str] = ()) -> list[str]: ...

    def validated(self, episodes: Sequence[Episode]) -> None:
        """Takes in a validation. Raises UsageError for one that says nothing."""
        ...


class TaskSampler:
    """Draws the tasks of training and keeps the state of the curriculum.

    Args:
        spec: the environment, for its limits and for messages.
        config: the `train:` block.
        tasks: `World.tasks`; of a foreign environment, which has one kind of task, too.
        pool: where GRPO's tasks come from instead of fresh ones.
    Raises: SpecError for a curriculum that could never act, with the reason.
    """

    def __init__(self, spec: EnvSpec, config: TrainConfig, tasks: Any, pool: Pool | None = None):
        self.spec = spec
        self.config = config
        self.tasks = tasks
        self.options = config.curriculum
        self.pool = pool
        fitting = getattr(tasks, "fitting", None)
        found = fitting("train", levels=config.levels) if fitting else []
        self.templates = {template.name: template.level for template in found}
        """Template -> level, of all that may ever be drawn."""
        self.rates = PassRates(decay=self.options.decay)
        self.ladder = Ladder(
            _ordered_levels(spec, config, set(self.templates.values())),
            unlock_at=self.options.unlock_at,
        )
        self.horizon = Horizon(self.options.horizon) if self.options.horizon else None
        self._check()

    def draws(self, step: int, *, done: int = 0) -> Draws:
        """The draws of a step.

        Args:
            step: on the axis of the whole run.
            done: GRPO steps so far, this one included; 0 in the warm start, which is shown every level at full length.
        """
        return Draws(self, step, done)

    def shares(self) -> dict[str, float]:
        """Template -> its share of the draws; 0 where its level is still locked. They add up to 1."""
        weights = {
            template: self._weight(template, level) for template, level in self.templates.items()
        }
        total = sum(weights.values())
        return {template: weight / total for template, weight in weights.items()}

    def metrics(self, done: int) -> dict[str, float]:
        """What the draws of GRPO step `done` go by; nothing without a curriculum."""
        numbers: dict[str, float] = {}
        if self.options.adaptive or self.options.unlock_at is not None:
            numbers |= {
                f"curriculum/weight/{template}": share for template, share in self.shares().items()
            }
            numbers |= {
                f"curriculum/rate/{template}": rate
                for template, rate in self.rates.templates.items()
            }
            numbers |= {
                f"curriculum/level_rate/{level}": rate
                for level, rate in self.rates.levels.items()
                if level
            }
        if self.options.unlock_at is not None:
            numbers["curriculum/unlocked"] = float(self.ladder.unlocked)
        if self.horizon:
            numbers["curriculum/max_turns"] = float(self.horizon.turns(done))
        return numbers

    def observe(self, groups: Sequence[Sequence[Episode]]) -> None:
        """Takes in a step's groups, in order; void members and those whose success is unknown count for nothing."""
        if not self.options.is_on:
            return
        for group in groups:
            known = [bool(episode.success) for episode in group if episode.success is not None]
            if known:
                self.rates.observe(group[0].template, group[0].level, sum(known) / len(known))

    def validated(self, episodes: Sequence[Episode]) -> list[str]:
        """Takes in a validation; returns each decision that follows from it, as a line for people."""
        if self.pool is not None:
            self.pool.validated(episodes)
        known = [episode for episode in episodes if episode.success is not None]
        levels = {episode.level for episode in known}
        scores = {
            level: _mean([bool(e.success) for e in known if e.level == level]) for level in levels
        }
        tried = self.ladder.open
        about_open = [bool(e.success) for e in known if e.level in tried or not tried]
        lines = [
            f"curriculum: level {level} is open, after {scores[before]:.0%} of validation tasks of {before}"
            for level, before in self._opened(scores)
        ]
        if self.horizon and about_open and self.horizon.observe(_mean(about_open)):
            turns = self.horizon.turns(0)
            lines.append(
                f"curriculum: episodes may take {turns} turns, after {_mean(about_open):.0%} of validation tasks"
            )
        return lines

    def state_dict(self) -> dict[str, Any]:
        """Everything that later draws depend on, JSON-able."""
        return {
            "rates": {"templates": dict(self.rates.templates), "levels": dict(self.rates.levels)},
            "levels": list(self.ladder.levels),
            "unlocked": self.ladder.unlocked,
            "grown": self.horizon.grown if self.horizon else 0,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Goes on where `state_dict` was taken; an empty one (a checkpoint of before there was any) changes nothing.

        Raises: UsageError where the ladder has other levels now.
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
                f"the checkpoint's curriculum has levels {was}; this run has {now}. Resume with the same train.levels."
            )
        self.ladder.unlocked = state["unlocked"]

    def _weight(self, template: str, level: str) -> float:
        if self.options.unlock_at is not None and level not in self.ladder.open:
            return 0.0
        return (
            learnability(self.rates.of(template, level), floor=self.options.floor)
            if self.options.adaptive
            else 1.0
        )

    def _opened(self, scores: dict[str, float]) -> list[tuple[str, str]]:
        """(level, the one before it) for each that a validation opens."""
        opened = self.ladder.observe(scores)
        levels = self.ladder.levels
        return [(level, levels[levels.index(level) - 1]) for level in opened]

    def _check(self) -> None:
        if self.pool is not None:
            self.pool.check()
        options = self.options
        every = self.config.eval.every
        if options.adaptive and len(self.templates) < 2:
            self._refuse("adaptive", "there are not two templates to choose between; leave it out")
        if options.unlock_at is not None:
            self._check_ladder()
        by_score = [
            name
            for name, score in (
                ("unlock_at", options.unlock_at),
                ("horizon.score", self._horizon_score()),
            )
            if score
        ]
        if by_score and not every:
            self._refuse(
                by_score[0],
                "is asked at each validation and there is none; set train.eval.every to 1 or more",
            )
        limit = self.spec.episode.max_turns
        if self.horizon and not self.spec.gym and self.horizon.config.end > limit:
            end = self.horizon.config.end
            self._refuse(
                "horizon.end",
                f"is {end}, but episode.max_turns cuts at {limit}; set one to the other",
            )

    def _check_ladder(self) -> None:
        if unnamed := [template for template, level in self.templates.items() if not level]:
            self._refuse(
                "unlock_at",
                f"template '{unnamed[0]}' has no level; mark it with @template(level=...)",
            )
        if len(self.ladder.levels) < 2:
            self._refuse(
                "unlock_at",
                f"needs two levels, found {', '.join(self.ladder.levels) or 'none'}; leave it out",
            )
        count = self.config.eval.val_tasks
        held_out = self.tasks.ids("val", levels=self.config.levels, count=count)
        seen = {self.tasks.templates[task.split("/")[1]].level for task in held_out}
        for level in self.ladder.levels[:-1]:
            if level not in seen:
                way_out = f"raise train.eval.val_tasks, or leave {level} out of train.levels"
                self._refuse(
                    "unlock_at",
                    f"none of the {count} validation tasks is of level {level}; {way_out}",
                )

    def _horizon_score(self) -> float | None:
        return self.horizon.config.score if self.horizon else None

    def _refuse(self, where: str, why: str) -> None:
        raise SpecError(f"{self.spec.path}: train.curriculum.{where}: {why}")


class Draws:
    """The fresh training tasks of one step, as many as are asked for, in an order that nothing outside of the step changes."""

    def __init__(self, sampler: TaskSampler, step: int, done: int):
        self.sampler = sampler
        self.step = step
        self.groups = 0
        self._rng = random.Random(stable_seed(sampler.config.seed, step, "tasks"))
        trained = done > 0
        options = sampler.options
        self._levels = (
            sampler.ladder.open
            if trained and options.unlock_at is not None
            else sampler.config.levels
        )
        self._pool = sampler.pool if trained else None
        if not trained and (known := sampler.config.self_training) and known.labelled_levels:
            self._levels = known.labelled_levels
        self._weights = sampler.shares() if trained and options.adaptive else None
        self.trained_steps = max(0, done - 1)
        self._max_turns = sampler.horizon.turns(done) if trained and sampler.horizon else None

    def requests(self, tasks: int, episodes: int) -> list[Request]:
        """`tasks` further tasks, each to be played `episodes` times from one state with sampling of its own."""
        config = self.sampler.config
        ids = self._ids(tasks)
        first = self.groups
        self.groups = self.groups + tasks
        return [
            Request(
                task,
                stable_seed(config.seed, self.step, first + n, g),
                self._max_turns,
                self.trained_steps,
            )
            for n, task in enumerate(ids)
            for g in range(episodes)
        ]

    def _ids(self, count: int) -> list[str]:
        if self._pool is not None:
            return self._pool.draw(self._rng, count, levels=self._levels)
        more = {} if self._weights is None else {"weights": self._weights}
        return [
            self.sampler.tasks.draw_id("train", self._rng, levels=self._levels, **more)
            for _ in range(count)
        ]


def _ordered_levels(spec: EnvSpec, config: TrainConfig, found: set[str]) -> list[str]:
    """The levels that have training templates, from easy to hard: as they are listed, or by name."""
    listed = config.levels or spec.tasks.levels or sorted(found)
    return [level for level in listed if level in found and level]


def _mean(values: Sequence[bool]) -> float:
    return sum(values) / len(values)
