"""Groups of one training step: those that are trained, and those that were excluded.

A group is the episodes of one task from one initial state. Excluded episodes are counted and
recorded, because they cost time. See `groups.py` for collecting. Imports no torch.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace

from envgym.episode import Episode
from envgym_trainer.run.folder import RunFolder
from envgym_trainer.run.metrics import ZERO_STD, Metrics, episode_metrics, failure_metrics

Group = list[Episode]
PartValues = Mapping[str, Sequence[float]]
"""Values of the reward parts with a running scale, before scaling, by part."""
NO_VARIANCE = "no_variance"
RETRIED = "retried"
LOW_AGREEMENT = "low_agreement"
TEACHER = "teacher"
"""Values of `excluded` in recorded episodes: reasons for the exclusion from training."""


@dataclass(frozen=True, slots=True)
class RolloutBatch:
    """Rollout batch of one training step."""

    groups: list[Group]
    """Groups of the step: `groups_per_step` groups of `group_size` members, with void ones."""
    discarded: list[Group] = field(default_factory=list)
    """Groups discarded by dynamic sampling, one for each extra group."""
    retried: list[Episode] = field(default_factory=list)
    """Void members that were replaced by a retry."""
    low_agreement: list[Group] = field(default_factory=list)
    """Groups that the plan excluded because their members agree too little."""
    teacher_episodes: list[Episode] = field(default_factory=list)
    """Episodes of a teacher that voted on the step's tasks."""
    plan_metrics: Metrics = field(default_factory=dict)
    """Metrics of the training plan."""
    part_values: tuple[PartValues, ...] = ()
    """Unscaled values of the parts with a running scale, one mapping for each scoring."""
    sampled_at: int | None = None
    """Learner updates when the sampler took its weights; `None` if equal to those at training."""
    idle: float = math.nan
    """Fraction of time in which the sampler had no work; NaN if not measured."""

    @property
    def all_groups(self) -> list[Group]:
        """All groups with excluded ones: an unbiased sample of the policy, unlike `groups`."""
        return self.groups + self.discarded + self.low_agreement

    @property
    def episodes(self) -> list[Episode]:
        """All episodes of the step, with excluded and retried ones."""
        return _members(self.all_groups) + self.retried + self.teacher_episodes

    @property
    def trainable_groups(self) -> list[Group]:
        """Groups used for training: at least two valid members with the same start.

        A single valid member has no baseline. Only a KL term would act on it.
        """
        return [group for group in self.groups if is_trainable(group)]

    def with_attribution(self, explain: Callable[[Sequence[Group]], list[Group]]) -> RolloutBatch:
        """Return a copy in which `explain(groups)` replaces the trainable groups."""
        explained = iter(explain(self.trainable_groups))
        groups = [next(explained) if is_trainable(group) else group for group in self.groups]
        return replace(self, groups=groups)

    def metrics(self) -> Metrics:
        """Return the step's metrics. Rewards and successes also cover excluded groups.

        `entropy` is an estimate from the sampled tokens, for steps without an update. An update
        measures it.
        """
        numbers = episode_metrics(self.all_groups) | sampled_entropy(_members(self.all_groups))
        failures = failure_metrics([*self.all_groups, self.retried])
        numbers |= {
            name: value
            for name, value in failures.items()
            if name.startswith(("failures/", "episode/retried"))
        }
        if not math.isnan(self.idle):
            numbers["engine/idle_fraction"] = self.idle
        numbers |= self.plan_metrics
        return numbers | {
            "group/too_few_valid": float(sum(len(valid(group)) < 2 for group in self.groups)),
            "group/different_starts": float(
                sum(not has_same_start(group) for group in self.groups)
            ),
            "group/retried_members": float(len(self.retried)),
            "group/with_variance": float(sum(has_reward_variance(group) for group in self.groups)),
            "rollout/extra_groups": float(len(self.discarded)),
            "rollout/discarded_episodes": float(sum(len(group) for group in self.discarded)),
        }

    def write(self, folder: RunFolder, step: int) -> None:
        """Append all episodes to `episodes.jsonl`. Excluded ones get their reason in `excluded`."""
        folder.append_episodes(step, _members(self.groups))
        folder.append_episodes(step, _members(self.discarded), excluded=NO_VARIANCE)
        folder.append_episodes(step, self.retried, excluded=RETRIED)
        folder.append_episodes(step, _members(self.low_agreement), excluded=LOW_AGREEMENT)
        folder.append_episodes(step, self.teacher_episodes, excluded=TEACHER)


def sampled_entropy(episodes: Sequence[Episode]) -> Metrics:
    """Return `entropy`: mean of -logprob over the sampled tokens, in nats per token.

    Its expectation is the policy's entropy at the sampling temperature. The result is empty if no
    valid episode has a token with a finite logprob.
    """
    traces = [each.tokens for each in episodes if each.tokens is not None and not each.is_void]
    surprises = [
        -logprob
        for trace in traces
        for logprob, is_sampled in zip(trace.logprobs, trace.loss_mask, strict=True)
        if is_sampled and math.isfinite(logprob)
    ]
    return {"entropy": math.fsum(surprises) / len(surprises)} if surprises else {}


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
    starts = {(episode.task_id, episode.start_hash, _opening(episode)) for episode in valid(group)}
    return len(starts) < 2


def _opening(episode: Episode) -> tuple[tuple[str, str], ...]:
    """Return role and content of the messages before the policy's first answer."""
    roles = [message.role for message in episode.messages]
    count = roles.index("assistant") if "assistant" in roles else len(roles)
    return tuple((message.role, message.content) for message in episode.messages[:count])


def _members(groups: Sequence[Group]) -> list[Episode]:
    return [episode for group in groups for episode in group]
