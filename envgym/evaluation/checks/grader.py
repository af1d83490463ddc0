"""Grader checks: a wrong field or an extra write fails the task, and a read changes no reward."""

from __future__ import annotations

import random
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from typing import Any

from envgym.episode import Episode
from envgym.errors import WorldFailure
from envgym.evaluation.checks.fixture import (
    CheckFixture,
    CheckResult,
    Variant,
    check_result,
    describe_episode,
)
from envgym.messages import ToolCall
from envgym.policies.random import random_call
from envgym.tasks import Task, stable_seed
from envgym.tools import Tool, validate
from envgym.values import equal, fold

ATTEMPTS = 12
"""Number of random calls tried per task to find one that writes, or one that only reads."""


def wrong_field(fixture: CheckFixture) -> CheckResult:
    """Check that a task is not solved if one argument of a writing call is wrong.

    Only arguments that the expected changes depend on are altered. For a task that expects no
    change, the final message of another task is used instead.
    """
    variants = [variant for task in fixture.all_tasks for variant in _wrong_fields(fixture, task)]
    variants += [variant for task in fixture.all_tasks if (variant := _wrong_answer(fixture, task))]
    if not variants:
        return CheckResult(
            "wrong_field",
            False,
            "no task has a writing call whose arguments occur in its `changes`, "
            "or a different final message",
        )
    offenders = _offenders(fixture, variants, _is_unsolved)
    passed = f"{len(variants)} oracle solutions with one wrong value, none solved its task"
    return check_result("wrong_field", offenders, passed)


def extra_write(fixture: CheckFixture) -> CheckResult:
    """Check that a task is not solved if one more write to another row is added."""
    variants = [variant for task in fixture.all_tasks if (variant := _extra_write(fixture, task))]
    if not variants:
        return CheckResult(
            "extra_write",
            True,
            "not applicable: no call found that changes a row outside `state.allow`",
        )
    offenders = _offenders(fixture, variants, _is_unsolved)
    passed = f"{len(variants)} oracle solutions with one unexpected write, none solved its task"
    return check_result("extra_write", offenders, passed)


def reads_free(fixture: CheckFixture) -> CheckResult:
    """Check that reads before the oracle's calls do not lower any part with a positive weight."""
    variants = [variant for task in fixture.all_tasks if (variant := _with_reads(fixture, task))]
    if not variants:
        return CheckResult("reads_free", True, "not applicable: no call found that only reads")
    offenders = _offenders(fixture, variants, lambda v, e: _as_good(fixture, v.task, e))
    passed = f"{len(variants)} oracle solutions with reads first, all with the same result"
    return check_result("reads_free", offenders, passed)


def _offenders(
    fixture: CheckFixture,
    variants: Sequence[Variant],
    is_right: Callable[[Variant, Episode], bool],
) -> list[str]:
    """Play all variants and describe those with a wrong result."""
    episodes = fixture.play_variants(variants)
    return [
        f"{describe_episode(episode)} though {variant.what}"
        for variant, episode in zip(variants, episodes, strict=True)
        if not is_right(variant, episode)
    ]


def _is_unsolved(variant: Variant, episode: Episode) -> bool:
    return not episode.success and not episode.is_void


def _as_good(fixture: CheckFixture, task: Task, episode: Episode) -> bool:
    plain = fixture.oracle[task.id]
    gains = [name for name, part in fixture.world.rubric.parts.items() if part.weight > 0]
    same = all(episode.reward_parts.get(name) == plain.reward_parts.get(name) for name in gains)
    return episode.success == plain.success and same


# -- one wrong value ------------------------------------------------------------------------------


def _wrong_fields(fixture: CheckFixture, task: Task) -> Iterator[Variant]:
    db = fixture.tables(task)
    try:
        for index in fixture.writing_calls(task):
            call = task.oracle[index]
            for name in call.arguments:
                if _is_in_truth(call.arguments[name], task) and (
                    wrong := _altered(fixture, task, call, name, db)
                ):
                    calls = (*task.oracle[:index], wrong, *task.oracle[index + 1 :])
                    yield Variant(task, calls, f"{call.name} got {name}={wrong.arguments[name]!r}")
    except WorldFailure:
        return  # oracle_max reports an oracle that crashes
    finally:
        db.close()


def _wrong_answer(fixture: CheckFixture, task: Task) -> Variant | None:
    """Return the oracle's calls with the final message of another task.

    A task of the same template is preferred. Return None if the final message does not decide the
    result.
    """
    if task.changes or task.check:
        return None
    others = sorted(fixture.all_tasks, key=lambda other: other.template != task.template)
    final = next((other.final for other in others if other.final != task.final), None)
    return None if final is None else Variant(task, task.oracle, f"it answered {final!r}", final)


def _is_in_truth(value: Any, task: Task) -> bool:
    """Return whether the expected changes depend on this value: as a key, a cell or a column name.

    The model may choose other values, such as the text of a note, so a different one is not wrong.
    """
    truths = [
        truth
        for change in task.changes
        for truth in (change.key, *change.values, *change.values.values())
    ]
    return any(_alike(value, truth) for truth in truths)


def _alike(value: Any, truth: Any) -> bool:
    return equal(value, truth, folded=True) or (
        truth is not None and fold(str(value)) == fold(str(truth))
    )


def _altered(
    fixture: CheckFixture, task: Task, call: ToolCall, name: str, db: sqlite3.Connection
) -> ToolCall | None:
    """Return the call with one other argument value that the tool's schema allows, or None."""
    tool = fixture.world.tools[call.name]
    value = call.arguments[name]
    for other in _others(tool, name, value, task, fixture, db):
        wrong = ToolCall(call.name, call.arguments | {name: other})
        if (
            not _alike(other, value)
            and not _is_in_truth(other, task)
            and not validate(tool, wrong.arguments)
        ):
            return wrong
    return None


def _others(
    tool: Tool, name: str, value: Any, task: Task, fixture: CheckFixture, db: sqlite3.Connection
) -> Iterator[Any]:
    """Yield other values, the most plausible first.

    The order is: keys of other rows, other enum values, values used by other tasks, small changes.
    """
    yield from _other_keys(task, value, fixture, db)
    yield from tool.properties.get(name, {}).get("enum", ())
    yield from _values_elsewhere(fixture, tool.name, name)
    if isinstance(value, bool):
        yield not value
    elif isinstance(value, int | float):
        yield from (value + 1, value - 1)
    elif isinstance(value, str):
        yield from (f"{value} x", value[:-1], f"{value}0")
    elif isinstance(value, list):
        yield from (value[:-1], value + value[:1])


def _other_keys(task: Task, value: Any, fixture: CheckFixture, db: sqlite3.Connection) -> list[Any]:
    for change in task.changes:
        columns = fixture.world.keys.get(change.table, ())
        if len(columns) == 1 and change.key is not None and _alike(value, change.key):
            rows = db.execute(
                f'SELECT "{columns[0]}" FROM "{change.table}" ORDER BY 1 LIMIT 20'
            ).fetchall()
            return [type(value)(key) for (key,) in rows]
    return []


def _values_elsewhere(fixture: CheckFixture, tool: str, name: str) -> list[Any]:
    calls = [call for task in fixture.sample(20) for call in task.oracle]
    return [call.arguments[name] for call in calls if call.name == tool and name in call.arguments]


# -- extra writes and reads -----------------------------------------------------------------------


def _extra_write(fixture: CheckFixture, task: Task) -> Variant | None:
    """Return the oracle's calls with one more write, before a closing call or at the end."""
    at = _before_closing(fixture, task)
    try:
        with fixture.probe(task, free=fixture.world.spec.state.allow) as probe:
            done = set().union(*(probe.make(call).rows for call in task.oracle[:at]))
            extra = next(
                (call for call in _candidates(fixture, task) if probe.make(call).rows - done), None
            )
    except WorldFailure:
        return None  # tool_declaration_accuracy reports a tool that crashes
    if extra is None:
        return None
    return Variant(
        task,
        (*task.oracle[:at], extra, *task.oracle[at:]),
        f"{extra.name} {extra.arguments} was called too",
    )


def _with_reads(fixture: CheckFixture, task: Task) -> Variant | None:
    """Return the oracle's calls after at most two accepted calls that change no row.

    Tools that have written before are excluded: after a change, an update to the same value looks
    like a read.
    """
    reads: list[ToolCall] = []
    try:
        with fixture.probe(task) as probe:
            for call in _candidates(fixture, task):
                if len(reads) < 2 and call.name not in fixture.writers:
                    effect = probe.make(call)
                    if effect.rows:
                        return None
                    reads += [call] if effect.ok else []
    except WorldFailure:
        return None
    names = ", ".join(f"{call.name} {call.arguments}" for call in reads)
    return Variant(task, (*reads, *task.oracle), f"only {names} was read first") if reads else None


def _before_closing(fixture: CheckFixture, task: Task) -> int:
    closing = fixture.world.spec.episode.closing_tools
    return next(
        (index for index, call in enumerate(task.oracle) if call.name in closing), len(task.oracle)
    )


def _candidates(fixture: CheckFixture, task: Task) -> Iterator[ToolCall]:
    """Yield calls to try: the oracle's calls, the same calls on other rows, then random ones."""
    offered = fixture.world.tools_of(task)
    closing = fixture.world.spec.episode.closing_tools
    tools = [tool for name, tool in offered.items() if name not in closing]
    own = [call for call in task.oracle if call.name not in closing]
    rng = random.Random(stable_seed(task.id, "candidates"))
    words = _words(fixture, task)
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


def _words(fixture: CheckFixture, task: Task) -> list[str]:
    """Return keys of the initial tables, so that random calls refer to existing rows."""
    db = fixture.tables(task)
    try:
        found = []
        for table, columns in fixture.world.keys.items():
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
