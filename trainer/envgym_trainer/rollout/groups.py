"""The groups of a step: siblings from one state, what they can teach, and what is played again when they cannot.

A void member is played once more with other sampling. With dynamic sampling, groups whose rewards all agree make room for
fresh ones, up to a cap. What is thrown away is kept, counted and written down, because it was paid for. Plain Python.
Left out: which tasks (`task_sampler.py`), advantages.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from envgym.episode import Episode
from envgym.play import Request
from envgym.tasks import stable_seed
from envgym_trainer.rollout.task_sampler import Draws
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.metrics import ZERO_STD, Metrics, episode_metrics, failure_metrics

Group = list[Episode]
Play = Callable[[Sequence[Request]], list[Episode]]
"""Plays requests; the episodes come in their order."""
Score = Callable[[Sequence[Group]], list[Group]]
"""The same groups with other rewards, or with more told of them."""
NO_LESSON = "no_lesson"
PLAYED_AGAIN = "played_again"
DISAGREED = "disagreed"
VOTED = "voted"
"""Why an episode is written down with `left_out`."""


@dataclass(frozen=True, slots=True)
class Played:
    """All that a step played."""

    groups: list[Group]
    """`tasks_per_step` groups of exactly `group_size` members, void ones included."""
    thrown: list[Group] = field(default_factory=list)
    """Groups that were left out for a fresh one, and fresh ones that were no better: one for each extra group."""
    replayed: list[Episode] = field(default_factory=list)
    """Void members in whose place another attempt stands."""
    disagreed: list[Group] = field(default_factory=list)
    """Groups of self-training that agreed less than those that are learned from."""
    votes: Metrics = field(default_factory=dict)
    """What the step's votes were, in self-training."""
    taught: list[Episode] = field(default_factory=list)
    """The episodes of a teacher that voted."""
    sampled_at: int | None = None
    """Updates of the learner when the sampler took over what it played with; None: as many as when it learns from them."""
    idle: float = math.nan
    """Share of the time in which the sampler had nothing to compute; NaN where it does not say."""

    @property
    def everything(self) -> list[Group]:
        """The groups and those left out: an unbiased sample of the policy, where the groups alone are not."""
        return self.groups + self.thrown + self.disagreed

    @property
    def episodes(self) -> list[Episode]:
        """Every episode that was paid for."""
        return (
            [episode for group in self.everything for episode in group]
            + self.replayed
            + self.taught
        )

    @property
    def comparable(self) -> list[Group]:
        """What the learner gets: groups of two valid members or more that started alike. One that is left alone has nobody to
        be compared with, and would only be pulled by a KL term."""
        return [group for group in self.groups if is_comparable(group)]

    def told(self, explain: Score) -> Played:
        """With what `explain` tells of the comparable groups."""
        told = iter(explain(self.comparable))
        return replace(
            self, groups=[next(told) if is_comparable(group) else group for group in self.groups]
        )

    def metrics(self) -> Metrics:
        """The step's numbers; rewards and successes over all groups that were played, thrown ones too."""
        numbers = episode_metrics(self.everything)
        failures = failure_metrics([*self.everything, self.replayed])
        numbers |= {
            name: value
            for name, value in failures.items()
            if name.startswith(("failures/", "episode/retried"))
        }
        if not math.isnan(self.idle):
            numbers["sampling/idle"] = self.idle
        numbers |= self.votes
        return numbers | {
            "group/too_few_valid": float(sum(len(valid(group)) < 2 for group in self.groups)),
            "group/mixed_starts": float(sum(not starts_alike(group) for group in self.groups)),
            "group/replayed_members": float(len(self.replayed)),
            "group/lessons": float(sum(has_lesson(group) for group in self.groups)),
            "sampling/extra_groups": float(len(self.thrown)),
            "sampling/thrown_episodes": float(sum(len(group) for group in self.thrown)),
        }

    def write(self, folder: RunFolder, step: int) -> None:
        """Adds everything to `episodes.jsonl`; what was not learned from says why in `left_out`."""
        folder.append_episodes(step, [episode for group in self.groups for episode in group])
        folder.append_episodes(
            step, [episode for group in self.thrown for episode in group], left_out=NO_LESSON
        )
        folder.append_episodes(step, self.replayed, left_out=PLAYED_AGAIN)
        folder.append_episodes(
            step, [episode for group in self.disagreed for episode in group], left_out=DISAGREED
        )
        folder.append_episodes(step, self.taught, left_out=VOTED)


def play_groups(
    play: Play,
    draws: Draws,
    *,
    tasks: int,
    size: int,
    max_extra: int = 0,
    score: Score = lambda groups: list(groups),
) -> Played:
    """The groups of one step.

    Args:
        play: plays requests.
        draws: the step's tasks.
        tasks, size: how many groups of how many episodes.
        max_extra: dynamic sampling: so many groups may be played on top, each to take the place of one that has no lesson.
            What finds no replacement stays, so a step has always the same number of groups.
        score: gives groups the rewards that they are compared by, where those are not the environment's own.
    Source: DAPO, arXiv 2503.14476, sec. 3.2, eq. 11; the cap is ours, for a policy that solves all or nothing.
    """
    groups, replayed = _play(play, draws, tasks, size, score)
    thrown: list[Group] = []
    while (poor := [n for n, group in enumerate(groups) if not has_lesson(group)]) and len(
        thrown
    ) < max_extra:
        more, again = _play(play, draws, min(len(poor), max_extra - len(thrown)), size, score)
        replayed += again
        for group in more:
            if has_lesson(group):
                place = poor.pop(0)
                groups[place], group = group, groups[place]
            thrown.append(group)
    return Played(groups, thrown, replayed)


def valid(group: Sequence[Episode]) -> Group:
    """The members in which the world held."""
    return [episode for episode in group if not episode.void]


def has_lesson(group: Sequence[Episode]) -> bool:
    """Whether at least two valid members started alike and earned different rewards."""
    rewards = [episode.reward for episode in valid(group) if episode.reward is not None]
    return len(rewards) > 1 and max(rewards) - min(rewards) > ZERO_STD and starts_alike(group)


def is_comparable(group: Sequence[Episode]) -> bool:
    return len(valid(group)) > 1 and starts_alike(group)


def starts_alike(group: Sequence[Episode]) -> bool:
    """Whether all valid members are of one task, from one state, with one opening; else they are no group."""
    return (
        len({(episode.task_id, episode.start_hash, _opening(episode)) for episode in valid(group)})
        < 2
    )


def _opening(episode: Episode) -> tuple[tuple[str, str], ...]:
    """What was said before the policy's first answer."""
    roles = [message.role for message in episode.messages]
    count = roles.index("assistant") if "assistant" in roles else len(roles)
    return tuple((message.role, message.content) for message in episode.messages[:count])


def _play(
    play: Play, draws: Draws, tasks: int, size: int, score: Score
) -> tuple[list[Group], list[Episode]]:
    """Fresh groups, and the void members that were played once more: with a seed of their own, since the very same tokens may
    have broken the world."""
    requests = draws.requests(tasks, size)
    episodes = play(requests)
    broken = [n for n, episode in enumerate(episodes) if episode.void]
    again = (
        play([replace(requests[n], seed=stable_seed(requests[n].seed, "again")) for n in broken])
        if broken
        else []
    )
    replayed = [episodes[n] for n in broken]
    for n, episode in zip(broken, again, strict=True):
        episodes[n] = episode
    groups = [episodes[start : start + size] for start in range(0, len(episodes), size)]
    return score(groups), replayed
