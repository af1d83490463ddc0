"""Lock of a run folder: one process writes a run.

The lock is the file `run.lock` with the owner, host and process id of the holder. A lock of a dead
process on this host is taken over: a process counts as dead if its id is free, or if the process
with that id started at another time. A lock of another host, or of another container of this host,
cannot be checked from here and is never taken over.
"""

from __future__ import annotations

import contextlib
import datetime
import fcntl
import getpass
import json
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from envgym.errors import UsageError
from envgym_trainer.files import write_atomic

LOCK = "run.lock"


@dataclass(frozen=True, slots=True)
class Holder:
    """Process that holds a lock."""

    owner: str
    """Name of the user."""
    host: str
    machine: str
    """Id of the machine; empty if it has none."""
    boot: str
    """Id of the machine's boot; empty if unknown."""
    namespace: str
    """Namespace of process ids, which differs between containers; empty if unknown."""
    pid: int
    started: str | None
    """Start time of the process in the unit of the kernel; None if unknown."""
    since: str
    """Time at which the lock was taken, in UTC."""

    @classmethod
    def this_process(cls) -> Holder:
        return cls(
            owner=_owner(),
            host=socket.gethostname(),
            machine=_text("/etc/machine-id"),
            boot=_text("/proc/sys/kernel/random/boot_id"),
            namespace=_namespace(),
            pid=os.getpid(),
            started=process_start(os.getpid()),
            since=datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        )

    def __str__(self) -> str:
        return f"process {self.pid} of {self.owner} on {self.host} (since {self.since})"


@contextmanager
def locked(folder: Path, *, notify: Callable[[str], None]) -> Iterator[None]:
    """Hold the lock of a run folder in the block.

    Args:
        folder: Run folder.
        notify: Receives one line of text if the lock of a dead process is taken over.

    Raises:
        UsageError: If another process holds the lock.
    """
    own = Holder.this_process()
    with _one_at_a_time(folder):
        holder = read_lock(folder)
        if holder is not None:
            _require_stale(folder, holder, own)
            notify(f"{folder}: took over the lock of {holder}, which no longer runs.")
        write_atomic(folder / LOCK, json.dumps(asdict(own)) + "\n")
    try:
        yield
    finally:
        # The folder is removed if the preflight refuses the run.
        with contextlib.suppress(FileNotFoundError):
            release(folder, own)


def check_free(folder: Path) -> None:
    """Check that no other process holds the lock, without taking it.

    Raises:
        UsageError: If another process holds it.
    """
    if (holder := read_lock(folder)) is not None:
        _require_stale(folder, holder, Holder.this_process())


def release(folder: Path, own: Holder) -> None:
    """Remove the lock if this process still holds it."""
    with _one_at_a_time(folder), contextlib.suppress(UsageError):
        if read_lock(folder) == own:
            (folder / LOCK).unlink()


def read_lock(folder: Path) -> Holder | None:
    """Return the holder of a run folder's lock, or None if it is free.

    Raises:
        UsageError: If the file is not a lock.
    """
    file = folder / LOCK
    try:
        return Holder(**json.loads(file.read_text(encoding="utf-8")))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, TypeError) as error:
        raise UsageError(
            f"{file} cannot be read ({type(error).__name__}: {error}). If no process trains in "
            f"this folder, remove the file and try again: rm {file}"
        ) from None


def is_alive(holder: Holder, own: Holder) -> bool | None:
    """Return whether the holder still runs; None if that cannot be checked from this process."""
    if (holder.host, holder.machine) != (own.host, own.machine):
        return None
    if holder.boot != own.boot:
        return False  # The machine was started again.
    if holder.namespace != own.namespace:
        return None
    try:
        os.kill(holder.pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        pass  # The process exists and belongs to another user.
    started = process_start(holder.pid)
    return None if started is None and holder.started else started == holder.started


def process_start(pid: int) -> str | None:
    """Return the start time of a process, which tells it from a later one with the same id.

    The result is empty if the process has ended and was not yet waited for, and None if the system
    does not report it.
    """
    # The name of the program is in brackets and may contain spaces.
    fields = _text(f"/proc/{pid}/stat").rpartition(")")[2].split()
    if len(fields) < 20:
        return None
    # proc(5): state is field 3, starttime field 22. A zombie has ended.
    return "" if fields[0] in ("Z", "X") else fields[19]


def _require_stale(folder: Path, holder: Holder, own: Holder) -> None:
    alive = is_alive(holder, own)
    if alive:
        raise UsageError(
            f"{folder} is in use: {holder} trains in it. Wait for it, stop it with "
            f"`kill -INT {holder.pid}`, or choose another folder with --name."
        )
    if alive is None:
        raise UsageError(
            f"{folder} is in use: {holder} trains in it, which cannot be checked from {own.host}. "
            f"If that process no longer runs, remove the lock and try again: rm {folder / LOCK}"
        )


@contextmanager
def _one_at_a_time(folder: Path) -> Iterator[None]:
    """Exclude other processes while a lock is read and replaced.

    Only for this moment: a kernel lock is inherited by child processes, which may outlive a run.
    """
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        # Some network file systems have no kernel locks.
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield
    finally:
        os.close(descriptor)


def _owner() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return str(os.getuid())


def _namespace() -> str:
    try:
        return os.readlink("/proc/self/ns/pid")
    except OSError:
        return ""


def _text(file: str) -> str:
    try:
        return Path(file).read_text(encoding="utf-8", errors="replace").strip()
    except OSError:
        return ""
