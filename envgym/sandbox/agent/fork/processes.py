"""Child processes of the fork server: start one, wait for any, end one with all it left running."""

from __future__ import annotations

import math
import selectors
import signal
import socket
import time
from collections.abc import Callable, Iterable

from ..cleaning import adopt_orphans, end_strays, ended_how, killed_for_memory
from ..protocol import Request, Wire
from .children import Child, Role, fork


class Processes:
    """Children of this process, and the selector that waits for them and for the host.

    Args:
        enter: Called first in the child of a session, to isolate it further.
    """

    def __init__(self, wire: Wire, enter: Callable[[], None]):
        self.wire = wire
        self.selector = selectors.DefaultSelector()
        self.children: set[Child] = set()
        self._enter = enter
        self._memory_kills = killed_for_memory()
        adopt_orphans()

    def fork(
        self,
        role: Role,
        name: str,
        request: Request,
        work: Callable[[socket.socket], None],
        *,
        private: Iterable[int] = (),
    ) -> Child:
        """Fork a child and wait for its messages from now on.

        Args:
            private: Descriptors that it must close, besides those of the host and other children.

        Raises:
            OSError: If the box has no process or descriptor left.
        """
        # Close the selector too. A child that inherits it could block the agent.
        watched = [self.selector.fileno()] if hasattr(self.selector, "fileno") else []
        closed = [
            self.wire.source,
            self.wire.sink,
            *watched,
            *private,
            *(child.socket.fileno() for child in self.children),
        ]
        enter = (lambda: None) if role == "judge" else self._enter
        child = fork(role, name, request, work, private=closed, enter=enter)
        self.children.add(child)
        self.selector.register(child.socket, selectors.EVENT_READ, child)
        return child

    def end(self, child: Child) -> str:
        """Kill a child and return how it ended. Each kill for memory is reported once."""
        self.children.discard(child)
        self.selector.unregister(child.socket)
        code = child.end()
        for_memory = code == -signal.SIGKILL and killed_for_memory() > self._memory_kills
        self._memory_kills += for_memory
        return ended_how(code, for_memory=for_memory)

    def end_strays(self) -> bool:
        """Kill the processes that ended children left. Return True if all are gone."""
        return end_strays({child.pid for child in self.children})

    def end_all(self) -> None:
        """Kill all children and their descendants."""
        for child in self.children:
            child.kill()
        self.children.clear()
        end_strays(())

    def overdue(self) -> list[Child]:
        """Return the children whose deadline is over."""
        now = time.monotonic()
        return [child for child in self.children if child.deadline <= now]

    def nearest_deadline(self) -> float:
        return min((child.deadline for child in self.children), default=math.inf)
