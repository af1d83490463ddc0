"""What the engine itself takes: CPU and memory of its processes, from /proc, where that can be read."""

from __future__ import annotations

import contextlib
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

ENGINE = ("dockerd", "containerd", "containerd-shim")
LOOK_SECONDS = 0.05
"""A helper outlives its container by more than that."""
REST_SECONDS = 0.3
"""After that it has gone as well."""


class EngineCpu:
    """CPU of the engine's processes, those that end in between included as they were last seen.

    With a container's helper that is all its children took that have ended: runc, what `docker exec` started, and at the end the
    container's own processes. So a box that ends meanwhile is counted here, whole.
    """

    def __init__(self) -> None:
        self._seen: dict[int, float] = {}
        self._over = threading.Event()
        self.own_seconds = 0.0
        """What looking took, of this process's CPU."""

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
                self._seen[pid] = max(
                    self._seen.get(pid, 0.0), sum(map(int, fields[11:15])) / 100
                )  # in USER_HZ, with children


def processes() -> Iterator[tuple[int, str, list[str]]]:
    """(pid, name, the fields of /proc/PID/stat from the state on)."""
    for folder in Path("/proc").glob("[0-9]*"):
        with contextlib.suppress(OSError):
            head, _, rest = (folder / "stat").read_text().rpartition(")")
            yield int(folder.name), head.partition("(")[2], rest.split()


def helper_mb(box: Any) -> float:
    """Memory of the engine's helper process for a container, MiB; 0.0 where /proc does not tell."""
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
