"""CPU time and memory of the container engine's processes, read from /proc if possible."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENGINE = ("dockerd", "containerd", "containerd-shim")
LOOK_SECONDS = 0.05
"""Interval between readings in seconds.

A helper process outlives its container by more than that.
"""
REST_SECONDS = 0.3
"""Time in seconds after which a helper process has ended."""


class EngineCpu:
    """CPU time of the engine's processes, including those that end during the measurement.

    A process that ends counts with its last reading. A container's helper includes its ended
    children: runc, the processes of `docker exec` and finally the container's processes. A box that
    ends during the measurement is therefore counted in full.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._over = threading.Event()
        self.own_seconds = 0.0
        """CPU time in seconds that this process used for the readings."""

    def __enter__(self) -> EngineCpu:
        self._look()
        self._base = dict(self._seen)
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._over.set()
        self._thread.join()
        self._look()

    def seconds(self) -> float:
        return sum(spent - self._base.get(pid, 0.0) for pid, spent in self._seen.items())

    @property
    def is_readable(self) -> bool:
        return bool(self._seen)

    def _watch(self) -> None:
        while not self._over.wait(LOOK_SECONDS):
            self._look()
            self.own_seconds = time.thread_time()

    def _look(self) -> None:
        for pid, name, fields in processes():
            if name in ENGINE:
                # In units of USER_HZ, including children.
                self._seen[pid] = max(self._seen.get(pid, 0.0), sum(map(int, fields[11:15])) / 100)


def processes() -> Iterator[tuple[int, str, list[str]]]:
    """Yield pid, name and the fields of /proc/PID/stat from the state on, for each process."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            head, _, rest = (folder / "stat").read_text().rpartition(")")
            yield int(folder.name), head.partition("(")[2], rest.split()


def helper_mb(box: Any) -> float:
    """Return the memory of a container's helper process in MiB, or 0.0 if unknown."""
    container = getattr(box.transport, "container", "?")
    for pid, name, _ in processes():
        with contextlib.suppress(OSError, StopIteration):
            if (
                name.startswith("containerd-shim")
                and container in Path(f"/proc/{pid}/cmdline").read_text()
            ):
                lines = Path(f"/proc/{pid}/smaps_rollup").read_text().splitlines()
                return (
                    int(next(line for line in lines if line.startswith("Pss:")).split()[1]) / 1024
                )
    return 0.0
