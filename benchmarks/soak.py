"""Do episodes that share boxes ever see each other, and does the process that plays them grow?

    python benchmarks/soak.py --episodes 10000                              # 64 sessions at once on 4 boxes
    python benchmarks/soak.py --backend docker --isolation namespaces

Each episode leaves a mark of its own in the tables, in files, in the environment and in memory, reads back all marks there are,
and asks for the diff. Between rounds, with no session open, the table shows what this process and its boxes hold. The end is 1
when an episode saw what is not its own, failed, or when the second half of the rounds held more than the first ever did.

Left out: speed (`envgym sandbox bench`); isolation `state`, whose sessions share files and memory by design; systems without /proc.
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
    """What this process holds while no session is open, idle connections to the engine given up."""

    descriptors: int
    threads: int
    processes: int
    """Its children, which are boxes where the backend is no engine, and theirs."""
    containers: int
    memory_mb: float


def grown(rounds: Sequence[Held]) -> list[str]:
    """Names of what the second half of the rounds held more of than the first half ever did."""
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
    """What is held, once threads and boxes that are on their way out have gone."""
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
        api.close()  # it connects again when it is asked: how many connections rest tells only how many threads asked at once
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
        with contextlib.suppress(OSError):  # ended meanwhile
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
    """Plays one; returns the places in which it saw other than its own mark."""
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
    """Plays all; returns a row for each round, and what is wrong."""
    rows: list[dict[str, Any]] = []
    troubles: Counter[str] = Counter()
    numbers = itertools.count()

    def one(_: int) -> None:
        try:
            for place in episode(sandbox, next(numbers)):
                troubles[f"saw more or less than its own in: {place}"] += 1
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
    parser.add_argument("--sessions", type=int, default=64, help="open at once")
    parser.add_argument("--boxes", type=int, default=4)
    parser.add_argument("--backend", default="docker")
    parser.add_argument("--isolation", default="fork")
    given = parser.parse_args()
    # Each box is replaced about ten times, the first time while it warms up: the engine's client keeps a few connections then.
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
        f"boxes replaced: {recycled or 'none'}; {os.cpu_count()} cores, {(time.monotonic() - started) / 60:.1f} minutes"
    )
    print("\n".join(troubles) or "nothing was seen that is another's, and nothing grew")
    return 1 if troubles else 0


if __name__ == "__main__":
    sys.exit(main())
