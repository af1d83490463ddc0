"""Workload for a sandbox without a model: open a session, replay the oracle's calls, diff, close.

Used by `envgym sandbox bench` and `benchmarks/sandbox.py`.
"""

from __future__ import annotations

import contextlib
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

from envgym.errors import WorldFailure
from envgym.messages import ToolCall
from envgym.sandbox import Sandbox
from envgym.tasks import Task

GROUP = 8
"""Number of consecutive episodes that start from the same state, like a group in training."""


@dataclass(frozen=True, slots=True)
class WorkloadEpisode:
    """Seed and calls of one episode."""

    seed: int
    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class WorkloadResult:
    """Totals over all episodes of a workload."""

    episodes: int
    void: int
    """Number of episodes that failed because of the sandbox."""
    calls: int
    seconds: float
    """Wall time in seconds."""
    host_cpu_seconds: float
    """CPU seconds of this process."""


def works_of(tasks: Sequence[Task], episodes: int) -> list[WorkloadEpisode]:
    """Return `episodes` workload episodes from the tasks' oracles, one group per task in turn."""
    order = [tasks[number // GROUP % len(tasks)] for number in range(episodes)]
    return [WorkloadEpisode(task.seed, task.oracle) for task in order]


def play_works(
    sandbox: Sandbox,
    works: Sequence[WorkloadEpisode],
    *,
    sessions: int,
    now: str,
    timeout_seconds: float = 60.0,
    on_episode: Callable[[], Any] = lambda: None,
) -> WorkloadResult:
    """Play every workload episode once.

    Args:
        sessions: Number of threads, and so of concurrent sessions.
        now: Virtual time for the tools in ISO 8601.
        timeout_seconds: Time limit of each operation.
        on_episode: Called in the playing thread when an episode ends.

    Raises:
        PrerequisiteError, SpecError: If the sandbox cannot be used. A WorldFailure voids its
            episode.
    """

    def play(work: WorkloadEpisode) -> bool:
        try:
            _play(sandbox, work, now, timeout_seconds)
        except WorldFailure:
            return False
        finally:
            on_episode()
        return True

    wall = time.perf_counter()
    cpu = time.process_time()
    with ThreadPoolExecutor(sessions, thread_name_prefix="bench") as pool:
        well = sum(pool.map(play, works))
    return WorkloadResult(
        len(works),
        len(works) - well,
        sum(len(work.calls) for work in works),
        time.perf_counter() - wall,
        time.process_time() - cpu,
    )


def _play(sandbox: Sandbox, work: WorkloadEpisode, now: str, timeout_seconds: float) -> None:
    session = sandbox.open(seed=work.seed, timeout_seconds=timeout_seconds)
    try:
        for call in work.calls:
            session.call(call.name, call.arguments, now=now, timeout_seconds=timeout_seconds)
        session.finish(timeout_seconds=timeout_seconds)
    finally:
        session.close()


def hold_sessions(
    sandbox: Sandbox,
    works: Sequence[WorkloadEpisode],
    *,
    now: str,
    look: Callable[[], Any],
    timeout_seconds: float = 60.0,
) -> Any:
    """Open a session per workload episode, make its calls, and return the result of `look`."""
    with contextlib.ExitStack() as held:
        for work in works:
            session = sandbox.open(seed=work.seed, timeout_seconds=timeout_seconds)
            held.callback(session.close)
            for call in work.calls:
                session.call(call.name, call.arguments, now=now, timeout_seconds=timeout_seconds)
        return look()
