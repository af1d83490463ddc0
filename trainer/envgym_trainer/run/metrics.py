"""Episodes -> the numbers that are logged. Plain Python: no torch, so that a report can use it anywhere.

TRL's names where TRL has the quantity, so that existing dashboards fit; ours where it has none. A void episode (the world
broke, not the model) is left out of every number but those about failures.

    reward, reward_std, frac_reward_zero_std, rewards/NAME/mean, rewards/NAME/std                  as in TRL
    rewards/NAME/contribution                              ours: what a weighted part adds to the mean reward; they sum to `reward`
    completions/{mean,min,max}_length, completions/clipped_ratio                                   sampled tokens an episode
    tools/call_frequency, tools/failure_frequency                                                  calls an episode, refused a call
    success, success/LEVEL, episode/{n,turns,void,seconds_policy,seconds_env}                      ours
    group/frac_all_zero, group/frac_all_one, .../LEVEL, .../template/NAME                          groups with nothing to learn
    group/{lessons,too_few_valid,mixed_starts,replayed_members}, sampling/...                      as of groups.py
    curriculum/...                                                                                 as of task_sampler.py
    failures/KIND, failures/stage/STAGE, episode/retried, group/void_members                       how the world broke
    sandbox/..., as of envgym.sandbox.statistics: open_ms/p50, pool/hits, recycled/dirty, ...         since the last line
    offpolicy/{mismatch,staleness}_{mean,max}, offpolicy/ess, alarm/mismatch                       of `offpolicy.py`, in nats
    parse/MODE, stop/REASON                                                                        shares, each family adds up to 1
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from envgym.episode import Episode

CLIPPED = ("length", "context")
"""Stop reasons that mean: no more tokens were allowed."""
ZERO_STD = 1e-8
"""Below this the rewards of a group count as equal (float noise of summed parts)."""

Metrics = dict[str, float]


def episode_metrics(groups: Iterable[Sequence[Episode]]) -> Metrics:
    """All numbers of one training step.

    Args:
        groups: the episodes of the step by group; void members are skipped and counted.
    Returns: name -> number. A name whose quantity does not exist (no level, no tokens, no group of two) is left out.
    """
    groups = list(groups)
    counted = [[episode for episode in group if not episode.void] for group in groups]
    episodes = [episode for group in counted for episode in group]
    out: Metrics = {"episode/n": float(len(episodes))} | failure_metrics(groups)
    if not episodes:
        return out
    return (
        out
        | reward_metrics(episodes)
        | success_metrics(episodes)
        | group_metrics(counted)
        | behaviour_metrics(episodes)
    )


def eval_metrics(episodes: Iterable[Episode], *, prefix: str = "eval/") -> Metrics:
    """The numbers of one evaluation: `eval/success`, `eval/success/L0`, `eval/n`, `eval/n/L0`, `eval/reward`, ..."""
    episodes = list(episodes)
    numbers = episode_metrics([episodes])
    numbers["n"] = numbers.pop("episode/n")
    for level in sorted({episode.level for episode in episodes if episode.level}):
        numbers[f"n/{level}"] = float(
            sum(1 for episode in episodes if episode.level == level and not episode.void)
        )
    about_groups = (
        "group/",
        "reward_std",
        "frac_reward_zero_std",
    )  # an evaluation has one episode a task
    return {
        prefix + name: value for name, value in numbers.items() if not name.startswith(about_groups)
    }


def failure_metrics(groups: Iterable[Sequence[Episode]], *, prefix: str = "") -> Metrics:
    """How often the world broke, by kind and by stage, first attempts included; episodes that were played a second time, those
    that broke again (void), and the mean share of its members that a group lost."""
    groups = [group for group in groups if group]
    episodes = [episode for group in groups for episode in group]
    failures = [failure for episode in episodes for failure in episode.failures]
    counts = Counter(
        name
        for failure in failures
        for name in (f"failures/{failure.kind}", f"failures/stage/{failure.stage}")
    )
    out: Metrics = {
        "episode/void": float(sum(episode.void for episode in episodes)),
        "episode/retried": float(sum(episode.first_failure is not None for episode in episodes)),
        "group/void_members": _mean(
            [sum(episode.void for episode in group) / len(group) for group in groups]
        ),
    }
    return {
        prefix + name: value
        for name, value in (
            _existing(out) | {n: float(c) for n, c in sorted(counts.items())}
        ).items()
    }


def sandbox_metrics(world: Any, *, prefix: str = "") -> Metrics:
    """What the sandbox of a world did since this was last asked: times, pool, failures, bytes; nothing where it does not tell."""
    statistics = getattr(getattr(world, "sandbox", None), "statistics", None)
    return (
        {f"{prefix}sandbox/{name}": number for name, number in statistics.take().items()}
        if statistics
        else {}
    )


def reward_metrics(episodes: Sequence[Episode]) -> Metrics:
    """Mean reward, and mean and deviation of each part among the episodes to which it applied."""
    out: Metrics = {
        "reward": _mean([episode.reward for episode in episodes if episode.reward is not None])
    }
    for name in _names(episode.reward_parts for episode in episodes):
        values = [
            value for episode in episodes if (value := episode.reward_parts.get(name)) is not None
        ]
        out[f"rewards/{name}/mean"] = _mean(values)
        out[f"rewards/{name}/std"] = statistics.stdev(values) if len(values) > 1 else math.nan
    return _existing(out) | contribution_metrics(episodes)


def contribution_metrics(episodes: Sequence[Episode]) -> Metrics:
    """What each weighted term adds to the mean reward, among episodes with terms; where it did not apply it added 0.

    So all of them sum to the mean reward of these episodes.
    """
    terms = [episode.reward_terms for episode in episodes if episode.reward_terms]
    weighted = [
        name for name in _names(terms) if any(each[name].weight for each in terms if name in each)
    ]
    return {
        f"rewards/{name}/contribution": _mean(
            [each[name].contribution if name in each else 0.0 for each in terms]
        )
        for name in weighted
    }


def success_metrics(episodes: Sequence[Episode]) -> Metrics:
    """Share of solved tasks, over all and by level, among episodes whose success is known."""
    known = [episode for episode in episodes if episode.success is not None]
    levels = sorted({episode.level for episode in known if episode.level})
    out: Metrics = {"success": _mean([float(bool(episode.success)) for episode in known])}
    for level in levels:
        out[f"success/{level}"] = _mean(
            [float(bool(episode.success)) for episode in known if episode.level == level]
        )
    return _existing(out)


def group_metrics(groups: Sequence[Sequence[Episode]]) -> Metrics:
    """How much the members of a group differ: what GRPO can learn from.

    `reward_std` is the mean of the groups' sample deviations (n - 1, as in TRL). Groups of fewer than two are left out.
    """
    rewards = [
        [episode.reward for episode in group if episode.reward is not None] for group in groups
    ]
    deviations = [statistics.stdev(group) for group in rewards if len(group) > 1]
    return _existing(
        {
            "reward_std": _mean(deviations),
            "frac_reward_zero_std": _mean(
                [float(deviation < ZERO_STD) for deviation in deviations]
            ),
        }
        | agreement_metrics(groups)
    )


def agreement_metrics(groups: Sequence[Sequence[Episode]]) -> Metrics:
    """Share of groups in which no member solved its task, and in which every one did: over all, by level, by template.

    Groups with fewer than two members whose success is known are left out.
    """
    by_name: dict[str, list[list[bool]]] = {"": []}
    for group in groups:
        solved = [bool(episode.success) for episode in group if episode.success is not None]
        if len(solved) > 1:
            level = f"/{group[0].level}"
            template = f"/template/{group[0].template}"
            for name in (
                "",
                *([level] if group[0].level else []),
                *([template] if group[0].template else []),
            ):
                by_name.setdefault(name, []).append(solved)
    none = {
        f"group/frac_all_zero{name}": _mean([float(not any(group)) for group in found])
        for name, found in by_name.items()
    }
    return none | {
        f"group/frac_all_one{name}": _mean([float(all(group)) for group in found])
        for name, found in by_name.items()
    }


def behaviour_metrics(episodes: Sequence[Episode]) -> Metrics:
    """Turns, tools, lengths, dialects, stop reasons, seconds."""
    calls = sum(episode.tool_calls for episode in episodes)
    lengths = [
        float(sum(episode.tokens.loss_mask)) for episode in episodes if episode.tokens is not None
    ]
    out: Metrics = {
        "episode/turns": _mean([float(episode.turns) for episode in episodes]),
        "tools/call_frequency": calls / len(episodes),
        "tools/failure_frequency": sum(episode.tool_errors for episode in episodes) / calls
        if calls
        else 0.0,
        "completions/clipped_ratio": _mean(
            [float(episode.stop_reason in CLIPPED) for episode in episodes]
        ),
    }
    if lengths:
        out |= {"completions/mean_length": _mean(lengths), "completions/min_length": min(lengths)}
        out |= {"completions/max_length": max(lengths)}
    for place in _names(episode.seconds for episode in episodes):
        out[f"episode/seconds_{place}"] = _mean(
            [episode.seconds.get(place, 0.0) for episode in episodes]
        )
    modes: Counter[str] = Counter()
    for episode in episodes:
        modes.update(episode.parse_modes)
    stops = Counter(episode.stop_reason for episode in episodes)
    return out | _shares("parse", modes) | _shares("stop", stops)


def _shares(family: str, counts: Mapping[str, int]) -> Metrics:
    total = sum(counts.values())
    return (
        {f"{family}/{name}": count / total for name, count in sorted(counts.items())}
        if total
        else {}
    )


def _names(mappings: Iterable[Mapping[str, object]]) -> list[str]:
    return sorted({name for mapping in mappings for name in mapping})


def _mean(values: Sequence[float]) -> float:
    return math.fsum(values) / len(values) if values else math.nan


def _existing(metrics: Metrics) -> Metrics:
    return {name: value for name, value in metrics.items() if not math.isnan(value)}
