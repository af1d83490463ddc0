"""Clean-up after a session: kill leftover processes and detect other traces in the box.

A session's process adopts descendants that leave its process group (subreaper), and the agent
adopts them when that process ends. So every child of the agent that it did not start is a leftover.
Not supported on macOS: there a process that leaves its group runs until it ends by itself.
"""

from __future__ import annotations

import contextlib
import os
import signal
import sys
from collections.abc import Container, Iterable
from pathlib import Path
from typing import Any

from .file_tree import wipe
from .namespaces import SET_SUBREAPER, prctl

SHARED_FOLDERS = ("/dev/shm", "/dev/mqueue")
SHARED_MEMORY = ("/proc/sysvipc/shm", "/proc/sysvipc/sem", "/proc/sysvipc/msg")
SHARES_GROUP = "ENVGYM_SHARES_GROUP"
"""Environment variable of a local box: its control group belongs to the machine."""
ROUNDS = 200
"""Maximum rounds of killing. Each round ends one generation of processes that keep forking."""


def kill_group(pid: int) -> None:
    # Right after the fork the group may not exist yet.
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


def adopt_orphans() -> None:
    """Become the subreaper: orphaned descendants become children of this process."""
    prctl(SET_SUBREAPER, 1)


def end_strays(own: Container[int]) -> bool:
    """Kill and reap all stray children and their descendants. Return True if all are gone.

    Args:
        own: Process ids to keep.
    """
    for _ in range(ROUNDS):
        strays = [pid for pid in _children() if pid not in own]
        if not strays:
            return True
        for pid in strays:
            kill_group(pid)
            with contextlib.suppress(ChildProcessError):
                os.waitpid(pid, 0)
    return False


def _children() -> list[int]:
    """Return the process ids of all children, zombies included.

    Empty if the system is not Linux.
    """
    if sys.platform != "linux":
        return []
    try:
        return [int(pid) for pid in _read(f"/proc/self/task/{os.getpid()}/children").split()]
    except FileNotFoundError:  # The kernel lacks CONFIG_PROC_CHILDREN.
        return [
            pid
            for pid in map(int, filter(str.isdigit, os.listdir("/proc")))
            if _parent(pid) == os.getpid()
        ]


def _parent(pid: int) -> int:
    try:
        return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
    except (OSError, IndexError):
        return 0


class Traces:
    """Traces a session may leave outside its folder: files in shared folders, System V IPC.

    Args:
        scratch: Folder that holds the session folders.
    """

    def __init__(self, scratch: str):
        self._scratch = scratch
        # Outside a container other programs use these folders too.
        self._shared = SHARED_FOLDERS if os.getpid() == 1 else ()
        self._before = self._look()

    def new(self, sessions: Container[str]) -> list[str]:
        """Return the traces that appeared since the start, without folders of open sessions."""
        return sorted(
            trace
            for trace in self._look() - self._before
            if os.path.basename(trace) not in sessions
        )

    def remove(self, traces: Iterable[str]) -> None:
        """Remove files and folders of this box among the traces, as far as possible."""
        own = (self._scratch, "/dev/shm") if self._shared else (self._scratch,)
        for path in traces:
            if os.path.dirname(path) not in own:
                continue
            if os.path.isdir(path) and not os.path.islink(path):
                wipe(path)
            elif os.path.lexists(path):
                with contextlib.suppress(OSError):
                    os.unlink(path)

    def _look(self) -> set[str]:
        found = set()
        for folder in (self._scratch, *self._shared):
            with contextlib.suppress(OSError):
                found |= {os.path.join(folder, name) for name in os.listdir(folder)}
        if self._shared:
            found |= {
                f"{file} {line.split()[1]}" for file in SHARED_MEMORY for line in _lines(file)[1:]
            }
        return found


def _lines(file: str) -> list[str]:
    try:
        return _read(file).decode().splitlines()
    except OSError:
        return []


def _read(file: str) -> bytes:
    """Read a small /proc or /sys file with half the system calls of `Path.read_text`.

    Some are read at the end of every session.
    """
    descriptor = os.open(file, os.O_RDONLY | os.O_CLOEXEC)
    try:
        parts = []
        while part := os.read(descriptor, 1 << 16):
            parts.append(part)
        return b"".join(parts)
    finally:
        os.close(descriptor)


def killed_for_memory() -> int:
    """Return the number of OOM kills in this box's control group, or 0 if it is unknown."""
    for file, word in (
        ("/sys/fs/cgroup/memory.events", "oom_kill"),
        ("/sys/fs/cgroup/memory/memory.oom_control", "oom_kill"),
    ):
        for line in _lines(file):
            name, _, count = line.partition(" ")
            if name == word:
                return int(count)
    return 0


def usage() -> dict[str, Any]:
    """Return memory in bytes and CPU seconds since the start.

    The values are for the control group in a container (`is_whole`), otherwise for this process.
    """
    memory = _group_memory()
    cpu = _group_cpu_seconds()
    has_own_group = os.getpid() == 1 and SHARES_GROUP not in os.environ
    if has_own_group and memory is not None and cpu is not None:
        return {"memory": memory, "cpu_seconds": cpu, "is_whole": True}
    pages = _lines("/proc/self/statm")
    times = os.times()
    memory = int(pages[0].split()[1]) * os.sysconf("SC_PAGE_SIZE") if pages else 0
    return {"memory": memory, "cpu_seconds": sum(times[:4]), "is_whole": False}


def _group_memory() -> int | None:
    for file in ("/sys/fs/cgroup/memory.current", "/sys/fs/cgroup/memory/memory.usage_in_bytes"):
        if lines := _lines(file):
            return int(lines[0])
    return None


def _group_cpu_seconds() -> float | None:
    if lines := _lines("/sys/fs/cgroup/cpuacct/cpuacct.usage"):  # version 1, nanoseconds
        return int(lines[0]) / 1e9
    for line in _lines("/sys/fs/cgroup/cpu.stat"):
        name, _, count = line.partition(" ")
        if name == "usage_usec":
            return int(count) / 1e6
    return None


def ended_how(code: int, *, for_memory: bool) -> str:
    """Describe how a process ended. `code` is an exit code as in `subprocess`."""
    if code == -signal.SIGKILL:
        return "killed for want of memory" if for_memory else "killed"
    return f"signal {-code}" if code < 0 else f"exit status {code}"


def failure_kind(how: str, op: str) -> str:
    """Return the kind of failure of a session's process that ended during an operation."""
    if "memory" in how:
        return "out_of_memory"
    return "session_ended" if op == "call" else "sandbox_lost"
