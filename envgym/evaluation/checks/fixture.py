"""Fixture shared by the checks: a world, its tasks, ways to play them, and a probe for calls."""

from __future__ import annotations

import contextlib
import sqlite3
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import timedelta
from functools import cached_property
from typing import Any

from envgym.dialects import render_call
from envgym.env import ToolWorld
from envgym.episode import Episode
from envgym.messages import ToolCall
from envgym.playing import Request, play_many
from envgym.policies import Policy
from envgym.policies.oracle import OraclePolicy
from envgym.policies.scripted import ScriptDialogue
from envgym.rewards.row_pairs import diff_rows, matches
from envgym.sandbox import Session
from envgym.sandbox.agent.work_folder import TABLE as FILES
from envgym.tasks import Task

WORKERS = 16
EXTRA_TURNS = 8
"""Turns added to the limit if a check adds calls to the oracle's. The check must test the grader,
not the limit."""


@dataclass(frozen=True, slots=True)
class CheckResult:
    """Result of one check."""

    id: str
    """Name of the check, following OpenEnv RFC 008 if it defines one."""
    passed: bool
    detail: str
    """Numbers if the check passed; the first offenders if it failed."""
    warning: bool = False
    """Whether a passed check found something that a person should read."""


def check_result(check: str, offenders: Sequence[str], passed: str) -> CheckResult:
    """Return a passed result if there are no offenders; otherwise a failed one that names three."""
    if not offenders:
        return CheckResult(check, True, passed)
    more = f"; and {len(offenders) - 3} more" if len(offenders) > 3 else ""
    return CheckResult(check, False, "; ".join(offenders[:3]) + more)


def _ignore(episode: Episode) -> None:
    """Do nothing with an episode."""


@dataclass
class CheckFixture:
    """World under test, with its tasks."""

    world: ToolWorld
    tasks: dict[str, list[Task]]
    """Tasks under test by split."""
    on_episode: Callable[[Episode], None] = _ignore
    """Called after each episode."""
    writers: set[str] = field(default_factory=set)
    """Names of the tools that have changed a table in any probe."""
    faults: dict[str, str] = field(default_factory=dict)
    """Failures of tools with file and line, in episodes and probes, and a task of each."""

    @cached_property
    def oracle(self) -> dict[str, Episode]:
        """Episode of the oracle by task id, played on first use."""
        tasks = self.all_tasks
        episodes = self.play(OraclePolicy(self.dialect), tasks)
        return {task.id: episode for task, episode in zip(tasks, episodes, strict=True)}

    @property
    def all_tasks(self) -> list[Task]:
        return [task for tasks in self.tasks.values() for task in tasks]

    @property
    def dialect(self) -> str:
        return self.world.spec.prompt.dialects[0]

    def sample(self, count: int) -> list[Task]:
        """Return at most `count` tasks of each split, evenly spaced.

        Task ids alternate between templates, so all templates are represented.
        """
        return [task for tasks in self.tasks.values() for task in spread(tasks, count)]

    def play(
        self, policy: Policy, tasks: Sequence[Task], *, workers: int = WORKERS
    ) -> list[Episode]:
        """Play one episode per task with seed 0, under the limits of the environment."""
        requests = [Request(task.id, 0) for task in tasks]
        return self._play_many(self.world, policy, requests, workers)

    def play_variants(self, variants: Sequence[Variant]) -> list[Episode]:
        """Play one episode per variant, with a turn limit that allows the added turns."""
        spec = self.world.spec
        episode = spec.episode.model_copy(
            update={"max_turns": spec.episode.max_turns + EXTRA_TURNS, "spare_turns": None}
        )
        roomy = ToolWorld(spec.model_copy(update={"episode": episode}), sandbox=self.world.sandbox)
        requests = [Request(variant.task.id, index) for index, variant in enumerate(variants)]
        policy = _Variants(variants, self.dialect)
        with contextlib.closing(roomy.rubric):  # the sandbox is shared
            return self._play_many(roomy, policy, requests, WORKERS)

    def _play_many(
        self, world: ToolWorld, policy: Policy, requests: Sequence[Request], workers: int
    ) -> list[Episode]:
        return play_many(world.env, policy, requests, workers=workers, on_episode=self._note)

    def _note(self, episode: Episode) -> None:
        self.note_faults(episode.tool_faults, episode.task_id)
        self.on_episode(episode)

    def note_faults(self, faults: Sequence[str], task_id: str) -> None:
        """Record failures of tools in an episode or a probe of a task."""
        for fault in faults:
            self.faults.setdefault(fault, task_id)

    @contextmanager
    def probe(self, task: Task, *, free: Sequence[str] = ()) -> Iterator[Probe]:
        """Open a session on the task's initial tables, outside of any episode.

        Args:
            task: Task that defines the initial state.
            free: Tables (patterns) in which changes are ignored.
        """
        session = self.world.sandbox.open(
            seed=task.seed, timeout_seconds=self.world.spec.sandbox.open_timeout_seconds
        )
        try:
            probe = Probe(self.world, session, free, on_write=self.writers.add)
            yield probe
            self.note_faults(probe.faults, task.id)
        finally:
            session.close()

    def writing_calls(self, task: Task) -> list[int]:
        """Return the indices of the oracle's calls that change a table."""
        with self.probe(task) as probe:
            return [index for index, call in enumerate(task.oracle) if probe.make(call).rows]

    def tables(self, task: Task) -> sqlite3.Connection:
        """Return a private copy of the task's initial tables, with a table for its files."""
        tasks = self.world.tasks
        db = tasks.tables(task.seed)
        if self.world.spec.state.files:
            db.execute(
                f"CREATE TABLE {FILES} (path TEXT PRIMARY KEY, kind TEXT, mode TEXT, text TEXT)"
            )
            db.executemany(
                f"INSERT INTO {FILES} VALUES (:path, :kind, :mode, :text)", tasks.files(task.seed)
            )
        return db


@dataclass(frozen=True, slots=True)
class Variant:
    """Modified solution of a task, based on the oracle's calls."""

    task: Task
    calls: tuple[ToolCall, ...]
    what: str
    """Description of the modification, for the report."""
    final: str | None = None
    """Final message; None for the task's message."""


@dataclass(frozen=True)
class _Variants:
    """Policy that plays the variant whose index is the seed."""

    variants: Sequence[Variant]
    dialect: str

    def open(
        self, messages: Any, tools: Any, *, seed: int, task: Task | None = None
    ) -> ScriptDialogue:
        variant = self.variants[seed]
        texts = [render_call(call, self.dialect) for call in variant.calls]
        final = variant.task.final if variant.final is None else variant.final
        return ScriptDialogue(lambda turn: texts[turn] if turn < len(texts) else final)


@dataclass(frozen=True, slots=True)
class Effect:
    """Effect of one call."""

    ok: bool
    """Whether the tool accepted the call."""
    rows: set[tuple[str, str]]
    """(table, key) of the changed rows; empty for a read or a rejected call. Volatile columns are
    ignored."""


class Probe:
    """Make calls in a session and report the effect of each one, without a grader.

    Args:
        world: World of the session.
        session: Session in which the calls are made.
        free: Tables (patterns) in which changes are ignored.
        on_write: Called with the name of each tool that changed a table.
    """

    def __init__(
        self,
        world: ToolWorld,
        session: Session,
        free: Sequence[str],
        *,
        on_write: Callable[[str], None],
    ):
        self._world = world
        self._session = session
        self._free = free
        self._on_write = on_write
        self._rows = self._changed_rows()
        self._made = 0
        self.faults: list[str] = []
        """Failures of tools in the calls that were made."""

    def make(self, call: ToolCall) -> Effect:
        """Make one call and return its effect.

        Raises:
            WorldFailure: If the session fails.
        """
        spec = self._world.spec
        now = (
            spec.state.clock_start + timedelta(seconds=spec.state.clock_step_seconds * self._made)
        ).isoformat()
        result = self._session.call(
            call.name, call.arguments, now=now, timeout_seconds=spec.episode.tool_timeout_seconds
        )
        if result.fault:
            self.faults.append(result.fault)
        before = self._rows
        self._rows = self._changed_rows()
        self._made += 1
        changed = {name for name, row in self._rows.items() if before.get(name) != row} | (
            before.keys() - self._rows.keys()
        )
        if changed:
            self._on_write(call.name)
        return Effect(result.ok, changed)

    def _changed_rows(self) -> dict[tuple[str, str], str]:
        spec = self._world.spec
        changes = self._session.diff(timeout_seconds=spec.episode.tool_timeout_seconds)
        rows = diff_rows(changes, self._world.keys, volatile=spec.state.volatile)
        # In a table without a primary key, the content of a row is its name.
        named = [
            ((row.table, repr(row.key if row.key is not None else row.after)), row) for row in rows
        ]
        return {
            name: repr((row.kind, row.after))
            for name, row in named
            if not matches(row.table, self._free)
        }


def spread(items: Sequence[Any], count: int) -> list[Any]:
    """Return at most `count` items at equal distances."""
    if len(items) <= count:
        return list(items)
    return [items[i * len(items) // count] for i in range(count)]


def describe_episode(episode: Episode) -> str:
    """Return a short description of an episode for a report."""
    if episode.failure is not None:
        return (
            f"{episode.task_id}: void, {episode.failure.kind} in {episode.failure.stage}: "
            f"{episode.failure.message[-160:]}"
        )
    return f"{episode.task_id}: reward {episode.reward:g}, {episode.stop_reason}"
