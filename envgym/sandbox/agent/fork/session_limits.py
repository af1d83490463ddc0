"""Limits of a session's process: namespaces that are tried at the start, and open files."""

from __future__ import annotations

import contextlib
import os
import resource
import socket

from ..errors import BoxError
from ..namespaces import Limits, enter
from .children import fork

TRIAL_SECONDS = 5.0
"""Time limit in seconds for a child to become ready."""
AGENT_FILES = 4096
"""Open files that the agent may have beyond the limit of a session. Linux counts the descriptors
that all processes of a user have sent and nobody has received, and refuses to send more than the
sender's limit of open files: a session must not be able to use up the limit of the agent.
"""


def raise_file_limit() -> None:
    """Raise the limit of open files of this process as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def limit_files(most: int) -> None:
    """Limit the open files of this process and its descendants for good."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    most = most if hard == resource.RLIM_INFINITY else min(most, hard)
    with contextlib.suppress(OSError, ValueError):
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def try_namespaces(limits: Limits, scratch: str) -> None:
    """Enter namespaces in a child that ends at once.

    Args:
        limits: Limits of a session.
        scratch: Folder of the box.

    Raises:
        BoxError: Kind `level_refused`; the message has the reason.
    """

    def work(end: socket.socket) -> None:
        try:
            enter(limits, scratch)
        except OSError as error:
            end.sendall(str(error).encode())
        else:
            end.sendall(b"apart" if os.getpid() == 1 else b"not process 1 of its namespace")

    child = fork("trial", "", {"timeout": 0}, work, private=())
    child.socket.settimeout(TRIAL_SECONDS)
    try:
        said = child.socket.recv(1 << 12).decode() or "the trial process ended"
    except OSError as error:
        said = str(error)
    child.end()
    if said != "apart":
        raise BoxError("level_refused", said)
