"""Check that episodes that share boxes are isolated and that memory does not grow.

    python benchmarks/soak.py --episodes 10000                  # 64 sessions at once on 4 boxes
    python benchmarks/soak.py --backend docker --isolation namespaces

Each episode leaves a mark in the tables, in files, in the environment and in memory, reads all
visible marks and asks for the diff. Between rounds, with no session open, the resources of this
process and its boxes are measured. The exit code is 1 if an episode failed or saw a foreign mark,
or if the second half of the rounds exceeded the maximum of the first half.
Not supported: isolation `state`, in which sessions share files and memory; systems without
/proc. See `envgym sandbox bench` for speed.
"""

from __future__ import annotations

import argparse
import contextlib
import gc
import itertools
import json
import os
import sys
import threading
import time
import uuid
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from envgym.errors import WorldFailure
from envgym.sandbox import App
from envgym.sandbox.backends import open_sandbox
from envgym.sandbox.containers.owners import RUN_LABEL, labels
from envgym.sandbox.options import SandboxOptions

APP = App(Path(__file__).parent, ("soak_app/tools.py",), "soak_app/schema.sql")
ROUNDS = 10
SEEDS = 16
MOST_GROWTH_MB = 10.0
SETTLE_SECONDS = 10.0
COLUMNS = (
    "episodes",
    "wrong",
    "failed",
    "descriptors",
    "threads",
    "processes",
    "containers",
    "memory_mb",
)


@dataclass(frozen=True)
class Held:
    """Resources of this process while no session is open.

    Idle connections to the container engine are closed before.
    """

    descriptors: int
    threads: int
    processes: int
    """Number of child processes and their children.

    These are boxes if the backend has no engine.
    """
    containers: int
    memory_mb: float


def grown(rounds: Sequence[Held]) -> list[str]:
    """Return the names of resources whose maximum grew from the first to the second half."""
    half = len(rounds) // 2

    def most(name: str, part: Sequence[Held]) -> float:
        return max(getattr(each, name) for each in part)

    spare = {"memory_mb": MOST_GROWTH_MB}
    return [
        name
        for name in vars(rounds[0])
        if most(name, rounds[half:]) > most(name, rounds[:half]) + spare.get(name, 0)
    ]


def held(sandbox: Any) -> Held:
    """Measure resources after threads and boxes that are shutting down have ended."""
    api = getattr(sandbox, "_api", None)
    deadline = time.monotonic() + SETTLE_SECONDS
    last = None
    while True:
        now = threading.active_count(), _descendants(), _containers(api)
        if (now == last and _is_settled()) or time.monotonic() > deadline:
            break
        last = now
        time.sleep(0.5)
    if api:
        # Close idle connections. Their number depends only on how many threads asked at once. The
        # client connects again when needed.
        api.close()
    gc.collect()
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return Held(
        len(os.listdir("/proc/self/fd")), *now, memory_mb=pages * os.sysconf("SC_PAGE_SIZE") / 2**20
    )


def _containers(api: Any) -> int:
    return (
        len(api.containers(all=True, filters={"label": f"{RUN_LABEL}={labels()[RUN_LABEL]}"}))
        if api
        else 0
    )


def _descendants() -> int:
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        # The process ended while it was read.
        with contextlib.suppress(OSError):
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
    found = {os.getpid()}
    while more := {pid for pid, parent in parents.items() if parent in found} - found:
        found |= more
    return len(found) - 1


def _is_settled() -> bool:
    return not any(
        thread.name in ("envgym-creator", "envgym-retire") for thread in threading.enumerate()
    )


def episode(sandbox: Any, number: int) -> list[str]:
    """Play one episode. Return the places in which it saw a foreign mark."""
    mark = uuid.uuid4().hex
    session = sandbox.open(seed=number % SEEDS, timeout_seconds=60)
    try:
        session.call("leave", {"mark": mark}, now="2026-01-05T09:00:00", timeout_seconds=30)
        seen = json.loads(
            session.call("look", {}, now="2026-01-05T09:01:00", timeout_seconds=30).text
        )
        diff = session.diff(timeout_seconds=30)
    finally:
        session.close()
    own = {"tables": [mark], "files": [mark], "environment": mark, "memory": [mark]}
    wrong = [place for place, marks in own.items() if seen[place] != marks]
    return wrong + (
        [] if diff == {"notes": {"added": [{"id": 1, "text": mark}], "removed": []}} else ["diff"]
    )


def soak(sandbox: Any, *, episodes: int, sessions: int) -> tuple[list[dict[str, Any]], list[str]]:
    """Play all episodes. Return one row for each round, and the problems found."""
    rows: list[dict[str, Any]] = []
    troubles: Counter[str] = Counter()
    numbers = itertools.count()

    def one(_: int) -> None:
        try:
            for place in episode(sandbox, next(numbers)):
                troubles[f"saw missing or foreign marks in: {place}"] += 1
        except WorldFailure as failure:
            troubles[f"failed: {failure}"] += 1

    marks: list[Held] = []
    with ThreadPoolExecutor(sessions) as workers:
        for turn in range(1, ROUNDS + 1):
            list(workers.map(one, range(episodes // ROUNDS)))
            marks.append(held(sandbox))
            wrong = sum(count for what, count in troubles.items() if what.startswith("saw"))
            done = turn * (episodes // ROUNDS)
            rows.append(
                {
                    "episodes": done,
                    "wrong": wrong,
                    "failed": sum(troubles.values()) - wrong,
                    **vars(marks[-1]),
                }
            )
            show(rows[-1])
    return rows, [
        *(f"{count} x {what}" for what, count in troubles.items()),
        *(f"grew: {what}" for what in grown(marks)),
    ]


def show(row: dict[str, Any]) -> None:
    print(
        "  ".join(
            f"{row[name]:>{len(name)}.{0 if name != 'memory_mb' else 1}f}" for name in COLUMNS
        ),
        flush=True,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--episodes", type=int, default=10_000)
    parser.add_argument("--sessions", type=int, default=64, help="sessions at once")
    parser.add_argument("--boxes", type=int, default=4)
    parser.add_argument("--backend", default="docker")
    parser.add_argument("--isolation", default="fork")
    given = parser.parse_args()
    # Each box is replaced about ten times, first while warming up: then the engine's client opens
    # the connections that it keeps.
    recycle = {"episodes": max(10, given.episodes // (ROUNDS * given.boxes))}
    pool = {"boxes": given.boxes, "sessions": -(-given.sessions // given.boxes), "recycle": recycle}
    options = SandboxOptions.model_validate(
        {"backend": given.backend, "isolation": given.isolation, "pool": pool}
    )
    sandbox = open_sandbox(APP, options)
    started = time.monotonic()
    print(
        f"{sandbox.label}\n{given.sessions} sessions at once on {given.boxes} boxes\n"
        + "  ".join(COLUMNS)
    )
    try:
        _, troubles = soak(sandbox, episodes=given.episodes, sessions=given.sessions)
        recycled = {
            name: count
            for name, count in sandbox.statistics.snapshot().items()
            if name.startswith("recycled/")
        }
    finally:
        sandbox.close()
    print(
        f"boxes replaced: {recycled or 'none'}; {os.cpu_count()} cores, "
        f"{(time.monotonic() - started) / 60:.1f} minutes"
    )
    print("\n".join(troubles) or "no episode saw another one's marks, and nothing grew")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
