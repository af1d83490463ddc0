"""Signals that other processes of the same user send to the agent or to a session's process.

Any program that a tool starts can send them. The agent and its judges ignore them all. A session's
process has handlers that do nothing instead, because programs inherit an ignored signal but not a
handler. SIGKILL and SIGSTOP cannot be handled.
"""

from __future__ import annotations

import contextlib
import os
import signal

FATAL = ("SIGKILL", "SIGSTOP")
ERRORS = ("SIGSEGV", "SIGBUS", "SIGFPE", "SIGILL", "SIGABRT", "SIGTRAP", "SIGSYS")
"""Signals that report an error of the process itself."""
HARMLESS = ("SIGCHLD", "SIGCONT", "SIGURG", "SIGWINCH")
"""Signals without an effect by default. Ignoring SIGCHLD would lose the exit codes of children."""
IGNORED_BY_PYTHON = ("SIGPIPE", "SIGXFSZ")
"""Signals that Python ignores and that `subprocess` restores in a program."""


def _others(*names: str) -> list[signal.Signals]:
    kept = {getattr(signal, name, None) for name in names}
    return [number for number in signal.valid_signals() if number not in kept]  # type: ignore[misc]


def ignore_signals() -> None:
    """Ignore every signal that can be ignored, except those without an effect."""
    for number in _others(*FATAL, *HARMLESS):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, signal.SIG_IGN)


def withstand_signals() -> None:
    """Let every signal that would end or stop this process do nothing.

    Processes that a tool forks can be signalled as usual.
    """
    owner = os.getpid()

    def do_nothing(number: int, _frame: object) -> None:
        if os.getpid() != owner:
            signal.signal(number, signal.SIG_DFL)
            os.kill(os.getpid(), number)

    for name in (*ERRORS, *HARMLESS):
        if number := getattr(signal, name, None):
            signal.signal(number, signal.SIG_DFL)
    for number in _others(*FATAL, *ERRORS, *HARMLESS, *IGNORED_BY_PYTHON):
        with contextlib.suppress(OSError, ValueError):
            signal.signal(number, do_nothing)
