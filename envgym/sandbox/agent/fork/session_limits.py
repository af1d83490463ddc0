"""Try the namespaces of sessions, so that a refused isolation level is reported at the start."""

from __future__ import annotations

import os
import socket

from ..errors import BoxError
from ..namespaces import Limits, enter
from .children import fork

TRIAL_SECONDS = 5.0
"""Time limit in seconds for a child to become ready."""


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
