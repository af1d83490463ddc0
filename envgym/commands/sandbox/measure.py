"""Measure the speed and cost of an environment's sandbox, without a model (`envgym sandbox bench`).

Episodes replay the oracle's calls. Times are wall times, so they depend on the machine and its
other load. CPU time covers this process and, for containers, the boxes. The container engine's CPU
time is not included; `benchmarks/sandbox.py` measures it.
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from envgym.commands.sandbox.workload import (
    GROUP,
    WorkloadResult,
    hold_sessions,
    play_works,
    works_of,
)
from envgym.errors import UsageError
from envgym.sandbox import Sandbox
from envgym.sandbox.box.sandbox import PooledSandbox
from envgym.spec.environment import EnvSpec

OPERATIONS = ("open", "reset", "call", "call_overhead", "diff", "close", "start")
ABOUT = {
    "open": "open a session, including the wait for a box",
    "reset": "part of open: build and check the state in the box",
    "call": "a tool call",
    "call_overhead": "part of call: outside the tool",
    "diff": "compute the changes",
    "close": "close the session",
    "start": "start a box, in the background except for the first",
}


@dataclass(frozen=True, slots=True)
class SandboxReport:
    """Measurements of one sandbox."""

    env: str
    sandbox: str
    """Label of the sandbox."""
    sessions: int
    played: WorkloadResult
    box_cpu_seconds: float | None
    """CPU seconds inside the boxes. `None` if it cannot be measured."""
    box_mb: float | None
    """Memory of a box without sessions, in MiB."""
    session_mb: float | None
    """Growth of a box per open session, in MiB."""
    numbers: dict[str, float]
    """Numbers of `envgym.sandbox.statistics`."""

    @property
    def episodes_per_second(self) -> float:
        return self.played.episodes / self.played.seconds

    @property
    def cpu_ms_per_episode(self) -> float:
        return (
            1000
            * (self.played.host_cpu_seconds + (self.box_cpu_seconds or 0.0))
            / self.played.episodes
        )

    def to_dict(self) -> dict[str, Any]:
        derived = {
            "episodes_per_second": self.episodes_per_second,
            "cpu_ms_per_episode": self.cpu_ms_per_episode,
        }
        return asdict(self) | derived


def measure_sandbox(
    spec: EnvSpec, *, sessions: int, episodes: int, progress: bool = True
) -> SandboxReport:
    """Measure the sandbox of an environment after a warm-up.

    Args:
        sessions: Number of concurrent sessions.
        episodes: Number of episodes. All episodes of a group start from the same state.

    Raises:
        UsageError: If the environment has no sandbox or its tasks have no oracle.
        PrerequisiteError, SpecError: If the sandbox cannot be opened.
    """
    from envgym.registration import make_world

    world = make_world(spec)
    try:
        if world.sandbox is None:
            raise UsageError(
                f"{spec.id} is an external Gymnasium environment and has no envgym sandbox to "
                "measure"
            )
        tasks = [
            world.tasks.task(name)
            for name in world.tasks.ids("train", count=max(1, episodes // GROUP))
        ]
        if not any(task.oracle for task in tasks):
            raise UsageError(
                f"the tasks of {spec.id} have no oracle, so there are no calls to replay"
            )
        works = works_of(tasks, episodes)
        return _measure(spec, world.sandbox, works, sessions=sessions, progress=progress)
    finally:
        world.close()


def _measure(
    spec: EnvSpec, sandbox: Sandbox, works: list, *, sessions: int, progress: bool
) -> SandboxReport:
    statistics = sandbox.statistics
    if statistics is None:
        raise UsageError(f"{spec.id}: {sandbox.label}: this kind of sandbox has no measurements")
    now = spec.state.clock_start.isoformat()
    play_works(sandbox, works[:sessions], sessions=sessions, now=now)
    box_mb, session_mb = _memory(sandbox, works[:sessions], now)
    start = {name: value for name, value in statistics.drain().items() if name.startswith("start")}
    before = sandbox.pool.cpu_seconds() if isinstance(sandbox, PooledSandbox) else 0.0
    with _bar(len(works), shown=progress) as advance:
        played = play_works(sandbox, works, sessions=sessions, now=now, on_episode=advance)
    after = sandbox.pool.cpu_seconds() if isinstance(sandbox, PooledSandbox) else 0.0
    return SandboxReport(
        env=spec.id,
        sandbox=sandbox.label,
        sessions=sessions,
        played=played,
        box_cpu_seconds=after - before if isinstance(sandbox, PooledSandbox) else None,
        box_mb=box_mb,
        session_mb=session_mb,
        numbers=start | statistics.drain(),
    )


def _memory(sandbox: Sandbox, works: list, now: str) -> tuple[float | None, float | None]:
    """Return the memory of a box without sessions and its growth per session, in MiB.

    Both are `None` if the memory of a whole box cannot be measured.
    """
    if not isinstance(sandbox, PooledSandbox):
        return None, None
    alone = [usage for box in sandbox.pool.boxes if (usage := box.usage()).is_whole]
    if not alone:
        return None, None
    hold_sessions(sandbox, works, now=now, look=lambda: sandbox.pool.look_at_sessions())
    box_mb = sum(usage.memory for usage in alone) / len(alone) / 2**20
    return box_mb, sandbox.statistics.snapshot().get("session_mb/p50")


class _bar:
    """Progress bar on stderr, shown on a terminal."""

    def __init__(self, total: int, *, shown: bool):
        from rich.console import Console
        from rich.progress import Progress

        self.progress = Progress(console=Console(stderr=True), transient=True, disable=not shown)
        self.bar = self.progress.add_task("episodes", total=total)

    def __enter__(self) -> Any:
        self.progress.start()
        return lambda: self.progress.update(self.bar, advance=1)

    def __exit__(self, *_: object) -> None:
        self.progress.stop()


def lines(report: SandboxReport) -> list[str]:
    """Return the report as lines of text."""
    played = report.played
    numbers = report.numbers
    cpu = (
        f"{report.cpu_ms_per_episode:.1f} CPU ms each "
        f"(host {1000 * played.host_cpu_seconds / played.episodes:.1f}"
    )
    if report.box_cpu_seconds is not None:
        cpu += f", boxes {1000 * report.box_cpu_seconds / played.episodes:.1f}"
    said = [
        f"{report.env}: {report.sandbox}",
        f"{played.episodes} episodes of {played.calls / played.episodes:.1f} calls, "
        f"{report.sessions} at once: {report.episodes_per_second:.1f} a second, "
        f"{cpu}), {played.void} void",
        "",
        f"{'ms':14}{'p50':>9}{'p99':>9}",
    ]
    for name in OPERATIONS:
        if f"{name}_ms/p50" in numbers:
            said.append(
                f"{name:14}{numbers[f'{name}_ms/p50']:9.2f}{numbers[f'{name}_ms/p99']:9.2f}  "
                f"{ABOUT[name]}"
            )
    if report.session_mb is not None:
        said += [
            "",
            f"memory: {report.box_mb:.1f} MiB a box, {report.session_mb:.1f} MiB a session",
        ]
    counts = {name: value for name, value in numbers.items() if not name.endswith(("/p50", "/p99"))}
    return [*said, "", *(f"{name:24}{value:,.0f}" for name, value in counts.items())]
