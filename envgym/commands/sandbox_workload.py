"""Work for a sandbox without a model: episodes that open a session, make the calls of a task's oracle, diff and close.

Used by `envgym sandbox bench` and `benchmarks/sandbox.py`. Left out: parsing, rewards and tokens, which are no sandbox's.
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
"""Episodes that start from one state, one after the other, as those of a group in training do."""


@dataclass(frozen=True, slots=True)
class Work:
    """What one episode does."""

    seed: int
    calls: tuple[ToolCall, ...]


@dataclass(frozen=True, slots=True)
class Played:
    """How some episodes went."""

    episodes: int
    void: int
    """Of these, the ones in which the world broke."""
    calls: int
    seconds: float
    """Wall time of all together."""
    host_cpu_seconds: float
    """Processor time of this process."""


def works_of(tasks: Sequence[Task], episodes: int) -> list[Work]:
    """`episodes` pieces of work from the oracles of tasks, each task for a group."""
    order = [tasks[number // GROUP % len(tasks)] for number in range(episodes)]
    return [Work(task.seed, task.oracle) for task in order]


def play_works(
    sandbox: Sandbox,
    works: Sequence[Work],
    *,
    sessions: int,
    now: str,
    timeout_seconds: float = 60.0,
    on_episode: Callable[[], Any] = lambda: None,
) -> Played:
    """Plays every work once.

    Args:
        sessions: threads, and so sessions that are open at once.
        now: what the tools are told of the time.
        timeout_seconds: of each operation.
        on_episode: called in the playing thread as an episode ends.
    Raises: PrerequisiteError, SpecError; a WorldFailure makes its episode void.
    """

    def play(work: Work) -> bool:
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
    return Played(
        len(works),
        len(works) - well,
        sum(len(work.calls) for work in works),
        time.perf_counter() - wall,
        time.process_time() - cpu,
    )


def _play(sandbox: Sandbox, work: Work, now: str, timeout_seconds: float) -> None:
    session = sandbox.open(seed=work.seed, timeout_seconds=timeout_seconds)
    try:
        for call in work.calls:
            session.call(call.name, call.arguments, now=now, timeout_seconds=timeout_seconds)
        session.diff(timeout_seconds=timeout_seconds)
    finally:
        session.close()


def hold_sessions(
    sandbox: Sandbox,
    works: Sequence[Work],
    *,
    now: str,
    look: Callable[[], Any],
    timeout_seconds: float = 60.0,
) -> Any:
    """What `look` returns while a session of each work is open, all its calls made."""
    with contextlib.ExitStack() as held:
        for work in works:
            session = sandbox.open(seed=work.seed, timeout_seconds=timeout_seconds)
            held.callback(session.close)
            for call in work.calls:
                session.call(call.name, call.arguments, now=now, timeout_seconds=timeout_seconds)
        return look()
