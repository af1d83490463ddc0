"""Forked children of the agent: how they start apart from it, how they end, and what they must not leave behind."""

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
"""A child reads whenever it has nothing to do; one that takes longer than this to accept a request is stuck."""


@dataclass(eq=False)
class Child:
    """A forked process that works on one request at a time: the agent's end of it."""

    pid: int
    socket: socket.socket
    name: str | int
    """Session of a desk, seed of a builder."""
    waiting: list[Request]
    """Requests that its next answer settles: one for a desk, any number for a builder."""
    deadline: float = math.inf
    heard: bytearray = field(default_factory=bytearray)

    @property
    def is_builder(self) -> bool:
        return isinstance(self.name, int)

    def kill(self) -> None:
        """Ends the process and all of its group."""
        kill_group(self.pid)

    def end(self) -> int:
        """Kills, waits, and gives its exit code as of `subprocess`: negative for a signal."""
        self.socket.close()
        self.kill()
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


def kill_group(pid: int) -> None:
    for kill in (
        os.killpg,
        os.kill,
    ):  # the group may not exist, or not yet, a moment after the fork
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
    """A child that does `work` with its end of a socket, then ends.

    Args:
        private: file descriptors that the child must not keep.
        enter: called first in the child, to set it apart further.
    Raises: OSError where no process can be had.
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
        os.setsid()  # a group of its own, so that one kill ends the tool and what it started
        prctl(SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            return  # it died before the line above
        for descriptor in private:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        enter()
        prctl(
            SET_SUBREAPER, 1
        )  # who leaves the group stays below this process, and comes to the agent when it ends
        prctl(SET_DUMPABLE, 0)  # no process of the same user may look into this one, or trace it
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
