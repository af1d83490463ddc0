"""Collect the groups of one training step. Void members are retried once.

With dynamic sampling, groups without reward variance are replaced by new ones, up to a limit.
Discarded and retried episodes are counted and recorded, because they cost time. See
`task_sampler.py` for the choice of tasks. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from envgym.episode import Episode
from envgym.playing import Request
from envgym.tasks import stable_seed
from envgym_trainer.rollout.task_sampler import TaskDraw
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.metrics import ZERO_STD, Metrics, episode_metrics, failure_metrics

Group = list[Episode]
Play = Callable[[Sequence[Request]], list[Episode]]
"""Function that plays requests and returns the episodes in the same order."""
Score = Callable[[Sequence[Group]], list[Group]]
"""Function that returns the same groups with recomputed rewards or added attribution."""
NO_VARIANCE = "no_variance"
RETRIED = "retried"
LOW_AGREEMENT = "low_agreement"
TEACHER = "teacher"
"""Values of `excluded` in recorded episodes: reasons for the exclusion from training."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Rollout batch of one training step."""

    groups: list[Group]
    """Groups used for the step: `tasks_per_step` groups of `group_size` members, with void ones."""
    thrown: list[Group] = field(default_factory=list)
    """Groups discarded by dynamic sampling, one for each extra group."""
    replayed: list[Episode] = field(default_factory=list)
    """Void members that were replaced by a retry."""
    disagreed: list[Group] = field(default_factory=list)
    """Groups that self-training excluded because of low agreement."""
    votes: Metrics = field(default_factory=dict)
    """Metrics of the step's votes, in self-training."""
    taught: list[Episode] = field(default_factory=list)
    """Episodes of a teacher that took part in the vote."""
    sampled_at: int | None = None
    """Learner updates when the sampler took its weights; `None` if equal to those at training."""
    idle: float = math.nan
    """Fraction of time in which the sampler had no work; NaN if not measured."""

    @property
    def everything(self) -> list[Group]:
        """All groups with discarded ones: an unbiased sample of the policy, unlike `groups`."""
        return self.groups + self.thrown + self.disagreed

    @property
    def episodes(self) -> list[Episode]:
        """All episodes of the step, with discarded and retried ones."""
        return (
            [episode for group in self.everything for episode in group]
            + self.replayed
            + self.taught
        )

    @property
    def comparable(self) -> list[Group]:
        """Groups used for training: at least two valid members with the same start.

        A single valid member has no baseline. Only a KL term would act on it.
        """
        return [group for group in self.groups if is_trainable(group)]

    def told(self, explain: Score) -> RolloutBatch:
        """Return a copy in which `explain(groups)` replaces the comparable groups."""
        told = iter(explain(self.comparable))
        return replace(
            self, groups=[next(told) if is_trainable(group) else group for group in self.groups]
        )

    def metrics(self) -> Metrics:
        """Return the step's metrics. Rewards and successes also cover discarded groups."""
        numbers = episode_metrics(self.everything)
        failures = failure_metrics([*self.everything, self.replayed])
        numbers |= {
            name: value
            for name, value in failures.items()
            if name.startswith(("failures/", "episode/retried"))
        }
        if not math.isnan(self.idle):
            numbers["engine/idle_fraction"] = self.idle
        numbers |= self.votes
        return numbers | {
            "group/too_few_valid": float(sum(len(valid(group)) < 2 for group in self.groups)),
            "group/different_starts": float(
                sum(not has_same_start(group) for group in self.groups)
            ),
            "group/retried_members": float(len(self.replayed)),
            "group/with_variance": float(sum(has_reward_variance(group) for group in self.groups)),
            "rollout/extra_groups": float(len(self.thrown)),
            "rollout/discarded_episodes": float(sum(len(group) for group in self.thrown)),
        }

    def write(self, folder: RunFolder, step: int) -> None:
        """Append all episodes to `episodes.jsonl`. Excluded ones get their reason in `excluded`."""
        folder.append_episodes(step, [episode for group in self.groups for episode in group])
        folder.append_episodes(
            step, [episode for group in self.thrown for episode in group], excluded=NO_VARIANCE
        )
        folder.append_episodes(step, self.replayed, excluded=RETRIED)
        folder.append_episodes(
            step, [episode for group in self.disagreed for episode in group], excluded=LOW_AGREEMENT
        )
        folder.append_episodes(step, self.taught, excluded=TEACHER)


def play_groups(
    play: Play,
    draws: TaskDraw,
    *,
    tasks: int,
    size: int,
    max_extra: int = 0,
    score: Score = lambda groups: list(groups),
) -> RolloutBatch:
    """Collect the groups of one step.

    Args:
        play: Plays requests.
        draws: Tasks of the step.
        tasks: Number of groups.
        size: Episodes of each group.
        max_extra: Maximum number of additional groups for dynamic sampling. Each may replace a
            group without reward variance. A group without a replacement stays, so the number of
            groups is constant.
        score: Recomputes the rewards of groups. By default the environment's rewards are used.

    References:
        DAPO, arXiv 2503.14476, section 3.2, eq. 11. The limit is an addition for policies that
        solve all tasks or none.
    """
    groups, replayed = _play(play, draws, tasks, size, score)
    thrown: list[Group] = []
    while (poor := [n for n, group in enumerate(groups) if not has_reward_variance(group)]) and len(
        thrown
    ) < max_extra:
        more, again = _play(play, draws, min(len(poor), max_extra - len(thrown)), size, score)
        replayed += again
        for group in more:
            if has_reward_variance(group):
                place = poor.pop(0)
                groups[place], group = group, groups[place]
            thrown.append(group)
    return RolloutBatch(groups, thrown, replayed)


def valid(group: Sequence[Episode]) -> Group:
    """Return the members that are not void."""
    return [episode for episode in group if not episode.is_void]


def has_reward_variance(group: Sequence[Episode]) -> bool:
    """Return whether a group has reward variance among valid members with the same start."""
    rewards = [episode.reward for episode in valid(group) if episode.reward is not None]
    return len(rewards) > 1 and max(rewards) - min(rewards) > ZERO_STD and has_same_start(group)


def is_trainable(group: Sequence[Episode]) -> bool:
    return len(valid(group)) > 1 and has_same_start(group)


def has_same_start(group: Sequence[Episode]) -> bool:
    """Return whether all valid members have the same task, initial state and opening messages."""
    return (
        len({(episode.task_id, episode.start_hash, _opening(episode)) for episode in valid(group)})
        < 2
    )


def _opening(episode: Episode) -> tuple[tuple[str, str], ...]:
    """Return role and content of the messages before the policy's first answer."""
    roles = [message.role for message in episode.messages]
    count = roles.index("assistant") if "assistant" in roles else len(roles)
    return tuple((message.role, message.content) for message in episode.messages[:count])


def _play(
    play: Play, draws: TaskDraw, tasks: int, size: int, score: Score
) -> tuple[list[Group], list[Episode]]:
    """Play new groups, and retry void members with another seed.

    With the same seed the same tokens could break the environment again.
    """
    requests = draws.requests(tasks, size)
    episodes = play(requests)
    broken = [n for n, episode in enumerate(episodes) if episode.is_void]
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
