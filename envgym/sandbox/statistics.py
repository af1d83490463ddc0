"""What a sandbox did and how long it took: counts, and the values noted last of what is measured.

Read by the trainer for TensorBoard and by `envgym sandbox bench`. Safe to share between threads.

    open_ms reset_ms call_ms call_overhead_ms diff_ms close_ms start_ms    p50 and p99 of the operations, milliseconds
    session_mb                                                            growth of a box for each open session, MiB
    pool/{hits,waits} recycled/REASON failures/KIND bytes/{sent,received}  counts

`open` is all that an episode waits for; `reset` is the part in the box: a fresh state, proven. `call_overhead` is a call without
the time inside the tool. `start` is a whole box.
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
"""Values kept of each thing that is measured."""


class Statistics:
    """Counts and measured values of one sandbox."""

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
        """Notes how long the block took, when it did not fail."""
        started = time.perf_counter()
        yield
        self.time(name, time.perf_counter() - started)

    def time_call(self, seconds: float, *, inside: float) -> None:
        """Notes how long a call took, and how much of it was not the tool's own."""
        self.time("call", seconds)
        self.time("call_overhead", seconds - inside)

    def snapshot(self) -> dict[str, float]:
        """Name -> number: the counts as they are, and `NAME/p50`, `NAME/p99` of each thing measured."""
        with self._lock:
            return self._numbers()

    def take(self) -> dict[str, float]:
        """The snapshot, and a new beginning: the next one tells of what comes after. A count that was ever there stays, as 0."""
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
    """Counts by kind how the block failed."""
    try:
        yield
    except WorldFailure as failure:
        statistics.count(f"failures/{failure.kind}")
        raise
