"""Reward bounds: the full reward for the oracle, none for doing nothing or random calls."""

from __future__ import annotations

import json
import math
from collections import Counter

from envgym.episode import Episode
from envgym.evaluation.checks.fixture import (
    CheckFixture,
    CheckResult,
    check_result,
    describe_episode,
)
from envgym.evaluation.stats import percent_text, wilson_interval
from envgym.messages import ToolCall
from envgym.policies.noop import NoopPolicy
from envgym.policies.random import RandomPolicy
from envgym.policies.refuse import RefusePolicy
from envgym.terms import placed, total

CANARY_TASKS = 24
"""Number of tasks per split for the canary checks."""
MAX_REFUSALS = 4
"""Number of different closing calls that are tried."""


def oracle_max(fixture: CheckFixture) -> CheckResult:
    """Check that the oracle solves every task and gets the maximum reward of the rubric."""
    offenders = []
    for episode in fixture.oracle.values():
        got, best = _earned(fixture, episode)
        if not episode.success or episode.reward is None or got < best - 1e-9:
            unmet = "" if episode.is_void or episode.success else _unmet(episode)
            offenders.append(f"{describe_episode(episode)} of {best:g}{unmet}")
    return check_result(
        "oracle_max",
        offenders,
        f"{len(fixture.all_tasks)} tasks solved by their oracle, each with the full reward",
    )


def floor_gap(fixture: CheckFixture) -> CheckResult:
    """Check that doing nothing gets no positive reward on any task."""
    episodes = fixture.play(NoopPolicy(), fixture.all_tasks)
    offenders = [
        describe_episode(episode)
        for episode in episodes
        if episode.success or episode.reward is None or episode.reward > 0.0
    ]
    return check_result(
        "floor_gap", offenders, f"doing nothing gets no reward on all {len(episodes)} tasks"
    )


def canary_refuse(fixture: CheckFixture, ceiling: float) -> CheckResult:
    """Check that a constant refusal, in words or by one closing call, rarely solves a task."""
    tasks = fixture.sample(CANARY_TASKS)
    worst = (0.0, "in words")
    for call in [None, *_closing_calls(fixture)]:
        episodes = fixture.play(RefusePolicy(call, fixture.dialect), tasks)
        rate = sum(bool(episode.success) for episode in episodes) / len(episodes)
        worst = max(worst, (rate, f"{call.name} {call.arguments}" if call else "in words"))
    rate, how = worst
    words = (
        f"always refusing solves at most {percent_text(rate)}% of {len(tasks)} tasks ({how}); "
        f"allowed {percent_text(ceiling)}%"
    )
    return CheckResult("canary_floor.refuse", _at_floor(rate, len(tasks), ceiling), words)


def canary_random(fixture: CheckFixture, ceiling: float) -> CheckResult:
    """Check that random valid calls rarely solve a task.

    It does not apply to tasks answered in words, where a label can be guessed.
    """
    if not fixture.world.tools:
        return CheckResult("canary_floor.random", True, "not applicable: there are no tools")
    episodes = fixture.play(_random_policy(fixture), fixture.all_tasks)
    solved = [episode.task_id for episode in episodes if episode.success]
    rate = len(solved) / len(episodes)
    named = f", such as {', '.join(solved[:3])}" if solved else ""
    words = (
        f"random calls solve {percent_text(rate)}% of {len(episodes)} tasks{named}; "
        f"allowed {percent_text(ceiling)}%"
    )
    return CheckResult("canary_floor.random", _at_floor(rate, len(episodes), ceiling), words)


def tool_declaration_accuracy(fixture: CheckFixture) -> CheckResult:
    """Check that no tool fails for arguments that its schema allows. It may reject them."""
    if not fixture.world.tools:
        return CheckResult("tool_declaration_accuracy", True, "not applicable: there are no tools")
    episodes = fixture.play(
        RandomPolicy(list(fixture.world.tools.values()), max_calls=8, dialect=fixture.dialect),
        fixture.all_tasks,
    )
    offenders = [describe_episode(episode) for episode in episodes if episode.is_void]
    faults = {fault: episode for episode in episodes for fault in episode.tool_faults}
    offenders += [f"{fault} (task {episode.task_id})" for fault, episode in faults.items()]
    calls = sum(episode.tool_calls for episode in episodes)
    return check_result(
        "tool_declaration_accuracy", offenders, f"{calls} random valid calls, no tool failed"
    )


def tool_failures(fixture: CheckFixture) -> CheckResult:
    """Check that no tool failed in the episodes and probes of all earlier checks."""
    offenders = [f"{fault} (task {task_id})" for fault, task_id in fixture.faults.items()]
    return check_result("tool_failures", offenders, "no tool failed in any check")


def _at_floor(rate: float, trials: int, ceiling: float) -> bool:
    """Return whether the rate may be at or below the ceiling, at 95 % confidence.

    The interval keeps a small number of tasks from failing the check by chance.
    """
    return wilson_interval(round(rate * trials), trials)[0] <= ceiling


def _random_policy(fixture: CheckFixture) -> RandomPolicy:
    return RandomPolicy(list(fixture.world.tools.values()), dialect=fixture.dialect)


def _earned(fixture: CheckFixture, episode: Episode) -> tuple[float, float]:
    """Return the reward of the parts with `per: episode`, and the maximum of those that applied."""
    rules = fixture.world.rubric.rules
    terms = {
        name: term
        for name, term in episode.reward_terms.items()
        if name in rules and rules[name].per == "episode"
    }
    applied = [(term.weight, rules[name]) for name, term in terms.items() if term.value is not None]
    best = [max(weight * placed(rule, raw, 0) for raw in (0.0, 1.0)) for weight, rule in applied]
    return total(terms), math.fsum(best)


def _unmet(episode: Episode) -> str:
    missing, extra = (len(episode.state_diff.get(key, ())) for key in ("missing", "extra"))
    return f", {missing} expected changes missing, {extra} unexpected"


def _closing_calls(fixture: CheckFixture) -> list[ToolCall]:
    """Return the most frequent closing calls of the oracles, the best constant answers."""
    closing = fixture.world.spec.episode.closing_tools
    made = [call for task in fixture.all_tasks for call in task.oracle if call.name in closing]
    ranked = Counter(json.dumps(call.to_dict(), sort_keys=True) for call in made).most_common(
        MAX_REFUSALS
    )
    return [ToolCall(**json.loads(text)) for text, _ in ranked]
