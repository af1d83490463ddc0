"""Self-training on a fixed pool of tasks, most of which have no true label.

A small share of the tasks keeps its true label; the others are rewarded by majority vote. This
module chooses the pool, masks reward parts, collects votes and selects the groups with the highest
agreement. If the environment can check an unlabelled task, the result is used for the metrics
`plan/...` only.
See `envgym.rewards.scoring.majority_vote` for the vote. Source: SRT, arXiv 2505.21444. The mixture with true labels
and the fixed share of labelled groups in each step are not from the paper.
"""

from __future__ import annotations

import math
import random
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any

from envgym.episode import Episode
from envgym.errors import SpecError, UsageError, did_you_mean
from envgym.rewards.rubric import Rubric
from envgym.rewards.scoring.answer_normalization import Reading, find_reading
from envgym.rewards.scoring.majority_vote import (
    Vote,
    VotedGroup,
    choose_labelled,
    keep_most_agreed,
    text_vote,
    vote_metrics,
)
from envgym.spec.environment import EnvSpec
from envgym.tasks import stable_seed
from envgym.world import World
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.self_training import SelfTrainingConfig
from envgym_trainer.rollout.groups import Group, RolloutBatch, valid
from envgym_trainer.rollout.plans.teacher import Teacher
from envgym_trainer.run.metrics import Metrics

VOTE = "majority_vote"
COUNTED = ("votes", "threshold", "divide_by")
"""Options of the reward part that change the result of a vote."""
PlayTasks = Callable[[Sequence[str]], list[Group]]
"""Callable that plays one group of each given task."""


class SelfTraining:
    """Task pool, labels and votes of one run. The state is stored in checkpoints.

    Args:
        spec: Environment specification, used in error messages.
        config: Training settings with a `self_training` block.
        options: The `self_training` block.
        world: Provides the tasks and the rubric.
        model: The model that is trained. A teacher is a copy of its adapter.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        options: SelfTrainingConfig,
        world: World,
        model: Any,
    ):
        self.spec = spec
        self.config = config
        self.options = options
        self.tasks = world.tasks
        self.rubric: Rubric = world.rubric or Rubric({}, "")
        moving = options.teacher_decay if options.teacher == "average" else 1.0
        self.teacher = None if options.teacher == "policy" else Teacher(model, decay=moving)
        self.pool: tuple[str, ...] = ()
        """Task ids. Empty before `begin` is called."""
        self.labelled: frozenset[str] = frozenset()
        self._heard: dict[str, list[str]] = {}
        """Task id -> answers of the teacher, which are the votes for that task."""

    @property
    def part(self) -> str:
        """Return the name of the reward part that votes."""
        return next(name for name, rule in self.rubric.rules.items() if rule.source == VOTE)

    def check(self) -> None:
        """Check the `self_training` block against the environment.

        Raises:
            SpecError: If the reward does not have exactly one voting part, or if a level or a
                reward part does not exist.
        """
        votes = [name for name, rule in self.rubric.rules.items() if rule.source == VOTE]
        if len(votes) != 1:
            found = f"has {' and '.join(votes)}" if votes else "has none"
            self._refuse(
                f"needs one part of the reward that votes, and it {found}. "
                f"Add `agreed: {{from: {VOTE}}}` to the reward."
            )
        if unknown := [
            name for name in self.options.label_free_parts if name not in self.rubric.parts
        ]:
            self._refuse(
                f"label_free: the reward has no part '{unknown[0]}'"
                f"{did_you_mean(unknown[0], self.rubric.parts)}"
            )
        levels = {
            template.level
            for template in self.tasks.templates_of("train", levels=self.config.tasks.levels)
        }
        if unknown := [level for level in self.options.labelled_levels if level not in levels]:
            self._refuse(
                f"labelled_levels: no training task of level '{unknown[0]}'"
                f"{did_you_mean(unknown[0], levels)}"
            )

    def validated(self, episodes: Sequence[Episode]) -> None:
        """Check that a validation can detect votes that go wrong.

        Raises:
            UsageError: If no validation episode has a true label.
        """
        played = [episode for episode in episodes if not episode.is_void]
        if played and all(
            episode.reward_parts.get(self.rubric.success) is None for episode in played
        ):
            raise UsageError(
                f"{self.spec.path}: train.plan: no validation task has a true label, so "
                "wrong votes would go unnoticed. Add tasks with a true label to the split 'val'."
            )

    def begin(self, play: PlayTasks) -> None:
        """Choose the task pool and the labelled tasks, once per run."""
        if self.pool:
            return
        options = self.options
        seed = self.config.seed
        tasks = self._drawn()
        if options.easiest_fraction < 1:
            groups = play(tasks)
            agreed = {
                task: self._vote(group).agreement for task, group in zip(tasks, groups, strict=True)
            }
            if self.teacher and not self.teacher.moves:
                self.hear(tasks, groups)
            tasks = [
                task
                for level in self._by_level(tasks)
                for task in _most(level, agreed, options.easiest_fraction)
            ]
        given = frozenset(task for task in tasks if self._level(task) in options.labelled_levels)
        others = (task for task in tasks if task not in given)
        self.labelled = given | choose_labelled(
            others, share=options.true_label_fraction, budget=options.max_true_labels, seed=seed
        )
        self.pool = tuple(tasks)

    def draw(self, rng: random.Random, count: int, *, levels: Sequence[str] = ()) -> list[str]:
        """Draw the tasks of one step. A task repeats only after all others were drawn.

        Args:
            rng: Random number generator of the step.
            count: Number of tasks.
            levels: Levels that may be drawn. Empty allows all levels.
        """
        tasks = [task for task in self.pool if not levels or self._level(task) in levels] or list(
            self.pool
        )
        true = [task for task in tasks if task in self.labelled]
        others = [task for task in tasks if task not in self.labelled]
        if self.options.labelled_group_fraction is None or not true or not others:
            return _some(rng, tasks, count)
        # Rounding is random, so that the share is exact on average.
        wanted = math.floor(count * self.options.labelled_group_fraction + rng.random())
        drawn = _some(rng, true, wanted) + _some(rng, others, count - wanted)
        rng.shuffle(drawn)
        return drawn

    def groups_to_play(self, wanted: int) -> int:
        return math.ceil(wanted / self.options.keep_fraction)

    def hidden(self, group: Group) -> frozenset[str]:
        """Return the reward parts that are masked for this group."""
        if self._is_labelled(group):
            return frozenset({self.part})
        return frozenset(self.rubric.parts) - {self.part, *self.options.label_free_parts}

    def voters(self, task: str) -> list[str] | None:
        """Return the teacher's answers for a task, or None if the group's answers are the votes."""
        return self._heard.get(task)

    def unheard(self, groups: Sequence[Group]) -> list[str]:
        """Return the unlabelled tasks without teacher votes. Empty if there is no teacher."""
        if self.teacher is None:
            return []
        tasks = dict.fromkeys(group[0].task_id for group in groups if not self._is_labelled(group))
        return [task for task in tasks if task and task not in self._heard]

    def hear(self, tasks: Sequence[str], groups: Sequence[Group]) -> None:
        """Record the teacher's answers as votes."""
        for task, group in zip(tasks, groups, strict=True):
            # If every episode is void, one empty answer stands for "no label".
            self._heard[task] = [episode.last_assistant_message for episode in valid(group)] or [""]

    def begin_step(self) -> None:
        """Update a moving teacher from the policy and discard its earlier votes."""
        if self.teacher:
            self.teacher.follow()
            if self.teacher.moves:
                self._heard.clear()

    def select_groups(self, played: RolloutBatch, count: int) -> RolloutBatch:
        """Keep the `count` groups with the highest agreement. Labelled groups are kept first."""
        groups = played.groups
        if len(groups) > count:
            labelled = {n for n, group in enumerate(groups) if self._is_labelled(group)}
            kept = keep_most_agreed(
                [self._vote(group) for group in groups], count / len(groups), labelled=labelled
            )
            played = replace(
                played,
                groups=[groups[n] for n in kept],
                disagreed=[group for n, group in enumerate(groups) if n not in kept],
            )
        return replace(played, votes=self.metrics(played))

    def metrics(self, played: RolloutBatch) -> Metrics:
        """Return `plan/...`: counts of labelled and low-agreement groups, and vote metrics."""
        groups = [group for group in (*played.groups, *played.disagreed) if valid(group)]
        labelled = [group for group in groups if self._is_labelled(group)]
        numbers = {"true_labels": float(len(labelled)), "disagreed": float(len(played.disagreed))}
        voted = [self._voted(group) for group in groups if group not in labelled]
        numbers |= vote_metrics(voted) if voted else {}
        return {f"plan/{name}": value for name, value in numbers.items()}

    def state_dict(self) -> dict[str, Any]:
        teacher = self.teacher.state_dict() if self.teacher else {}
        return {
            "pool": list(self.pool),
            "labelled": sorted(self.labelled),
            "heard": dict(self._heard),
            "teacher": teacher,
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.pool, self.labelled, self._heard = (
            tuple(state["pool"]),
            frozenset(state["labelled"]),
            dict(state["heard"]),
        )
        if self.teacher:
            self.teacher.load_state_dict(state["teacher"])

    def _refuse(self, why: str) -> None:
        raise SpecError(f"{self.spec.path}: train.plan: {why}")

    def _drawn(self) -> list[str]:
        rng = random.Random(stable_seed(self.config.seed, "pool"))
        levels = self.config.tasks.levels
        return list(
            dict.fromkeys(
                self.tasks.draw_id("train", rng, levels=levels)
                for _ in range(self.options.pool_size)
            )
        )

    def _level(self, task: str) -> str:
        return self.tasks.templates[task.split("/")[1]].level

    def _by_level(self, tasks: Sequence[str]) -> list[list[str]]:
        return [
            [task for task in tasks if self._level(task) == level]
            for level in dict.fromkeys(map(self._level, tasks))
        ]

    def _is_labelled(self, group: Group) -> bool:
        """Return whether the true label is used. A task without a checkable label is voted on."""
        told = (episode.reward_parts.get(self.rubric.success) for episode in group)
        return group[0].task_id in self.labelled and any(value is not None for value in told)

    def _vote(self, group: Group) -> Vote:
        options = self.rubric.parts[self.part].options
        texts = (
            self.voters(group[0].task_id)
            or [episode.last_assistant_message for episode in valid(group)]
            or [""]
        )
        return text_vote(
            texts,
            reading=self._reading(group),
            **{name: options[name] for name in COUNTED if name in options},
        )

    def _voted(self, group: Group) -> VotedGroup:
        members = valid(group)
        truth = self.tasks.task(group[0].task_id).extra.get("answer")
        return VotedGroup(
            [episode.last_assistant_message for episode in members],
            self._vote(group),
            [e.reward_parts.get(self.part) for e in members],
            truth if isinstance(truth, str) else None,
            self._reading(group),
        )

    def _reading(self, group: Group) -> Reading:
        return find_reading(self.tasks.task(group[0].task_id).extra.get("reading", "value"))


def _most(tasks: Sequence[str], agreed: Mapping[str, float], share: float) -> list[str]:
    """Return the given share of the tasks, at least one, by agreement. Ties keep their order."""
    return sorted(tasks, key=lambda task: -agreed[task])[: max(1, round(share * len(tasks)))]


def _some(rng: random.Random, tasks: Sequence[str], count: int) -> list[str]:
    """Return `count` tasks in random order. A task repeats only after all others were drawn."""
    found: list[str] = []
    while tasks and len(found) < count:
        found += rng.sample(tasks, min(len(tasks), count - len(found)))
    return found
