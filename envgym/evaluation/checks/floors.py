"""The ceiling and the floors: knowing the truth gets everything, doing nothing or anything gets nothing."""

from __future__ import annotations

import json
import math
from collections import Counter

from envgym.episode import Episode
from envgym.evaluation.checks.fixture import Bench, CheckResult, told, verdict
from envgym.evaluation.stats import wilson_interval
from envgym.messages import ToolCall
from envgym.policies.scripted import NoopPolicy, OraclePolicy, RandomPolicy, RefusePolicy
from envgym.terms import placed, total

CANARY_TASKS = 24
"""Tasks of each split that a canary plays."""
MAX_REFUSALS = 4
"""Different closing calls that are tried."""


def oracle_max(bench: Bench) -> CheckResult:
    """The oracle solves every task and gets all that the rubric can give."""
    offenders = []
    for task, episode in zip(
        bench.all_tasks, bench.play(OraclePolicy(bench.dialect), bench.all_tasks), strict=True
    ):
        bench.oracle[task.id] = episode
        got, best = _earned(bench, episode)
        if not episode.success or episode.reward is None or got < best - 1e-9:
            unmet = "" if episode.void or episode.success else _unmet(episode)
            offenders.append(f"{told(episode)} of {best:g}{unmet}")
    return verdict(
        "oracle_max",
        offenders,
        f"{len(bench.all_tasks)} tasks solved by their oracle, each with the full reward",
    )


def floor_gap(bench: Bench) -> CheckResult:
    """Doing nothing earns nothing on any task: 0, or less where a part goes below 0."""
    episodes = bench.play(NoopPolicy(), bench.all_tasks)
    offenders = [
        told(episode)
        for episode in episodes
        if episode.success or episode.reward is None or episode.reward > 0.0
    ]
    return verdict(
        "floor_gap", offenders, f"doing nothing earns nothing on all {len(episodes)} tasks"
    )


def canary_refuse(bench: Bench, ceiling: float) -> CheckResult:
    """Always refusing, in words or by any one closing call, stays at the floor."""
    tasks = bench.sample(CANARY_TASKS)
    worst = (0.0, "in words")
    for call in [None, *_closing_calls(bench)]:
        episodes = bench.play(RefusePolicy(call, bench.dialect), tasks)
        rate = sum(bool(episode.success) for episode in episodes) / len(episodes)
        worst = max(worst, (rate, f"{call.name} {call.arguments}" if call else "in words"))
    rate, how = worst
    words = f"always refusing solves at most {rate:.1%} of {len(tasks)} tasks ({how}); allowed {ceiling:.0%}"
    return CheckResult("canary_floor.refuse", _at_floor(rate, len(tasks), ceiling), words)


def canary_random(bench: Bench, ceiling: float) -> CheckResult:
    """Random valid calls stay at the floor. Of tasks answered in words nothing is said: a label is guessed now and then."""
    if not bench.world.tools:
        return CheckResult("canary_floor.random", True, "not applicable: there is no tool to call")
    episodes = bench.play(_random_policy(bench), bench.all_tasks)
    solved = [episode.task_id for episode in episodes if episode.success]
    rate = len(solved) / len(episodes)
    named = f", such as {', '.join(solved[:3])}" if solved else ""
    words = f"random calls solve {rate:.1%} of {len(episodes)} tasks{named}; allowed {ceiling:.0%}"
    return CheckResult("canary_floor.random", _at_floor(rate, len(episodes), ceiling), words)


def tool_declaration_accuracy(bench: Bench) -> CheckResult:
    """What a tool's schema allows, the tool takes or refuses politely: it never crashes."""
    if not bench.world.tools:
        return CheckResult(
            "tool_declaration_accuracy", True, "not applicable: there is no tool to call"
        )
    episodes = bench.play(
        RandomPolicy(list(bench.world.tools.values()), max_calls=8, dialect=bench.dialect),
        bench.all_tasks,
    )
    offenders = [told(episode) for episode in episodes if episode.void]
    calls = sum(episode.tool_calls for episode in episodes)
    return verdict(
        "tool_declaration_accuracy", offenders, f"{calls} random valid calls, no tool crashed"
    )


def _at_floor(rate: float, trials: int, ceiling: float) -> bool:
    """Whether a rate may be at the ceiling or below, so that a handful of tasks convicts nobody by bad luck."""
    return wilson_interval(round(rate * trials), trials)[0] <= ceiling


def _random_policy(bench: Bench) -> RandomPolicy:
    return RandomPolicy(list(bench.world.tools.values()), dialect=bench.dialect)


def _earned(bench: Bench, episode: Episode) -> tuple[float, float]:
    """What the parts that judge the whole episode gave this one, and the most that those which applied can give."""
    rules = bench.world.rubric.rules
    terms = {
        name: term
        for name, term in episode.reward_terms.items()
        if name in rules and rules[name].per == "episode"
    }
    applied = [(term.weight, rules[name]) for name, term in terms.items() if term.value is not None]
    best = [max(weight * placed(rule, said, 0) for said in (0.0, 1.0)) for weight, rule in applied]
    return total(terms), math.fsum(best)


def _unmet(episode: Episode) -> str:
    missing, extra = (len(episode.state_diff.get(key, ())) for key in ("missing", "extra"))
    return f", {missing} expected changes missing, {extra} unasked"


def _closing_calls(bench: Bench) -> list[ToolCall]:
    """The closing calls that the oracles make most often: whoever always makes one of them gets furthest."""
    closing = bench.world.spec.episode.closes_with
    made = [call for task in bench.all_tasks for call in task.oracle if call.name in closing]
    ranked = Counter(json.dumps(call.to_dict(), sort_keys=True) for call in made).most_common(
        MAX_REFUSALS
    )
    return [ToolCall(**json.loads(text)) for text, _ in ranked]
