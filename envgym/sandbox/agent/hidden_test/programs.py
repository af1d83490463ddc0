"""Programs that a hidden test starts: the model's code, under another user than the test.

`subprocess.Popen` gets the user, a clean environment, a session of its own and no descriptors
except its streams. When the last program has ended, processes that programs left behind are killed,
so that nothing changes files while the test reads them.
"""

from __future__ import annotations

import contextlib
import functools
import inspect
import os
import signal
import subprocess
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

from .. import linux
from .settings import TestSettings

MOST_TEMPORARY_BYTES = 64 * 2**20
"""Maximum size of a temporary folder of programs in a user namespace."""
ROUNDS = 100
"""Maximum rounds of killing processes that keep forking."""


class Programs:
    """Start the programs of a test apart from it, and end their descendants."""

    def __init__(self, settings: TestSettings):
        self._settings = settings
        self._local = threading.local()
        self._lock = threading.Lock()
        self._running = set[int]()

    @property
    def is_starting(self) -> bool:
        """Whether this thread is inside the start of a program."""
        return getattr(self._local, "is_starting", False)

    def install(self) -> None:
        """Make `subprocess` and `os.system` start programs apart from the test."""
        plain = subprocess.Popen.__init__
        signature = inspect.signature(plain)

        @functools.wraps(plain)
        def start(process: Any, *given: Any, **named: Any) -> None:
            bound = signature.bind(process, *given, **named)
            self._local.is_starting = True
            try:
                plain(**self._apart(bound.arguments))  # type: ignore[arg-type]
            finally:
                self._local.is_starting = False
            with self._lock:
                self._running.add(process.pid)

        finish = subprocess.Popen._handle_exitstatus  # type: ignore[attr-defined]

        @functools.wraps(finish)
        def note_end(process: Any, *given: Any, **named: Any) -> None:
            finish(process, *given, **named)
            self._ended(process.pid)

        subprocess.Popen.__init__ = start  # type: ignore[method-assign]
        subprocess.Popen._handle_exitstatus = note_end  # type: ignore[attr-defined]
        os.system = _system

    def _apart(self, options: dict[str, Any]) -> dict[str, Any]:
        """Return the options of `Popen` with everything that keeps the program from the test."""
        settings = self._settings
        options = dict(options) | {"close_fds": True}
        if options.get("env") is None:
            options["env"] = settings.environment
        if options.get("process_group") is None:
            options["start_new_session"] = True
        # Without a given stdin the program would share the test's.
        if options.get("stdin") is None:
            options["stdin"] = subprocess.DEVNULL
        if settings.separation == "users":
            options |= {"user": settings.user, "group": settings.user, "extra_groups": []}
        elif settings.separation == "namespaces":
            options["preexec_fn"] = functools.partial(
                enter_program, settings, options.get("preexec_fn")
            )
        return options

    def _ended(self, pid: int) -> None:
        with self._lock:
            self._running.discard(pid)
            if self._settings.separation == "users" and not any(map(_is_alive, self._running)):
                kill_user(self._settings.user)


def enter_program(settings: TestSettings, before: Callable[[], Any] | None = None) -> None:
    """Enter namespaces below the test's. Runs in the child that becomes the program.

    The kernel refuses a process of a lower user namespace to trace the test or to read its memory,
    environment and descriptors. In the mount namespace the test's folder is empty and only the
    program's places are writable.
    """
    linux.unshare(0, users=True)
    linux.make_private()
    writable = [settings.work, settings.home]
    size = min(linux.size_of(settings.place), MOST_TEMPORARY_BYTES)
    linux.cover(settings.place, writable, options=f"size={size},mode=1777")
    for folder in ("/tmp", "/dev/shm"):
        if os.path.isdir(folder) and folder != settings.place:
            linux.cover(folder, [settings.place], options=f"size={size},mode=1777")
            writable.append(folder)
    linux.set_read_only("/", is_read_only=True, recursive=True)
    for place in (settings.place, *writable):
        linux.set_read_only(place, is_read_only=False)
    if pid := os.fork():
        nothing = os.open(os.devnull, os.O_RDWR)
        for descriptor in (0, 1, 2):
            os.dup2(nothing, descriptor)
        os.closerange(3, 1 << 12)
        linux.end_like(pid)
    linux.prctl(linux.SET_DEATH_SIGNAL, signal.SIGKILL)
    with contextlib.suppress(OSError):  # Parts of /proc are covered; the visible one is harmless.
        linux.mount_proc()
    os.chdir(os.getcwd())  # to the place that is mounted here now
    linux.give_up_capabilities()
    if before:
        before()


def kill_user(user: int) -> None:
    """Kill all processes of a user in this PID namespace."""
    for _ in range(ROUNDS):
        found = _processes_of(user)
        for sent in (signal.SIGSTOP, signal.SIGKILL):
            for pid in found:
                with contextlib.suppress(OSError):
                    os.kill(pid, sent)
        if not found:
            return


def _processes_of(user: int) -> list[int]:
    """Return the processes of a user that are not zombies."""
    found = []
    for name in os.listdir("/proc"):
        with contextlib.suppress(OSError, ValueError, IndexError):
            lines = Path(f"/proc/{int(name)}/status").read_text().splitlines()
            fields = dict(line.split(":", 1) for line in lines[:12] if ":" in line)
            is_zombie = fields["State"].split()[0] in "ZX"
            if int(fields["Uid"].split()[0]) == user and not is_zombie:
                found.append(int(name))
    return found


def _is_alive(pid: int) -> bool:
    """Return whether a child of this process runs; one that ended is not reaped."""
    try:
        return os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None
    except ChildProcessError:
        return False


def _system(command: Any) -> int:
    code = subprocess.call(command, shell=True)
    return code << 8 if code >= 0 else -code
