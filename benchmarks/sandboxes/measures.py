"""Measurements of `sandbox.py`, one round of each under one backend."""

from __future__ import annotations

import contextlib
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.commands.sandbox.workload import (
    GROUP,
    WorkloadEpisode,
    hold_sessions,
    play_works,
    works_of,
)
from envgym.errors import WorldFailure
from envgym.registration import make_world
from envgym.sandbox import App
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.addresses import EngineName
from envgym.sandbox.options import SandboxOptions
from envgym.spec.environment import load_spec
from envgym.tool_sandbox import build_app
from sandboxes.engine import REST_SECONDS, EngineCpu, helper_mb
from sandboxes.peers import NOW, Peers, Values

CALLS = 5
WRITES = 2
SPIN = 'def spin() -> str:\n    """Never ends."""\n    while True:\n        pass\n'


@dataclass(frozen=True)
class Sizes:
    """Amount of work of each measurement."""

    rounds: int = 5
    episodes: int = 200
    strict: int = 16
    opens: int = 8
    stuck: int = 20
    held: int = 16
    peers: int = 6


QUICK = Sizes(rounds=1, episodes=16, strict=3, opens=2, stuck=3, held=4, peers=1)


class Bench:
    """All measurements under one backend."""

    def __init__(self, backend: str, sizes: Sizes):
        self.backend: EngineName = "podman" if backend == "podman" else "docker"
        self.sizes = sizes
        spec = load_spec("crm", ["sandbox.backend=none"])
        world = make_world(spec)
        found = [
            world.tasks.task(name)
            for name in world.tasks.ids("train", levels=("L2", "L3"), count=400)
        ]
        self.tasks = [
            task for task in found if (len(task.oracle), len(task.changes)) == (CALLS, WRITES)
        ]
        self.works = works_of(self.tasks, sizes.episodes)
        self.app, first = build_app(spec), self.tasks[0]
        self.peer = Peers(
            self.backend, self.app, world.tasks.tables(first.seed).serialize(), first.oracle
        )
        self.engine_read = False
        world.close()

    @contextlib.contextmanager
    def sandbox(self, level: str, app: App | None = None, **pool: Any) -> Iterator[Any]:
        options = SandboxOptions.model_validate(
            {"backend": self.backend, "isolation": level, "pool": pool}
        )
        sandbox = open_sandbox(app or self.app, options)
        try:
            yield sandbox
        finally:
            sandbox.close()

    def cpu_ms(self, sandbox: Any, works: Sequence[WorkloadEpisode], sessions: int) -> float:
        """Return the CPU time of an episode in ms, summed over host, boxes and container engine."""
        all_before = sandbox.pool.cpu_seconds()
        before = {box: box.usage().cpu_seconds for box in sandbox.pool.boxes}
        with EngineCpu() as engine:
            played = play_works(sandbox, works, sessions=sessions, now=NOW)
            host = played.host_cpu_seconds - engine.own_seconds
            # This waits for boxes that are shutting down.
            boxes = sandbox.pool.cpu_seconds() - all_before
            # Wait until the engine has finished its work for them.
            time.sleep(REST_SECONDS)
            # If readable, the engine's CPU time includes the boxes that ended.
            if engine.is_readable:
                boxes = sum(
                    box.usage().cpu_seconds - before.get(box, 0.0) for box in sandbox.pool.boxes
                )
        self.engine_read = engine.is_readable
        if played.void:
            raise WorldFailure(
                "sandbox_lost",
                f"{played.void} of {played.episodes} episodes were void",
                stage="call",
            )
        return 1000 * (host + boxes + engine.seconds()) / played.episodes

    def level(self, level: str) -> Values:
        with self.sandbox(level) as sandbox:
            play_works(sandbox, self.works[:8], sessions=1, now=NOW)
            sandbox.statistics.drain()
            play_works(sandbox, self.works[:: max(1, len(self.works) // 50)], sessions=1, now=NOW)
            alone = sandbox.statistics.drain()
            cpu = self.cpu_ms(sandbox, self.works, 8)
            busy = sandbox.statistics.drain()
        values = {f"cpu {level}": cpu, f"episodes/s and core, {level}": 1000 / cpu}
        values |= {f"open {p}, 8 at once, {level}": busy[f"open_ms/{p}"] for p in ("p50", "p99")}
        values |= {
            f"tool overhead {p}, {level}": alone[f"call_overhead_ms/{p}"] for p in ("p50", "p99")
        }
        return values | {f"reset p50, {level}": alone["reset_ms/p50"]}

    def state(self) -> Values:
        with self.sandbox("state") as sandbox:
            play_works(sandbox, self.works[:GROUP], sessions=1, now=NOW)
            sandbox.statistics.drain()
            play_works(
                sandbox, self.works[:GROUP] * max(1, len(self.works) // GROUP), sessions=1, now=NOW
            )
            return {"state reset p50": sandbox.statistics.drain()["reset_ms/p50"]}

    def strict(self) -> Values:
        with self.sandbox("container") as sandbox:
            play_works(sandbox, self.works[:1], sessions=1, now=NOW)
            cpu = self.cpu_ms(sandbox, self.works[: self.sizes.strict], 2)
        return {"cpu container": cpu, "episodes/s and core, container": 1000 / cpu}

    def strict_opens(self) -> Values:
        work = self.works[0]
        cold = []
        warm = []
        with self.sandbox("container", ready=0) as sandbox:
            cold = [_open_ms(sandbox, work.seed) for _ in range(self.sizes.opens)]
        with self.sandbox("container") as sandbox:
            _open_ms(sandbox, work.seed)
            for _ in range(self.sizes.opens):
                _until(lambda: len(sandbox.pool.boxes) >= 2)
                warm.append(_open_ms(sandbox, work.seed))
        return {
            "strict open p50, prefetch 0": statistics.median(cold),
            "strict open p50, from prefetch": statistics.median(warm),
        }

    def memory(self) -> Values:
        with self.sandbox("fork") as sandbox:
            sandbox.describe()
            new = sandbox.pool.boxes[0].usage().memory / 2**20 + helper_mb(sandbox.pool.boxes[0])
            play_works(sandbox, self.works[:1], sessions=1, now=NOW)
            sandbox.statistics.drain()
            hold_sessions(
                sandbox, self.works[: self.sizes.held], now=NOW, look=sandbox.pool.look_at_sessions
            )
            session = sandbox.statistics.drain()["session_mb/p50"]
        return {"memory of a session, fork": session, "memory of a container": new}

    def stuck(self) -> Values:
        deadline = 0.2
        late = []
        with tempfile.TemporaryDirectory() as folder:
            (Path(folder) / "spin.py").write_text(SPIN)
            with self.sandbox("fork", App(Path(folder), ("spin.py",))) as sandbox:
                for _ in range(self.sizes.stuck):
                    session = sandbox.open(seed=0, timeout_seconds=60)
                    start = time.perf_counter()
                    with contextlib.suppress(WorldFailure):
                        start = time.perf_counter()
                        session.call("spin", {}, now=NOW, timeout_seconds=deadline)
                    late.append(1000 * (time.perf_counter() - start - deadline))
                    session.close()
        return {"stuck tool killed p99": sorted(late)[min(len(late) - 1, int(0.99 * len(late)))]}

    def peers(self) -> Values:
        return self.peer.measure(self.sizes.peers)

    def execs(self, since: float, until: float) -> float:
        """Return how often the engine ran `exec` in a container of this benchmark."""
        from envgym.sandbox.containers.engine import connect
        from envgym.sandbox.containers.owners import OWNER_LABEL

        with contextlib.closing(connect(self.backend)) as api:
            filters = {"type": "container", "label": OWNER_LABEL}
            events = api.events(
                since=int(since), until=int(until) + 1, filters=filters, decode=True
            )
            return float(sum(event.get("Action", "").startswith("exec_create") for event in events))


def _open_ms(sandbox: Any, seed: int) -> float:
    start = time.perf_counter()
    session = sandbox.open(seed=seed, timeout_seconds=60)
    taken = 1000 * (time.perf_counter() - start)
    session.close()
    return taken


def _until(condition: Callable[[], bool]) -> None:
    """Wait until a box is ready, and then until the machine is idle."""
    deadline = time.monotonic() + 60
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    time.sleep(REST_SECONDS)
