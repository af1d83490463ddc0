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

from .namespaces import SET_DEATH_SIGNAL, SET_DUMPABLE, SET_SUBREAPER, prctl
from .protocol import Request

SEND_SECONDS = 1.0
"""Seconds a child may take to accept a request. An idle child always reads, so a slower one is
stuck.
"""


@dataclass(eq=False)
class Child:
    """Agent's handle of a forked process that works on one request at a time."""

    pid: int
    socket: socket.socket
    name: str | int
    """Session name of a session process, or seed (int) of a process that builds a state."""
    waiting: list[Request]
    """Requests that the next answer resolves: one for a session, any number for a builder."""
    deadline: float = math.inf
    heard: bytearray = field(default_factory=bytearray)

    @property
    def is_builder(self) -> bool:
        return isinstance(self.name, int)

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


def kill_group(pid: int) -> None:
    # Right after the fork the group may not exist yet.
    for kill in (os.killpg, os.kill):
        with contextlib.suppress(OSError):
            kill(pid, signal.SIGKILL)


def fork(
    name: str | int,
    request: Request,
    work: Callable[[socket.socket], None],
    *,
    private: Iterable[int],
    enter: Callable[[], None] = lambda: None,
) -> Child:
    """Fork a child that runs `work` with its end of a socket, then exits.

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
        _live_as_child(parent, (ours.fileno(), *private), enter, lambda: work(theirs))
    theirs.close()
    ours.settimeout(SEND_SECONDS)
    return Child(pid, ours, name, [request], time.monotonic() + request["timeout"])


def _live_as_child(
    parent: int, private: Iterable[int], enter: Callable[[], None], work: Callable[[], None]
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
