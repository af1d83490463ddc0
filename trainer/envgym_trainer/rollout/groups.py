"""Collect the groups of one training step. Void members are retried once.

With dynamic sampling, groups without reward variance are replaced by new ones, up to a limit. See
`task_sampler.py` for the choice of tasks. Imports no torch.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace

from envgym.episode import Episode
from envgym.playing import Request
from envgym.tasks import stable_seed
from envgym_trainer.rollout.rollout_batch import Group, RolloutBatch, has_reward_variance
from envgym_trainer.rollout.task_sampler import TaskDraw

Play = Callable[[Sequence[Request]], list[Episode]]
"""Function that plays requests and returns the episodes in the same order."""
Score = Callable[[Sequence[Group]], list[Group]]
"""Function that returns the same groups with recomputed rewards."""


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
    groups, retried = _play(play, draws, tasks, size, score)
    discarded: list[Group] = []
    while len(discarded) < max_extra:
        poor = [n for n, group in enumerate(groups) if not has_reward_variance(group)]
        if not poor:
            break
        count = min(len(poor), max_extra - len(discarded))
        more, again = _play(play, draws, count, size, score)
        retried += again
        for group in more:
            if has_reward_variance(group):
                place = poor.pop(0)
                groups[place], group = group, groups[place]
            discarded.append(group)
    return RolloutBatch(groups, discarded, retried)


def _play(
    play: Play, draws: TaskDraw, tasks: int, size: int, score: Score
) -> tuple[list[Group], list[Episode]]:
    """Play new groups, and retry void members with another seed.

    With the same seed the same tokens could break the environment again.

    Returns:
        The groups, and the void members that were replaced.
    """
    requests = draws.requests(tasks, size)
    episodes = play(requests)
    broken = [n for n, episode in enumerate(episodes) if episode.is_void]
    again = [replace(requests[n], seed=stable_seed(requests[n].seed, "again")) for n in broken]
    retried = [episodes[n] for n in broken]
    for n, episode in zip(broken, play(again) if again else [], strict=True):
        episodes[n] = episode
    groups = [episodes[start : start + size] for start in range(0, len(episodes), size)]
    return score(groups), retried
