"""Requests of all sessions of one box: did the others get answers while one of them waited?"""

from __future__ import annotations

import threading
import time

from envgym.errors import Neighbours


class RequestLog:
    """Times of the requests of a box by session. Safe to use from many threads."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._asked: dict[str, float] = {}
        self._answered: dict[str, float] = {}
        self._stopped: dict[str, float] = {}

    def asked(self, session: str) -> float:
        """Record a request and return its time, a value of `time.monotonic()`."""
        with self._lock:
            self._asked[session] = now = time.monotonic()
        return now

    def ended(self, session: str, *, answered: bool) -> None:
        """Record the end of a request: answered, or stopped because it took too long."""
        with self._lock:
            self._asked.pop(session, None)
            self._answered.pop(session, None)
            (self._answered if answered else self._stopped)[session] = time.monotonic()

    def forget(self, session: str) -> None:
        """Forget a session that was closed."""
        with self._lock:
            for times in (self._asked, self._answered, self._stopped):
                times.pop(session, None)

    def neighbours(self, session: str, since: float) -> Neighbours:
        """Return what happened to the other sessions while a request of this one ran.

        Args:
            session: Session whose request failed.
            since: Time of that request.
        """
        # A neighbour that has just asked is no evidence that the box stands still.
        middle = (since + time.monotonic()) / 2
        with self._lock:
            answered = [at for name, at in self._answered.items() if name != session]
            waiting = [at for name, at in self._asked.items() if name != session]
            stopped = [at for name, at in self._stopped.items() if name != session]
        if any(at >= since for at in answered):
            return "moved"
        is_still = any(at <= middle for at in waiting) or any(at >= since for at in stopped)
        return "still" if is_still else "none"
