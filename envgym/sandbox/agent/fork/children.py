"""Forked children of the agent: start, isolation from each other, and end."""

from __future__ import annotations

import contextlib
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Literal

from ..cleaning import kill_group
from ..namespaces import SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SUBREAPER, prctl
from ..protocol import Request
from ..signals import ignore_signals, withstand_signals

Role = Literal["session", "builder", "judge", "trial"]
SEND_SECONDS = 1.0
"""Seconds a child may take to accept a request. An idle child always reads, so a slower one is
stuck.
"""


@dataclass(eq=False)
class Child:
    """Agent's handle of a forked process that works on one request at a time."""

    pid: int
    socket: socket.socket
    role: Role
    name: str
    """Session that the process serves, or seed of a process that builds a state."""
    waiting: list[Request]
    """Requests that the next answer resolves: one for a session, any number for a builder."""
    deadline: float = math.inf
    heard: bytearray = field(default_factory=bytearray)

    def is_stopped(self) -> bool:
        """Return whether a signal has stopped the process. False if that is unknown."""
        return self._numbers()[:1] in ([b"T"], [b"t"])

    def cpu_seconds(self) -> float:
        """Return the processor time of the process since its start. Infinite if it is unknown."""
        numbers = self._numbers()
        if len(numbers) < 13:
            return math.inf
        return (int(numbers[11]) + int(numbers[12])) / os.sysconf("SC_CLK_TCK")

    def _numbers(self) -> list[bytes]:
        """Return the fields of /proc/PID/stat from the third one on (the state); see proc(5)."""
        try:
            with open(f"/proc/{self.pid}/stat", "rb") as file:
                return file.read().rpartition(b")")[2].split()
        except OSError:
            return []

    def resume(self) -> None:
        """Continue the process if a signal has stopped it."""
        with contextlib.suppress(OSError):
            os.kill(self.pid, signal.SIGCONT)

    def kill(self) -> None:
        """Kill the process and its process group."""
        kill_group(self.pid)

    def end(self) -> int:
        """Kill and reap the process.

        Return its exit code as `subprocess` does: negative for a signal.
        """
        self.socket.close()
        self.kill()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def fork(
    role: Role,
    name: str,
    request: Request,
    work: Callable[[socket.socket], None],
    *,
    private: Iterable[int],
    enter: Callable[[], None] = lambda: None,
) -> Child:
    """Fork a child that runs `work` with its end of a socket, then exits.

    A judge goes on ignoring signals as the agent does.

    Args:
        private: File descriptors that the child must close.
        enter: Called first in the child, to isolate it further.

    Raises:
        OSError: If no process can be created.
    """
    ours, theirs = socket.socketpair()
    parent = os.getpid()
    try:
        pid = os.fork()
    except OSError:
        ours.close()
        theirs.close()
        raise
    if pid == 0:
        settle = ignore_signals if role == "judge" else withstand_signals
        _live_as_child(parent, (ours.fileno(), *private), enter, settle, lambda: work(theirs))
    theirs.close()
    ours.settimeout(SEND_SECONDS)
    return Child(pid, ours, role, name, [request], time.monotonic() + request["timeout"])


def _live_as_child(
    parent: int,
    private: Iterable[int],
    enter: Callable[[], None],
    settle_signals: Callable[[], None],
    work: Callable[[], None],
) -> None:
    status = 1
    try:
        # A new session and process group: one kill ends the tool and the processes it started.
        os.setsid()
        prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            return  # The parent ended before the death signal was set.
        for descriptor in private:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        enter()
        settle_signals()
        # A descendant that leaves the group is reparented to this process, and to the agent when it
        # ends.
        prctl(SET_SUBREAPER, 1)
        # No process of the same user may read this process's memory or trace it.
        prctl(SET_DUMPABLE, 0)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
