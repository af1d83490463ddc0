"""`envgym sandbox bench`: how fast one environment's sandbox is, at what cost, with the oracle's calls as the work.

What is measured is the sandbox alone, without a model. Times are wall times, so they tell of this machine and its other load;
CPU is that of this process and, for containers, of the boxes. Not counted: the engine's own CPU (`benchmarks/sandbox.py` does).
"""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any

from envgym.commands.sandbox_workload import GROUP, Played, hold_sessions, play_works, works_of
from envgym.errors import UsageError
from envgym.sandbox.box.sandbox import BoxSandbox
from envgym.spec.environment import EnvSpec

OPERATIONS = ("open", "reset", "call", "call_overhead", "diff", "close", "start")
ABOUT = {
    "open": "until an episode can begin, waiting for a box included",
    "reset": "of this, in the box: a fresh state, proven",
    "call": "a tool call",
    "call_overhead": "of this, not the tool's own",
    "diff": "what changed",
    "close": "handing back",
    "start": "a new box, in the background but for the first",
}


@dataclass(frozen=True, slots=True)
class Report:
    """What a bench found."""

    env: str
    sandbox: str
    """The sandbox's own label."""
    sessions: int
    played: Played
    box_cpu_seconds: float | None
    """Inside of the boxes; None where nobody counts it."""
    box_mb: float | None
    """A box with no session, MiB."""
    session_mb: float | None
    """What a box grows by for each of the sessions that are open, MiB."""
    numbers: dict[str, float]
    """As of `sandbox.statistics`."""

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


def bench(spec: EnvSpec, *, sessions: int, episodes: int, progress: bool = True) -> Report:
    """Measures the sandbox of an environment, after a warm-up.

    Args:
        sessions: how many are open at once.
        episodes: how many are played; those of a group start from the same state.
    Raises: UsageError for an environment without a sandbox or without oracles; PrerequisiteError, SpecError.
    """
    from envgym.registration import make_world

    if spec.gym:
        raise UsageError(
            f"{spec.id} is a foreign Gymnasium environment: its tools run in no sandbox of ours"
        )
    world: Any = make_world(spec)
    try:
        tasks = [
            world.tasks.task(name)
            for name in world.tasks.ids("train", count=max(1, episodes // GROUP))
        ]
        if not any(task.oracle for task in tasks):
            raise UsageError(
                f"the tasks of {spec.id} have no oracle, and so no calls to measure with"
            )
        return _measure(world, works_of(tasks, episodes), sessions=sessions, progress=progress)
    finally:
        world.close()


def _measure(world: Any, works: list, *, sessions: int, progress: bool) -> Report:
    sandbox = world.sandbox
    now = world.spec.state.now.isoformat()
    play_works(sandbox, works[:sessions], sessions=sessions, now=now)
    box_mb, session_mb = _memory(sandbox, works[:sessions], now)
    start = {
        name: value for name, value in sandbox.statistics.take().items() if name.startswith("start")
    }
    before = sandbox.pool.cpu_seconds() if isinstance(sandbox, BoxSandbox) else 0.0
    with _bar(len(works), shown=progress) as advance:
        played = play_works(sandbox, works, sessions=sessions, now=now, on_episode=advance)
    after = sandbox.pool.cpu_seconds() if isinstance(sandbox, BoxSandbox) else 0.0
    return Report(
        env=world.spec.id,
        sandbox=sandbox.label,
        sessions=sessions,
        played=played,
        box_cpu_seconds=after - before if isinstance(sandbox, BoxSandbox) else None,
        box_mb=box_mb,
        session_mb=session_mb,
        numbers=start | sandbox.statistics.take(),
    )


def _memory(sandbox: Any, works: list, now: str) -> tuple[float | None, float | None]:
    """MiB of a box without sessions, and what it grows by for each session; None where nobody counts a whole box."""
    if not isinstance(sandbox, BoxSandbox):
        return None, None
    alone = [usage for box in sandbox.pool.boxes if (usage := box.usage()).is_whole]
    if not alone:
        return None, None
    hold_sessions(sandbox, works, now=now, look=lambda: sandbox.pool.look_at_sessions())
    box_mb = sum(usage.memory for usage in alone) / len(alone) / 2**20
    return box_mb, sandbox.statistics.snapshot().get("session_mb/p50")


class _bar:
    """A progress bar on stderr, shown on a terminal."""

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


def lines(report: Report) -> list[str]:
    """The report for people."""
    played = report.played
    numbers = report.numbers
    cpu = f"{report.cpu_ms_per_episode:.1f} CPU ms each (host {1000 * played.host_cpu_seconds / played.episodes:.1f}"
    if report.box_cpu_seconds is not None:
        cpu += f", boxes {1000 * report.box_cpu_seconds / played.episodes:.1f}"
    said = [
        f"{report.env}: {report.sandbox}",
        f"{played.episodes} episodes of {played.calls / played.episodes:.1f} calls, {report.sessions} at once: "
        f"{report.episodes_per_second:.1f} a second, {cpu}), {played.void} void",
        "",
        f"{'ms':14}{'p50':>9}{'p99':>9}",
    ]
    for name in OPERATIONS:
        if f"{name}_ms/p50" in numbers:
            said.append(
                f"{name:14}{numbers[f'{name}_ms/p50']:9.2f}{numbers[f'{name}_ms/p99']:9.2f}  {ABOUT[name]}"
            )
    if report.session_mb is not None:
        said += [
            "",
            f"memory: {report.box_mb:.1f} MiB a box, {report.session_mb:.1f} MiB a session",
        ]
    counts = {name: value for name, value in numbers.items() if not name.endswith(("/p50", "/p99"))}
    return [*said, "", *(f"{name:24}{value:,.0f}" for name, value in counts.items())]
