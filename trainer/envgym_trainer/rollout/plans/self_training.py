"""Self-training: a bounded pool of tasks, of which few keep their true label and the others are rewarded by a vote.

It decides which tasks there are, which parts of the reward may speak of each, whose answers are the votes, and which groups agree
enough to be learned from. The reward itself stays the environment's: what must not speak is masked, so that terms and advantages
are taken apart as ever. Where the environment knows the truth of a task without a label, it is used for `selftrain/...` and
nothing else.
Source: SRT, arXiv 2505.21444; of the mixture with true labels, and of labelled groups in each step: ours.
Left out: the vote (`envgym.rewards.scoring.majority_vote`), playing (`rollouts.py`), and acting on what the signals say.
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
from envgym_trainer.config import TrainConfig
from envgym_trainer.config.self_training import SelfTrainingConfig
from envgym_trainer.rollout.groups import Group, Played, valid
from envgym_trainer.rollout.plans.teacher import Teacher
from envgym_trainer.run.metrics import Metrics

VOTE = "majority_vote"
COUNTED = ("votes", "threshold", "divide_by")
"""Options of the part that change what a vote is."""
PlayTasks = Callable[[Sequence[str]], list[Group]]
"""Plays a group of each of these tasks."""


class SelfTraining:
    """The pool of one run, and what may be said of its tasks. A checkpoint keeps it.

    Args:
        spec: the environment, for messages.
        config: with a `self_training` block.
        world: whose tasks and reward these are.
        model: that learns.
    """

    def __init__(
        self,
        spec: EnvSpec,
        config: TrainConfig,
        options: SelfTrainingConfig,
        world: Any,
        model: Any,
    ):
        self.spec = spec
        self.config = config
        self.options = options
        self.tasks = world.tasks
        self.rubric: Rubric = getattr(world, "rubric", None) or Rubric({}, "")
        moving = options.teacher_decay if options.teacher == "average" else 1.0
        self.teacher = None if options.teacher == "policy" else Teacher(model, decay=moving)
        self.pool: tuple[str, ...] = ()
        """Task ids; empty until it begins."""
        self.labelled: frozenset[str] = frozenset()
        self._heard: dict[str, list[str]] = {}
        """Task -> what the teacher's votes say of it."""

    @property
    def part(self) -> str:
        """The part of the reward that votes."""
        return next(name for name, rule in self.rubric.rules.items() if rule.source == VOTE)

    def check(self) -> None:
        """Raises SpecError for a reward without a vote, and for levels or parts that are not there."""
        votes = [name for name, rule in self.rubric.rules.items() if rule.source == VOTE]
        if len(votes) != 1:
            found = f"has {' and '.join(votes)}" if votes else "has none"
            self._refuse(
                f"needs one part of the reward that votes, and it {found}; write `agreed: {{from: {VOTE}}}`"
            )
        if unknown := [name for name in self.options.label_free if name not in self.rubric.parts]:
            self._refuse(
                f"label_free: the reward has no part '{unknown[0]}'{did_you_mean(unknown[0], self.rubric.parts)}"
            )
        levels = {
            template.level for template in self.tasks.fitting("train", levels=self.config.levels)
        }
        if unknown := [level for level in self.options.labelled_levels if level not in levels]:
            self._refuse(
                f"labelled_levels: no training task of level '{unknown[0]}'{did_you_mean(unknown[0], levels)}"
            )

    def validated(self, episodes: Sequence[Episode]) -> None:
        """Sees that a validation told the truth. Raises UsageError where none of its tasks has any."""
        played = [episode for episode in episodes if not episode.void]
        if played and all(
            episode.reward_parts.get(self.rubric.success) is None for episode in played
        ):
            raise UsageError(
                f"{self.spec.path}: train.self_training: no validation task has a true label, so no one sees votes go wrong."
            )

    def begin(self, play: PlayTasks) -> None:
        """Chooses the tasks and their labels, once a run."""
        if self.pool:
            return
        options = self.options
        seed = self.config.seed
        tasks = self._drawn()
        if options.easiest < 1:
            groups = play(tasks)
            agreed = {
                task: self._vote(group).agreement for task, group in zip(tasks, groups, strict=True)
            }
            if self.teacher and not self.teacher.moves:
                self.hear(tasks, groups)
            tasks = [
                task
                for level in self._by_level(tasks)
                for task in _most(level, agreed, options.easiest)
            ]
        given = frozenset(task for task in tasks if self._level(task) in options.labelled_levels)
        others = (task for task in tasks if task not in given)
        self.labelled = given | choose_labelled(
            others, share=options.true_labels, budget=options.label_budget, seed=seed
        )
        self.pool = tuple(tasks)

    def draw(self, rng: random.Random, count: int, *, levels: Sequence[str] = ()) -> list[str]:
        """Tasks for a step's groups: none twice before every one came.

        Args:
            levels: that are open; empty for all.
        """
        tasks = [task for task in self.pool if not levels or self._level(task) in levels] or list(
            self.pool
        )
        true = [task for task in tasks if task in self.labelled]
        others = [task for task in tasks if task not in self.labelled]
        if self.options.labelled_groups is None or not true or not others:
            return _some(rng, tasks, count)
        wanted = math.floor(
            count * self.options.labelled_groups + rng.random()
        )  # its share on average
        drawn = _some(rng, true, wanted) + _some(rng, others, count - wanted)
        rng.shuffle(drawn)
        return drawn

    def groups_to_play(self, wanted: int) -> int:
        return math.ceil(wanted / self.options.keep)

    def hidden(self, group: Group) -> frozenset[str]:
        """The parts of the reward that must not speak of this group."""
        if self._is_labelled(group):
            return frozenset({self.part})
        return frozenset(self.rubric.parts) - {self.part, *self.options.label_free}

    def voters(self, task: str) -> list[str] | None:
        """What the teacher says of a task; None where the group's own answers count."""
        return self._heard.get(task)

    def unheard(self, groups: Sequence[Group]) -> list[str]:
        """Tasks of the groups that the teacher has yet to vote on; none without a teacher."""
        if self.teacher is None:
            return []
        tasks = dict.fromkeys(group[0].task_id for group in groups if not self._is_labelled(group))
        return [task for task in tasks if task and task not in self._heard]

    def hear(self, tasks: Sequence[str], groups: Sequence[Group]) -> None:
        """Takes in the teacher's votes."""
        for task, group in zip(tasks, groups, strict=True):
            self._heard[task] = [episode.last_said for episode in valid(group)] or [
                ""
            ]  # of nobody: no label

    def begin_step(self) -> None:
        """Lets a teacher that moves follow the policy; what it said before counts no more."""
        if self.teacher:
            self.teacher.follow()
            if self.teacher.moves:
                self._heard.clear()

    def most_agreed(self, played: Played, count: int) -> Played:
        """The `count` groups that agree most, labelled ones before all others; the rest is put aside."""
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

    def metrics(self, played: Played) -> Metrics:
        """`selftrain/...`: how many groups have a true label, and of the others what `vote_metrics` says."""
        groups = [group for group in (*played.groups, *played.disagreed) if valid(group)]
        labelled = [group for group in groups if self._is_labelled(group)]
        numbers = {"true_labels": float(len(labelled)), "disagreed": float(len(played.disagreed))}
        voted = [self._voted(group) for group in groups if group not in labelled]
        numbers |= vote_metrics(voted) if voted else {}
        return {f"selftrain/{name}": value for name, value in numbers.items()}

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
        raise SpecError(f"{self.spec.path}: train.self_training: {why}")

    def _drawn(self) -> list[str]:
        rng = random.Random(stable_seed(self.config.seed, "pool"))
        levels = self.config.levels
        return list(
            dict.fromkeys(
                self.tasks.draw_id("train", rng, levels=levels) for _ in range(self.options.pool)
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
        """Whether its true label counts; a task that turns out to have none is voted on."""
        told = (episode.reward_parts.get(self.rubric.success) for episode in group)
        return group[0].task_id in self.labelled and any(value is not None for value in told)

    def _vote(self, group: Group) -> Vote:
        options = getattr(self.rubric.parts[self.part].function, "keywords", {})
        texts = (
            self.voters(group[0].task_id) or [episode.last_said for episode in valid(group)] or [""]
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
            [episode.last_said for episode in members],
            self._vote(group),
            [e.reward_parts.get(self.part) for e in members],
            truth if isinstance(truth, str) else None,
            self._reading(group),
        )

    def _reading(self, group: Group) -> Reading:
        return find_reading(self.tasks.task(group[0].task_id).extra.get("reading", "value"))


def _most(tasks: Sequence[str], agreed: Mapping[str, float], share: float) -> list[str]:
    """The share of the tasks that is agreed on most, at least one; of equals the earlier."""
    return sorted(tasks, key=lambda task: -agreed[task])[: max(1, round(share * len(tasks)))]


def _some(rng: random.Random, tasks: Sequence[str], count: int) -> list[str]:
    """So many of them in random order, every one once before any comes again."""
    found: list[str] = []
    while tasks and len(found) < count:
        found += rng.sample(tasks, min(len(tasks), count - len(found)))
    return found
