"""Linux namespaces for sessions, for local boxes, and for the programs that a hidden test starts.

`enter` is called in a forked child and returns in a grandchild: process 1 of a new PID namespace,
with an empty /tmp and /dev/shm, a private /proc, only loopback networking and no capabilities. Its
descendants die with it. Requires unprivileged user namespaces, a seccomp profile that permits
`unshare` and `mount` (`seccomp.json`), and a /proc without mounts over it. The rest of the file
system stays the box's; the box makes it read-only. Sources: user_namespaces(7), pid_namespaces(7),
mount_namespaces(7), proc(5).
"""

from __future__ import annotations

import os
import resource
import signal
from dataclasses import dataclass

from .linux import (
    NEW_NETWORK,
    SET_DEATH_SIGNAL,
    SET_DUMPABLE,
    SET_SUBREAPER,
    end_like,
    give_up_capabilities,
    make_private,
    mount_proc,
    mount_tmpfs,
    prctl,
    raise_loopback,
    unshare,
    write,
)

__all__ = ["SET_DEATH_SIGNAL", "SET_DUMPABLE", "SET_SUBREAPER", "Limits", "enter", "prctl"]


@dataclass(frozen=True)
class Limits:
    """Limits of one session in namespaces."""

    tmpfs_mb: int
    """Size of /tmp and of /dev/shm, in MiB each."""
    processes: int
    """Maximum number of processes and threads, counted per session since Linux 5.14."""
    network: bool = False
    """Keep the box's network. By default the session has only loopback."""


def enter(limits: Limits, scratch: str) -> None:
    """Enter new namespaces and return in a grandchild. The child waits for it and ends as it does.

    Args:
        scratch: Folder of all sessions. It is replaced by an empty one.

    Raises:
        OSError: If the kernel or the box refuses a step; the message names it.
    """
    unshare(0 if limits.network else NEW_NETWORK, users=True)
    make_private()
    for folder in dict.fromkeys((os.path.realpath(scratch), "/tmp", "/dev/shm", "/dev/mqueue")):
        if os.path.isdir(folder):
            mount_tmpfs(folder, f"size={limits.tmpfs_mb}m,mode=1777")
    if not limits.network:
        raise_loopback()
    if pid := os.fork():
        end_like(pid)
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    mount_proc()
    # Processes here cannot create a user namespace and regain capabilities in it.
    write("/proc/sys/user/max_user_namespaces", "0")
    resource.setrlimit(resource.RLIMIT_NPROC, (limits.processes, limits.processes))
    give_up_capabilities()
