"""What a sandbox did and how long it took: counts since the start, and times of the operations done last.

Read by the trainer for TensorBoard and by `envgym sandbox bench`. Safe to share between threads.
"""

from __future__ import annotations

import contextlib
import statistics
import threading
import time
from collections import Counter, deque
from collections.abc import Iterator

KEPT = 2048
"""Times kept of each operation."""


class Statistics:
    """Counts and times of one sandbox."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._counts: Counter[str] = Counter()
        self._times: dict[str, deque[float]] = {}

    def count(self, name: str, by: int = 1) -> None:
        with self._lock:
            self._counts[name] += by

    def time(self, name: str, seconds: float) -> None:
        with self._lock:
            self._times.setdefault(name, deque(maxlen=KEPT)).append(seconds)

    @contextlib.contextmanager
    def timed(self, name: str) -> Iterator[None]:
        """Notes how long the block took, when it did not fail."""
        started = time.perf_counter()
        yield
        self.time(name, time.perf_counter() - started)

    def snapshot(self) -> dict[str, float]:
        """Name -> number: the counts as they are, and `NAME_ms/p50`, `NAME_ms/p99` of each timed operation."""
        with self._lock:
            counts, times = dict(self._counts), {name: sorted(values) for name, values in self._times.items()}
        numbers = {name: float(count) for name, count in sorted(counts.items())}
        for name, values in sorted(times.items()):
            numbers[f"{name}_ms/p50"] = 1000 * statistics.median(values)
            numbers[f"{name}_ms/p99"] = 1000 * values[min(len(values) - 1, int(0.99 * len(values)))]
        return numbers
