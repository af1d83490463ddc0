"""Compute the logged metrics from episodes, without importing torch.

Names follow TRL if TRL has the quantity, so existing dashboards work. Void episodes (the world
failed, not the model) count only in the metrics about failures. `METRICS` is the table of all
metrics, also of those that other modules compute.
"""

from __future__ import annotations

import math
import statistics
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence

from envgym.episode import Episode
from envgym.world import World
from envgym_trainer.run.metric_table import METRICS, find_metric

__all__ = [
    "METRICS",
    "drain_sandbox_metrics",
    "episode_metrics",
    "eval_metrics",
    "failure_metrics",
    "find_metric",
]

ZERO_STD = 1e-8
"""Standard deviation below which the rewards of a group count as equal."""

Metrics = dict[str, float]


def episode_metrics(groups: Iterable[Sequence[Episode]]) -> Metrics:
    """Return all metrics of one training step.

    Args:
        groups: Episodes of the step by group. Void members are skipped and counted.

    Returns:
        Metrics by name. A metric is missing if its quantity does not exist, such as a success rate
        by level without levels.

        - `reward`, `reward_std`, `frac_reward_zero_std`, `rewards/NAME/{mean,std}`: as in TRL.
        - `rewards/NAME/contribution`: mean contribution of a weighted part. They add up
          to `reward`.
        - `completions/{mean,min,max}_length`, `completions/clipped_ratio`: sampled tokens
          per episode.
        - `tools/call_frequency`: calls per episode. `tools/failure_frequency`: rejected calls per
          call. `tools/fault_frequency`: calls in which the tool failed, per call.
        - `success`, `success/level/LEVEL`, `episode/{n,turns,void,seconds_policy,seconds_env}`.
        - `group/frac_all_{zero,one}`, also by level and template: groups without variance.
        - `failures/KIND`, `failures/stage/STAGE`, `episode/retried`, `group/void_members`.
        - `dialect/DIALECT`, `stop/REASON`: shares. Each family adds up to 1.
    """
    groups = list(groups)
    counted = [[episode for episode in group if not episode.is_void] for group in groups]
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
    """Return the metrics of one evaluation: `eval/success`, `eval/n`, `eval/n/level/L0`, ..."""
    episodes = list(episodes)
    numbers = episode_metrics([episodes])
    numbers["n"] = numbers.pop("episode/n")
    for level in sorted({episode.level for episode in episodes if episode.level}):
        numbers[f"n/level/{level}"] = float(
            sum(1 for episode in episodes if episode.level == level and not episode.is_void)
        )
    # An evaluation has one episode a task, so there are no groups to compare.
    about_groups = (
        "group/",
        "reward_std",
        "frac_reward_zero_std",
    )
    return {
        prefix + name: value for name, value in numbers.items() if not name.startswith(about_groups)
    }


def failure_metrics(groups: Iterable[Sequence[Episode]], *, prefix: str = "") -> Metrics:
    """Return failures of the world, by kind and stage, first attempts included.

    Also counts retried episodes and void episodes, and the mean share of void members in a group.
    """
    groups = [group for group in groups if group]
    episodes = [episode for group in groups for episode in group]
    failures = [failure for episode in episodes for failure in episode.failures]
    counts = Counter(
        name
        for failure in failures
        for name in (f"failures/{failure.kind}", f"failures/stage/{failure.stage}")
    )
    out: Metrics = {
        "episode/void": float(sum(episode.is_void for episode in episodes)),
        "episode/retried": float(sum(episode.retried_failure is not None for episode in episodes)),
        "group/void_members": _mean(
            [sum(episode.is_void for episode in group) / len(group) for group in groups]
        ),
    }
    return {
        prefix + name: value
        for name, value in (
            _existing(out) | {n: float(c) for n, c in sorted(counts.items())}
        ).items()
    }


def drain_sandbox_metrics(world: World, *, prefix: str = "") -> Metrics:
    """Return the sandbox's times, counts, failures and bytes since the last call; reset them.

    Empty if the sandbox has no statistics.
    """
    if world.sandbox is None or world.sandbox.statistics is None:
        return {}
    numbers = world.sandbox.statistics.drain()
    return {f"{prefix}sandbox/{name}": number for name, number in numbers.items()}


def reward_metrics(episodes: Sequence[Episode]) -> Metrics:
    """Return the mean reward, and mean and deviation of each part where it applies."""
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
    """Return the mean contribution of each weighted term to the reward.

    The contributions add up to the mean reward. A term that does not apply contributes 0.
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
    """Return the success rate, overall and by level, of episodes with a known success."""
    known = [episode for episode in episodes if episode.success is not None]
    levels = sorted({episode.level for episode in known if episode.level})
    out: Metrics = {"success": _mean([float(bool(episode.success)) for episode in known])}
    for level in levels:
        out[f"success/level/{level}"] = _mean(
            [float(bool(episode.success)) for episode in known if episode.level == level]
        )
    return _existing(out)


def group_metrics(groups: Sequence[Sequence[Episode]]) -> Metrics:
    """Return metrics of the reward variance within groups. Groups of one member are excluded.

    `reward_std` is the mean of the groups' sample standard deviations (n - 1, as in TRL).
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
    """Return the shares of groups in which all members failed or all succeeded.

    Reported overall, by level and by template. Groups with fewer than two members with a known
    success are excluded.
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
    """Return turns, tool calls, lengths, dialects, stop reasons and seconds."""
    calls = sum(episode.tool_calls for episode in episodes)
    answers = [stop for episode in episodes for stop in episode.turn_stops]
    lengths = [
        float(sum(episode.tokens.loss_mask)) for episode in episodes if episode.tokens is not None
    ]
    out: Metrics = {
        "episode/turns": _mean([float(episode.turns) for episode in episodes]),
        "tools/call_frequency": calls / len(episodes),
        "tools/failure_frequency": sum(episode.tool_errors for episode in episodes) / calls
        if calls
        else 0.0,
        "tools/fault_frequency": sum(episode.tool_failures for episode in episodes) / calls
        if calls
        else 0.0,
        "completions/clipped_ratio": _mean([float(episode.is_clipped) for episode in episodes]),
    }
    if answers:
        out["completions/clipped_answers"] = _mean([float(stop != "stop") for stop in answers])
    if lengths:
        out |= {"completions/mean_length": _mean(lengths), "completions/min_length": min(lengths)}
        out |= {"completions/max_length": max(lengths)}
    rewritten = [len(episode.tokens.starts) for episode in episodes if episode.tokens is not None]
    if any(rewritten):
        out["episode/rewritten_turns"] = _mean([float(count) for count in rewritten])
    for place in _names(episode.seconds for episode in episodes):
        out[f"episode/seconds_{place}"] = _mean(
            [episode.seconds.get(place, 0.0) for episode in episodes]
        )
    modes: Counter[str] = Counter()
    for episode in episodes:
        modes.update(episode.dialects)
    stops = Counter(episode.stop_reason for episode in episodes)
    return out | _shares("dialect", modes) | _shares("stop", stops)


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
