"""Self-training on a fixed pool of tasks, most of which have no true label.

A small share of the tasks keeps its true label; the others are rewarded by majority vote. If the
environment can check an unlabelled task, the result is used for the metrics `plan/...` only.
See `envgym.rewards.scoring.majority_vote` for the vote. Source: SRT, arXiv 2505.21444. The mixture
with true labels and the fixed share of labelled groups in each step are not from the paper.
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any, NoReturn

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
from envgym.tasks import stable_seed
from envgym_trainer.config.self_training import SelfTrainingConfig
from envgym_trainer.rollout.plans import PlanContext, PlayTasks
from envgym_trainer.rollout.rollout_batch import Group, RolloutBatch, valid
from envgym_trainer.rollout.teacher import Teacher
from envgym_trainer.run.metrics import Metrics

VOTE = "majority_vote"
COUNTED = ("votes", "threshold", "divide_by")
"""Options of the reward part that change the result of a vote."""


def open_plan(context: PlanContext) -> SelfTraining:
    """Return the plan.

    Raises:
        SpecError: If the reward does not have exactly one voting part, or if a level or a
            reward part of the options does not exist.
    """
    return SelfTraining(context)


class SelfTraining:
    """Task pool, labels and votes of one run. The state is stored in checkpoints.

    Args:
        context: Environment, settings and model. A teacher is a copy of the model's adapter.

    Raises:
        SpecError: If the plan does not fit the environment.
    """

    def __init__(self, context: PlanContext):
        options = context.config.plan
        assert isinstance(options, SelfTrainingConfig)
        self.spec = context.spec
        self.config = context.config
        self.options = options
        self.tasks = context.world.tasks
        self.rubric: Rubric = context.world.rubric or Rubric({}, "")
        self.model = context.model
        self.teacher: Teacher | None = None
        """Created at the first step, from the policy of that step."""
        self.pool: tuple[str, ...] = ()
        """Task ids. Empty before the first step."""
        self.labelled: frozenset[str] = frozenset()
        self.warm_start_levels: Sequence[str] = (
            options.labelled_levels or context.config.tasks.levels
        )
        self._votes: dict[str, list[str]] = {}
        """Task id -> answers of the teacher, which are the votes for that task."""
        self._check()

    @property
    def part(self) -> str:
        """Return the name of the reward part that votes."""
        return next(name for name, rule in self.rubric.rules.items() if rule.source == VOTE)

    def start_step(self, play: PlayTasks) -> None:
        """Choose the pool at the first step. Update the teacher and discard its earlier votes."""
        if not self.pool:
            self.choose_pool(play)
        if self.options.teacher == "policy":
            return
        if self.teacher is None:
            self.teacher = self._new_teacher()
        else:
            self.teacher.update()
        if self.options.teacher == "average":
            self._votes.clear()

    def choose_pool(self, play: PlayTasks) -> None:
        """Choose the task pool and the labelled tasks."""
        options = self.options
        tasks = self._draw_pool()
        if options.easiest_fraction < 1:
            groups = play(tasks)
            agreed = {
                task: self._vote(group).agreement for task, group in zip(tasks, groups, strict=True)
            }
            if options.teacher == "frozen":
                self.record_votes(tasks, groups)
            tasks = [
                task
                for level in self._by_level(tasks)
                for task in _most(level, agreed, options.easiest_fraction)
            ]
        given = frozenset(task for task in tasks if self._level(task) in options.labelled_levels)
        others = (task for task in tasks if task not in given)
        self.labelled = given | choose_labelled(
            others,
            share=options.true_label_fraction,
            budget=options.max_true_labels,
            seed=self.config.seed,
        )
        self.pool = tuple(tasks)

    def choose_tasks(
        self,
        rng: random.Random,
        count: int,
        *,
        levels: Sequence[str] = (),
        weights: Mapping[str, float] | None = None,
    ) -> list[str]:
        """Draw tasks of the pool. A task repeats only after all others were drawn.

        `weights` are not used, because `tasks.adaptive` needs true labels.
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

    def groups_to_collect(self, wanted: int) -> int:
        return math.ceil(wanted / self.options.keep_fraction)

    def collect_votes(self, groups: Sequence[Group], play: PlayTasks) -> list[Episode]:
        """Play the missing votes with the teacher's adapter. Return the teacher's episodes."""
        if self.teacher is None or not (tasks := self.tasks_without_votes(groups)):
            return []
        votes = play(tasks, adapter=self.teacher.applied())
        self.record_votes(tasks, votes)
        return [episode for group in votes for episode in group]

    def tasks_without_votes(self, groups: Sequence[Group]) -> list[str]:
        """Return the unlabelled tasks for which the teacher has not voted."""
        tasks = dict.fromkeys(group[0].task_id for group in groups if not self._is_labelled(group))
        return [task for task in tasks if task and task not in self._votes]

    def record_votes(self, tasks: Sequence[str], groups: Sequence[Group]) -> None:
        """Record the teacher's answers as votes."""
        for task, group in zip(tasks, groups, strict=True):
            # If every episode is void, one empty answer stands for "no label".
            self._votes[task] = [episode.last_assistant_message for episode in valid(group)] or [""]

    def votes_for(self, part: str, task_id: str) -> list[str] | None:
        """Return the teacher's answers for a task, or None if the group's answers are the votes."""
        return self._votes.get(task_id) if part == self.part else None

    def mask_parts(self, group: Group) -> frozenset[str]:
        """Return the vote for a labelled group, and the parts that need a label for others."""
        if self._is_labelled(group):
            return frozenset({self.part})
        return frozenset(self.rubric.parts) - {self.part, *self.options.label_free_parts}

    def select_groups(self, batch: RolloutBatch, count: int) -> RolloutBatch:
        """Keep the `count` groups with the highest agreement. Labelled groups are kept first."""
        groups = batch.groups
        if len(groups) <= count:
            return batch
        labelled = {n for n, group in enumerate(groups) if self._is_labelled(group)}
        kept = keep_most_agreed(
            [self._vote(group) for group in groups], count / len(groups), labelled=labelled
        )
        return replace(
            batch,
            groups=[groups[n] for n in kept],
            low_agreement=[group for n, group in enumerate(groups) if n not in kept],
        )

    def metrics(self, batch: RolloutBatch) -> Metrics:
        """Return `plan/...`: counts of labelled and low-agreement groups, and vote metrics."""
        groups = [group for group in (*batch.groups, *batch.low_agreement) if valid(group)]
        labelled = [group for group in groups if self._is_labelled(group)]
        numbers = {
            "true_labels": float(len(labelled)),
            "disagreed": float(len(batch.low_agreement)),
        }
        voted = [self._voted(group) for group in groups if group not in labelled]
        numbers |= vote_metrics(voted) if voted else {}
        return {f"plan/{name}": value for name, value in numbers.items()}

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

    def state_dict(self) -> dict[str, Any]:
        return {
            "pool": list(self.pool),
            "labelled": sorted(self.labelled),
            "votes": dict(self._votes),
            "teacher": self.teacher.state_dict() if self.teacher else {},
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restore the state. The state of another plan is ignored."""
        if "pool" not in state:
            return
        self.pool = tuple(state["pool"])
        self.labelled = frozenset(state["labelled"])
        self._votes = dict(state["votes"])
        if state["teacher"]:
            self.teacher = self._new_teacher()
            self.teacher.load_state_dict(state["teacher"])

    def _new_teacher(self) -> Teacher:
        moves = self.options.teacher == "average"
        return Teacher(self.model, decay=self.options.teacher_decay if moves else 1.0)

    def _check(self) -> None:
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
                f"label_free_parts: the reward has no part '{unknown[0]}'"
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

    def _refuse(self, why: str) -> NoReturn:
        raise SpecError(f"{self.spec.path}: train.plan: {why}")

    def _draw_pool(self) -> list[str]:
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
            self._votes.get(group[0].task_id)
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
