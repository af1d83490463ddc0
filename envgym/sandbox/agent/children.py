"""Forked children of the agent: how they start apart from it, and how they end."""

from __future__ import annotations

import contextlib
import ctypes
import math
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

from .wire import Request

SEND_SECONDS = 1.0
"""A child reads whenever it has nothing to do; one that takes longer than this to accept a request is stuck."""
PR_SET_PDEATHSIG = 1  # <linux/prctl.h>

_libc = ctypes.CDLL(None) if sys.platform == "linux" else None


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
        for kill in (os.killpg, os.kill):  # the group may not exist yet, a moment after the fork
            with contextlib.suppress(OSError):
                kill(self.pid, signal.SIGKILL)

    def end(self) -> str:
        """Kills, waits, and says how the process had ended by itself, if it had."""
        self.socket.close()
        self.kill()
        code = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
        if code == -signal.SIGKILL:
            return "killed (out of memory?)"
        return f"signal {-code}" if code < 0 else f"exit status {code}"


def fork(name: str | int, request: Request, work: Callable[[socket.socket], None], *, private: Iterable[int]) -> Child:
    """A child that does `work` with its end of a socket, then ends.

    Args:
        private: file descriptors that the child must not keep.
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
        _live_as_child(parent, (ours.fileno(), *private), lambda: work(theirs))
    theirs.close()
    ours.settimeout(SEND_SECONDS)
    return Child(pid, ours, name, [request], time.monotonic() + request["timeout"])


def _live_as_child(parent: int, private: Iterable[int], work: Callable[[], None]) -> None:
    status = 1
    try:
        os.setsid()  # a group of its own, so that one kill ends the tool and what it started
        if _libc:
            _libc.prctl(PR_SET_PDEATHSIG, signal.SIGKILL)
            if os.getppid() != parent:
                return  # it died before the line above
        for descriptor in private:
            with contextlib.suppress(OSError):
                os.close(descriptor)
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        sys.stderr.flush()
        os._exit(status)
