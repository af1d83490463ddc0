"""Isolate a session in new Linux namespaces.

`enter` is called in a forked child and returns in a grandchild: process 1 of a new PID namespace,
with an empty /tmp and /dev/shm, a private /proc, only loopback networking and no capabilities. Its
descendants die with it. Requires unprivileged user namespaces, a seccomp profile that permits
`unshare` and `mount` (`seccomp.json`), and a /proc without mounts over it. The rest of the file
system stays the box's; the box makes it read-only. Sources: user_namespaces(7), pid_namespaces(7),
mount_namespaces(7), proc(5).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import resource
import signal
import socket
import struct
import sys
from dataclasses import dataclass

# <linux/sched.h>
NEW_MOUNTS = 0x00020000
NEW_HOSTNAME = 0x04000000
NEW_IPC = 0x08000000
NEW_USERS = 0x10000000
NEW_PROCESSES = 0x20000000
NEW_NETWORK = 0x40000000
# <linux/mount.h>
NO_SUID = 2
NO_DEVICES = 4
NO_EXEC = 8
RECURSIVE = 0x4000
PRIVATE = 1 << 18
# <linux/prctl.h>, <linux/capability.h>
SET_DEATH_SIGNAL = 1
SET_DUMPABLE = 4
DROP_FROM_BOUNDING_SET = 24
SET_SUBREAPER = 36
SET_NO_NEW_PRIVILEGES = 38
CAPABILITY_VERSION_3 = 0x20080522
# <linux/sockios.h>, <net/if.h>
SET_INTERFACE_FLAGS = 0x8914
INTERFACE_UP = 1

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


@dataclass(frozen=True)
class Limits:
    """Limits of one session in namespaces."""

    tmpfs_mb: int
    """Size of /tmp and of /dev/shm, in MiB each."""
    processes: int
    """Maximum number of processes and threads, counted per session since Linux 5.14."""
    network: bool = False
    """Keep the box's network. By default the session has only loopback."""


def prctl(option: int, value: int = 0) -> None:
    """Change one setting of this process. Has no effect on systems without `prctl`."""
    if _libc:
        _libc.prctl(option, value, 0, 0, 0)


def enter(limits: Limits, scratch: str) -> None:
    """Enter new namespaces and return in a grandchild. The child waits for it and ends as it does.

    Args:
        scratch: Folder of all sessions. It is replaced by an empty one.

    Raises:
        OSError: If the kernel or the box refuses a step; the message names it.
    """
    if _libc is None:
        raise OSError("namespaces exist on Linux only")
    user = os.getuid()
    group = os.getgid()
    prctl(SET_DUMPABLE, 1)  # Otherwise its entries in /proc would belong to root.
    network = 0 if limits.network else NEW_NETWORK
    _check(
        _libc.unshare(NEW_USERS | NEW_MOUNTS | NEW_PROCESSES | NEW_IPC | NEW_HOSTNAME | network),
        "unshare",
    )
    for file, text in (
        ("setgroups", "deny"),
        ("uid_map", f"{user} {user} 1"),
        ("gid_map", f"{group} {group} 1"),
    ):
        _write(f"/proc/self/{file}", text)
    _check(_libc.mount(b"none", b"/", b"none", RECURSIVE | PRIVATE, None), "mount / private")
    for folder in dict.fromkeys((os.path.realpath(scratch), "/tmp", "/dev/shm", "/dev/mqueue")):
        if os.path.isdir(folder):
            _mount("tmpfs", folder, NO_SUID | NO_DEVICES, f"size={limits.tmpfs_mb}m,mode=1777")
    if not limits.network:
        _raise_loopback()
    if pid := os.fork():
        _end_like(pid)
    prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
    _mount("proc", "/proc", NO_SUID | NO_DEVICES | NO_EXEC, "")
    # Processes here cannot create a user namespace and regain capabilities in it.
    _write("/proc/sys/user/max_user_namespaces", "0")
    resource.setrlimit(resource.RLIMIT_NPROC, (limits.processes, limits.processes))
    _give_up_capabilities()


def _end_like(pid: int) -> None:
    """Wait for a process and end with the same exit code or signal."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


def _mount(kind: str, folder: str, flags: int, options: str) -> None:
    assert _libc
    _check(
        _libc.mount(kind.encode(), folder.encode(), kind.encode(), flags, options.encode()),
        f"mount {kind} on {folder}",
    )


def _write(file: str, text: str) -> None:
    with open(file, "w") as stream:
        stream.write(text)


def _check(result: int, step: str) -> None:
    if result != 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{step}: {os.strerror(code)}")


def _raise_loopback() -> None:
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_INTERFACE_FLAGS, struct.pack("16sh22x", b"lo", INTERFACE_UP))


def _give_up_capabilities() -> None:
    assert _libc
    prctl(SET_NO_NEW_PRIVILEGES, 1)
    capability = 0
    while _libc.prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0) == 0:
        capability += 1
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    nothing = struct.pack("6I", *[0] * 6)
    _check(_libc.capset(header, nothing), "capset")
