"""Counts and timings of a sandbox, for TensorBoard and `envgym sandbox bench`. Thread-safe.

Measurements, each with its median and 99th percentile:
    start_ms          start of a box
    open_ms           time until an episode has its session, `reset_ms` included
    reset_ms          reset inside the box, with the check of the state
    call_ms           one tool call; `call_overhead_ms` is the same without the tool itself
    diff_ms close_ms  comparison of the state, end of the session
    session_mb        growth of a box per open session in MiB
Counts: pool/{hits,waits}, recycled/REASON, failures/KIND, bytes/{sent,received}
"""

from __future__ import annotations

import contextlib
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator
from statistics import median

from envgym.errors import WorldFailure

KEPT = 2048
"""Number of latest values kept for each measurement."""


class Statistics:
    """Counts and measurements of one sandbox."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._values: dict[str, deque[float]] = {}

    def count(self, name: str, by: int = 1) -> None:
        """Add to a count."""
        with self._lock:
            self._counts[name] += by

    def note(self, name: str, value: float) -> None:
        """Record a measurement."""
        with self._lock:
            self._values.setdefault(name, deque(maxlen=KEPT)).append(value)

    def time(self, name: str, seconds: float) -> None:
        """Record a duration as `NAME_ms`."""
        self.note(f"{name}_ms", 1000 * seconds)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the duration of the block if it does not raise."""
        started = time.perf_counter()
        yield
        self.time(name, time.perf_counter() - started)

    def time_call(self, seconds: float, *, inside: float) -> None:
        """Record the duration of a call that spent `inside` seconds in the tool."""
        self.time("call", seconds)
        self.time("call_overhead", seconds - inside)

    def snapshot(self) -> dict[str, float]:
        """Return the counts, and `NAME/p50` and `NAME/p99` of each measurement."""
        with self._lock:
            return self._numbers()

    def drain(self) -> dict[str, float]:
        """Return the snapshot, and reset all values.

        Later snapshots contain the same counts, so that a curve falls to 0 instead of ending.
        """
        with self._lock:
            numbers = self._numbers()
            self._counts = Counter(dict.fromkeys(self._counts, 0))
            self._values = {}
            return numbers

    def _numbers(self) -> dict[str, float]:
        numbers = {name: float(count) for name, count in sorted(self._counts.items())}
        for name, values in sorted(self._values.items()):
            ordered = sorted(values)
            numbers[f"{name}/p50"] = median(ordered)
            numbers[f"{name}/p99"] = ordered[min(len(ordered) - 1, int(0.99 * len(ordered)))]
        return numbers


@contextlib.contextmanager
def counting_failures(statistics: Statistics) -> Iterator[None]:
    """Count a WorldFailure of the block by its kind."""
    try:
        yield
    except WorldFailure as failure:
        statistics.count(f"failures/{failure.kind}")
        raise
