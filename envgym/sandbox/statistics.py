"""Counts and timings of a sandbox. Safe to share between threads.

Used by the trainer for TensorBoard and by `envgym sandbox bench`.

    open_ms reset_ms call_ms call_overhead_ms diff_ms close_ms start_ms  # p50 and p99
    session_mb                                  # growth of a box per open session, MiB
    pool/{hits,waits} recycled/REASON failures/KIND bytes/{sent,received}  # counts

`open` is the whole wait of an episode; `reset` is its part inside the box, with the state check.
`call_overhead` is a call without the time inside the tool. `start` is the start of a box.
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
        with self._lock:
            self._counts[name] += by

    def note(self, name: str, value: float) -> None:
        with self._lock:
            self._values.setdefault(name, deque(maxlen=KEPT)).append(value)

    def time(self, name: str, seconds: float) -> None:
        self.note(f"{name}_ms", 1000 * seconds)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Record the duration of the block if it does not raise."""
        started = time.perf_counter()
        yield
        self.time(name, time.perf_counter() - started)

    def time_call(self, seconds: float, *, inside: float) -> None:
        """Record the duration of a call, and its overhead outside the tool."""
        self.time("call", seconds)
        self.time("call_overhead", seconds - inside)

    def snapshot(self) -> dict[str, float]:
        """Return the counts, and `NAME/p50` and `NAME/p99` of each measurement."""
        with self._lock:
            return self._numbers()

    def drain(self) -> dict[str, float]:
        """Return the snapshot and reset all values.

        Counts that were used stay in later snapshots as 0.
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
