"""Linux system calls that Python lacks: namespaces, mounts, capabilities and process settings.

Every function raises OSError with the name of the refused step. Sources: unshare(2), mount(2),
mount_setattr(2), openat2(2), prctl(2), capabilities(7).
"""

from __future__ import annotations

import contextlib
import ctypes
import os
import signal
import socket
import struct
import sys
from collections.abc import Iterable, Mapping

# <linux/sched.h>
NEW_MOUNTS = 0x00020000
NEW_HOSTNAME = 0x04000000
NEW_IPC = 0x08000000
NEW_USERS = 0x10000000
NEW_PROCESSES = 0x20000000
NEW_NETWORK = 0x40000000
# <linux/mount.h>
READ_ONLY = 1
NO_SUID = 2
NO_DEVICES = 4
NO_EXEC = 8
REMOUNT = 32
BIND = 0x1000
RECURSIVE = 0x4000
PRIVATE = 1 << 18
# <linux/fcntl.h>
HERE = -100
AT_RECURSIVE = 0x8000
# <linux/prctl.h>, <linux/capability.h>
SET_DEATH_SIGNAL = 1
SET_DUMPABLE = 4
DROP_FROM_BOUNDING_SET = 24
SET_SUBREAPER = 36
SET_NO_NEW_PRIVILEGES = 38
CAPABILITY_VERSION_3 = 0x20080522
CAPABILITIES = {"CHOWN": 0, "DAC_OVERRIDE": 1, "KILL": 5, "SETGID": 6, "SETUID": 7}
"""Numbers of the capabilities with which a hidden test starts programs under another user."""
# <linux/sockios.h>, <net/if.h>
SET_INTERFACE_FLAGS = 0x8914
INTERFACE_UP = 1
# Numbers of system calls, equal on all architectures since Linux 5.1.
OPENAT2 = 437
MOUNT_SETATTR = 442

_libc = ctypes.CDLL(None, use_errno=True) if sys.platform == "linux" else None


def libc() -> ctypes.CDLL:
    """Return the C library. Raises OSError on systems other than Linux."""
    if _libc is None:
        raise OSError("namespaces exist on Linux only")
    return _libc


def check(result: int, step: str) -> int:
    """Return the result of a system call. Raises OSError if it is negative."""
    if result < 0:
        code = ctypes.get_errno()
        raise OSError(code, f"{step}: {os.strerror(code)}")
    return result


def prctl(option: int, value: int = 0) -> None:
    """Change one setting of this process. Has no effect on systems without `prctl`."""
    if _libc:
        _libc.prctl(option, value, 0, 0, 0)


def unshare(more: int, *, users: bool) -> None:
    """Enter new mount, PID, IPC and hostname namespaces; the PID namespace holds later children.

    Args:
        more: Further namespaces, such as `NEW_NETWORK`.
        users: Also enter a new user namespace with the same user and group, which grants the
            capabilities for the rest.
    """
    user = os.geteuid()
    group = os.getegid()
    flags = NEW_MOUNTS | NEW_PROCESSES | NEW_IPC | NEW_HOSTNAME | more
    if users:
        libc()
        prctl(SET_DUMPABLE, 1)  # Otherwise its entries in /proc would belong to root.
        flags |= NEW_USERS
    check(libc().unshare(flags), "unshare")
    if users:
        write("/proc/self/setgroups", "deny")
        write("/proc/self/uid_map", f"{user} {user} 1")
        write("/proc/self/gid_map", f"{group} {group} 1")


def end_like(pid: int) -> None:
    """Wait for a process and end with the same exit code or signal."""
    code = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if code < 0:
        with contextlib.suppress(OSError, ValueError):
            signal.signal(-code, signal.SIG_DFL)
        os.kill(os.getpid(), -code)
    os._exit(code)


# --- mounts ---


def make_private() -> None:
    """Keep mounts of this namespace out of the others."""
    check(libc().mount(b"none", b"/", b"none", RECURSIVE | PRIVATE, None), "mount / private")


def mount_tmpfs(folder: str, options: str) -> None:
    """Mount an empty file system in memory, such as `size=32m,mode=1777`."""
    _mount("tmpfs", folder, NO_SUID | NO_DEVICES, options)


def mount_proc() -> None:
    """Mount a /proc that shows the processes of this PID namespace only."""
    _mount("proc", "/proc", NO_SUID | NO_DEVICES | NO_EXEC, "")


def bind(source: str, place: str) -> None:
    """Show a file or folder at another place as well."""
    flags = BIND | RECURSIVE
    check(
        libc().mount(os.fsencode(source), os.fsencode(place), None, flags, None),
        f"bind {source} on {place}",
    )


def cover(
    folder: str,
    keep: Iterable[str] = (),
    *,
    files: Mapping[str, bytes] | None = None,
    options: str = "size=64m,mode=755",
) -> None:
    """Replace a folder by an empty one in memory.

    Args:
        keep: Files and folders below it that stay visible, with what is mounted there.
        files: Files to write into the new folder, by their path relative to it.
        options: Options of the tmpfs.
    """
    kept = {path: os.open(path, os.O_PATH) for path in _outermost(keep, folder)}
    is_folder = {path: os.path.isdir(path) for path in kept}
    mount_tmpfs(folder, options)
    mask = os.umask(0o022)
    try:
        for name, content in (files or {}).items():
            at = os.path.join(folder, name)
            if not any(_is_below(at, path) for path in kept):
                os.makedirs(os.path.dirname(at), exist_ok=True)
                with open(at, "wb") as file:
                    file.write(content)
        for path, descriptor in kept.items():
            os.makedirs(path if is_folder[path] else os.path.dirname(path), exist_ok=True)
            if not is_folder[path]:
                with open(path, "wb"):
                    pass
            bind(f"/proc/self/fd/{descriptor}", path)
    finally:
        os.umask(mask)
        for descriptor in kept.values():
            os.close(descriptor)


def _outermost(paths: Iterable[str], folder: str) -> list[str]:
    """Return the existing paths strictly below a folder, without those below another one."""
    below = sorted({path for path in paths if path != folder and _is_below(path, folder)})
    found = list[str]()
    for path in below:
        if os.path.exists(path) and not any(_is_below(path, other) for other in found):
            found.append(path)
    return found


def _is_below(path: str, folder: str) -> bool:
    return path == folder or path.startswith(folder.rstrip("/") + "/")


def size_of(folder: str) -> int:
    """Return the size in bytes of the file system that holds a folder."""
    found = os.statvfs(folder)
    return found.f_blocks * found.f_frsize


def set_read_only(place: str, *, is_read_only: bool, recursive: bool = False) -> None:
    """Make the mount at a place read-only or writable, with all mounts below if `recursive`."""
    on = READ_ONLY if is_read_only else 0
    attributes = struct.pack("4Q", on, READ_ONLY - on, 0, 0)
    result = libc().syscall(
        MOUNT_SETATTR,
        HERE,
        os.fsencode(place),
        AT_RECURSIVE if recursive else 0,
        attributes,
        len(attributes),
    )
    check(result, f"make {place} {'read-only' if is_read_only else 'writable'}")


def open_beneath(folder: int, path: str, flags: int, mode: int) -> int:
    """Open a path below a folder. The kernel refuses links that lead out of it (`openat2`)."""
    is_new = flags & os.O_CREAT
    how = struct.pack("3Q", flags | os.O_CLOEXEC, mode if is_new else 0, 0x02 | 0x08)
    result = libc().syscall(OPENAT2, folder, os.fsencode(path), how, len(how))
    return check(result, path)


def _mount(kind: str, folder: str, flags: int, options: str) -> None:
    result = libc().mount(
        kind.encode(), os.fsencode(folder), kind.encode(), flags, options.encode()
    )
    check(result, f"mount {kind} on {folder}")


def write(file: str, text: str) -> None:
    """Write to a file of /proc."""
    with open(file, "w") as stream:
        stream.write(text)


def raise_loopback() -> None:
    """Make 127.0.0.1 usable in a new network namespace."""
    import fcntl

    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        fcntl.ioctl(any_socket, SET_INTERFACE_FLAGS, struct.pack("16sh22x", b"lo", INTERFACE_UP))


# --- privileges ---


def give_up_capabilities(keep: Iterable[str] = ()) -> None:
    """Give up all capabilities except some, for good: no program regains them."""
    kept = {CAPABILITIES[name] for name in keep}
    prctl(SET_NO_NEW_PRIVILEGES, 1)
    for capability in range(64):  # The kernel ignores numbers above its last capability.
        if capability not in kept:
            libc().prctl(DROP_FROM_BOUNDING_SET, capability, 0, 0, 0)
    bits = sum(1 << number for number in kept)
    header = struct.pack("Ii", CAPABILITY_VERSION_3, 0)
    check(libc().capset(header, struct.pack("6I", bits, bits, 0, 0, 0, 0)), "capset")
