"""Whether the grader tells right from nearly right: a wrong field or an extra write fails, a read changes nothing."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Iterator, Sequence
from typing import Any

from envgym.errors import WorldFailure
from envgym.evaluation.checks.fixture import Bench, CheckResult, Variant, told, verdict
from envgym.messages import ToolCall
from envgym.policies.scripted import random_call
from envgym.rewards.state_diff import same_value
from envgym.tasks import Task, stable_seed
from envgym.tools import Tool, validate

ATTEMPTS = 12
"""Random calls tried on a task to find one that writes, or one that only reads."""


def wrong_field(bench: Bench) -> CheckResult:
    """Each argument of a writing call that the truth mentions, set to something else: not solved.

    A task that expects no change is answered in words: there, another task's last message is said instead.
    """
    variants = [variant for task in bench.all_tasks for variant in _wrong_fields(bench, task)]
    variants += [variant for task in bench.all_tasks if (variant := _wrong_answer(bench, task))]
    episodes = bench.play_variants(variants)
    offenders = [
        f"{told(e)} though {v.what}"
        for v, e in zip(variants, episodes, strict=True)
        if e.success or e.void
    ]
    if not variants:
        return CheckResult(
            "wrong_field",
            False,
            "no task has a writing call whose arguments its `changes` mention, or an answer of its own",
        )
    return verdict(
        "wrong_field",
        offenders,
        f"{len(variants)} oracles with one wrong value, none solved its task",
    )


def extra_write(bench: Bench) -> CheckResult:
    """The oracle's calls and one more that changes another row: not solved."""
    variants = [variant for task in bench.all_tasks if (variant := _extra_write(bench, task))]
    episodes = bench.play_variants(variants)
    offenders = [
        f"{told(e)} though {v.what}"
        for v, e in zip(variants, episodes, strict=True)
        if e.success or e.void
    ]
    if not variants:
        return CheckResult(
            "extra_write",
            True,
            "not applicable: no call was found that changes a row outside `state.allow`",
        )
    return verdict(
        "extra_write",
        offenders,
        f"{len(variants)} oracles with one unasked write, none solved its task",
    )


def reads_free(bench: Bench) -> CheckResult:
    """Reading before the oracle's calls takes nothing away; only parts with a negative weight may make it cost something."""
    variants = [variant for task in bench.all_tasks if (variant := _with_reads(bench, task))]
    episodes = bench.play_variants(variants)
    offenders = [
        f"{told(e)} though {v.what}"
        for v, e in zip(variants, episodes, strict=True)
        if not _as_good(bench, v.task, e)
    ]
    if not variants:
        return CheckResult("reads_free", True, "not applicable: no call was found that only reads")
    return verdict(
        "reads_free",
        offenders,
        f"{len(variants)} oracles after reading first, all as good as without",
    )


def _as_good(bench: Bench, task: Task, episode: Any) -> bool:
    plain = bench.oracle[task.id]
    gains = [name for name, part in bench.world.rubric.parts.items() if part.weight > 0]
    same = all(episode.reward_parts.get(name) == plain.reward_parts.get(name) for name in gains)
    return episode.success == plain.success and same


# -- one wrong value ----------------------------------------------------------------------------------------------------


def _wrong_fields(bench: Bench, task: Task) -> Iterator[Variant]:
    db = bench.tables(task)
    try:
        for index in bench.writing_calls(task):
            call = task.oracle[index]
            for name in call.arguments:
                if _is_in_truth(call.arguments[name], task) and (
                    wrong := _altered(bench, task, call, name, db)
                ):
                    calls = (*task.oracle[:index], wrong, *task.oracle[index + 1 :])
                    yield Variant(task, calls, f"{call.name} got {name}={wrong.arguments[name]!r}")
    except WorldFailure:
        return  # a crashing oracle is told by oracle_max
    finally:
        db.close()


def _wrong_answer(bench: Bench, task: Task) -> Variant | None:
    """The oracle's calls and another task's answer, of the same template if one differs; None where words decide nothing."""
    if task.changes or task.check:
        return None
    others = sorted(bench.all_tasks, key=lambda other: other.template != task.template)
    final = next((other.final for other in others if other.final != task.final), None)
    return None if final is None else Variant(task, task.oracle, f"it said {final!r}", final)


def _is_in_truth(value: Any, task: Task) -> bool:
    """Whether the task's expected changes depend on this value: as a key, a cell or a column's name.

    Others, such as the free text of a note, may be chosen by the model, and a different one is not wrong.
    """
    truths = [
        truth
        for change in task.changes
        for truth in (change.key, *change.values, *change.values.values())
    ]
    return any(_alike(value, truth) for truth in truths)


def _alike(value: Any, truth: Any) -> bool:
    return same_value(value, truth) or (truth is not None and same_value(str(value), str(truth)))


def _altered(
    bench: Bench, task: Task, call: ToolCall, name: str, db: sqlite3.Connection
) -> ToolCall | None:
    """The call with another value of one argument that its tool's schema still allows; None where there is none."""
    tool = bench.world.tools[call.name]
    value = call.arguments[name]
    for other in _others(tool, name, value, task, bench, db):
        wrong = ToolCall(call.name, call.arguments | {name: other})
        if (
            not _alike(other, value)
            and not _is_in_truth(other, task)
            and not validate(tool, wrong.arguments)
        ):
            return wrong
    return None


def _others(
    tool: Tool, name: str, value: Any, task: Task, bench: Bench, db: sqlite3.Connection
) -> Iterator[Any]:
    """Other values, the most plausible first: another row's key, another choice, what other tasks use, a small change."""
    yield from _other_keys(task, value, bench, db)
    yield from tool.properties.get(name, {}).get("enum", ())
    yield from _values_elsewhere(bench, tool.name, name)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1)
    elif isinstance(value, str):
        yield from (f"{value} x", value[:-1], f"{value}0")
    elif isinstance(value, list):
        yield from (value[:-1], value + value[:1])


def _other_keys(task: Task, value: Any, bench: Bench, db: sqlite3.Connection) -> list[Any]:
    for change in task.changes:
        columns = bench.world.keys.get(change.table, ())
        if len(columns) == 1 and change.key is not None and _alike(value, change.key):
            rows = db.execute(
                f'SELECT "{columns[0]}" FROM "{change.table}" ORDER BY 1 LIMIT 20'
            ).fetchall()
            return [type(value)(key) for (key,) in rows]
    return []


def _values_elsewhere(bench: Bench, tool: str, name: str) -> list[Any]:
    calls = [call for task in bench.sample(20) for call in task.oracle]
    return [call.arguments[name] for call in calls if call.name == tool and name in call.arguments]


# -- one write too many, and reads -------------------------------------------------------------------------------------


def _extra_write(bench: Bench, task: Task) -> Variant | None:
    """The oracle's calls with one more just before a closing call, or at the end."""
    at = _before_closing(bench, task)
    try:
        with bench.probe(task, free=bench.world.spec.state.allow) as probe:
            done = set().union(*(probe.make(call).rows for call in task.oracle[:at]))
            extra = next(
                (call for call in _candidates(bench, task) if probe.make(call).rows - done), None
            )
    except WorldFailure:
        return None  # a tool that crashes is told by tool_declaration_accuracy
    if extra is None:
        return None
    return Variant(
        task,
        (*task.oracle[:at], extra, *task.oracle[at:]),
        f"{extra.name} {extra.arguments} was called as well",
    )


def _with_reads(bench: Bench, task: Task) -> Variant | None:
    """The oracle's calls after at most two that a tool accepts and that change nothing.

    Only tools that never wrote: in tables that the probe has changed, an update to the same value looks like a read.
    """
    reads: list[ToolCall] = []
    try:
        with bench.probe(task) as probe:
            for call in _candidates(bench, task):
                if len(reads) < 2 and call.name not in bench.writers:
                    effect = probe.make(call)
                    if effect.rows:
                        return None
                    reads += [call] if effect.ok else []
    except WorldFailure:
        return None
    names = ", ".join(f"{call.name} {call.arguments}" for call in reads)
    return Variant(task, (*reads, *task.oracle), f"only {names} was read first") if reads else None


def _before_closing(bench: Bench, task: Task) -> int:
    closing = bench.world.spec.episode.closes_with
    return next(
        (index for index, call in enumerate(task.oracle) if call.name in closing), len(task.oracle)
    )


def _candidates(bench: Bench, task: Task) -> Iterator[ToolCall]:
    """Calls worth trying: the oracle's own, the same on other rows, then random ones of every tool offered."""
    offered = bench.world.tools_of(task)
    closing = bench.world.spec.episode.closes_with
    tools = [tool for name, tool in offered.items() if name not in closing]
    own = [call for call in task.oracle if call.name not in closing]
    rng = random.Random(stable_seed(task.id, "candidates"))
    words = _words(bench, task)
    yield from own
    for call in own:
        yield from _on_other_rows(call, words)
    for _ in range(ATTEMPTS if tools else 0):
        yield random_call(rng.choice(tools), rng, words)


def _on_other_rows(call: ToolCall, keys: Sequence[str]) -> Iterator[ToolCall]:
    for name, value in call.arguments.items():
        alike = [
            key
            for key in keys
            if isinstance(value, str)
            and key != value
            and key[:1] == value[:1]
            and len(key) == len(value)
        ]
        for key in alike[:2]:
            yield ToolCall(call.name, call.arguments | {name: key})


def _words(bench: Bench, task: Task) -> list[str]:
    """Keys of the starting tables: what random calls can do something with."""
    db = bench.tables(task)
    try:
        found = []
        for table, columns in bench.world.keys.items():
            if len(columns) == 1:
                found += [
                    str(key)
                    for (key,) in db.execute(
                        f'SELECT "{columns[0]}" FROM "{table}" ORDER BY 1 LIMIT 12'
                    )
                ]
        return found
    finally:
        db.close()
