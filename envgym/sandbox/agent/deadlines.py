"""Time limit of one tool call inside the process that runs it, so that the session survives it.

A timer signal interrupts Python code and waiting system calls; a progress handler interrupts SQL.
Code in C that does neither is not interrupted: the fork server or the host ends such a process.
"""

from __future__ import annotations

import contextlib
import signal
import sqlite3
import threading
import time
from typing import Any

REPEAT_SECONDS = 0.3
"""Pause between two interrupts of a call that catches the first one."""
CLOCK_SECONDS = 0.01
"""Tolerance between the timer and the clock."""
STEPS = 100_000
"""Instructions of SQLite's virtual machine between two looks at the timer, about a millisecond."""


class CallTimeout(BaseException):
    """The time limit of the call is over. Not an Exception, so that few tools catch it."""


class Deadline:
    """Interrupt the code in a `with` block after a time limit.

    It has no effect outside of the main thread, which alone receives signals.

    Args:
        seconds: Time limit. None for no limit.
        db: Database whose statements are interrupted too.
    """

    def __init__(self, seconds: float | None, db: sqlite3.Connection):
        is_main = threading.current_thread() is threading.main_thread()
        self.seconds = seconds if is_main else None
        self.is_over = False
        self._end = 0.0
        self._db = db
        self._before: Any = None

    def __enter__(self) -> Deadline:
        if self.seconds is not None:
            self._end = time.monotonic() + self.seconds - CLOCK_SECONDS
            self._before = signal.signal(signal.SIGALRM, self._ring)
            self._db.set_progress_handler(self._look, STEPS)
            signal.setitimer(signal.ITIMER_REAL, self.seconds, REPEAT_SECONDS)
        return self

    def __exit__(self, *_: object) -> None:
        self.disarm()

    def disarm(self) -> None:
        """Stop the timer. Safe to call twice."""
        if self.seconds is not None:
            signal.setitimer(signal.ITIMER_REAL, 0.0)
            signal.signal(signal.SIGALRM, self._before or signal.SIG_DFL)
            with contextlib.suppress(sqlite3.Error):  # The tool may have closed the database.
                self._db.set_progress_handler(None, 0)
            self.seconds = None

    def _ring(self, *_: object) -> None:
        if time.monotonic() < self._end:  # Another process has sent the signal.
            return
        self.is_over = True
        raise CallTimeout

    def _look(self) -> int:
        """Run Python code, so that a pending signal is handled and ends the statement."""
        return int(self.is_over)
