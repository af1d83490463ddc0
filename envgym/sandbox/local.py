"""Boxes that are local processes: the embedded default, where no container engine is at hand.

Covered: a clean environment (no secrets of the caller), crashes, hangs and floods of tools, an end together with its owner.
Not covered: the box sees the files and the network of the user who runs it. For tools that run code a model wrote, take Docker.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path

from envgym.sandbox import App, Isolation
from envgym.sandbox.stdio import BoxSandbox, Tail

AGENT = Path(__file__).parent / "agent"
KEPT_VARIABLES = ("PATH", "HOME", "TMPDIR", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "DYLD_LIBRARY_PATH")
FIXED_VARIABLES = {"TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""What a tool could read differently in two boxes: the time zone, the order of a set, the encoding of text."""


class LocalTransport:
    """An agent as a child process, with pipes."""

    def __init__(self) -> None:
        environment = {name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ} | FIXED_VARIABLES
        # A process group of its own: Ctrl-C in a terminal is for the owner to handle, who then closes the box.
        self._process = subprocess.Popen(
            [sys.executable, "-s", "-P", str(AGENT)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, bufsize=0,
            env=environment, cwd="/", start_new_session=True,
        )  # fmt: skip
        assert self._process.stdin and self._process.stdout and self._process.stderr
        self._stdin, self._stdout, self._stderr = self._process.stdin, self._process.stdout, self._process.stderr
        self._tail, self._ending = Tail(), threading.Lock()
        self._selector = selectors.DefaultSelector()
        for stream in (self._stdout, self._stderr):
            self._selector.register(stream, selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        while data:
            data = data[os.write(self._stdin.fileno(), data) :]

    def receive(self) -> bytes:
        while True:
            ready = {key.fd for key, _ in self._selector.select()}
            if self._stderr.fileno() in ready:
                self._hear_stderr()
            if self._stdout.fileno() in ready:
                return os.read(self._stdout.fileno(), 1 << 18)

    def _hear_stderr(self) -> None:
        data = os.read(self._stderr.fileno(), 1 << 16)
        self._tail.add(data)
        if not data:
            self._selector.unregister(self._stderr)

    def last_words(self) -> str:
        return self._tail.text()

    def kill(self) -> None:
        with self._ending:
            if self._process.poll() is not None:
                return
            with contextlib.suppress(OSError):
                os.killpg(self._process.pid, signal.SIGKILL)
            self._process.wait()


class LocalSandbox(BoxSandbox):
    """Runs an app in a local process; arguments as the fields of `SandboxOptions`."""

    def __init__(self, app: App, *, isolation: Isolation = "fork", output_bytes: int = 65536, open_seconds: float = 30.0):
        label = f"local process, isolation {isolation}: no file or network isolation"
        super().__init__(
            app, LocalTransport, root=str(app.root.resolve()), isolation=isolation, output_bytes=output_bytes, label=label,
            start_seconds=open_seconds,
        )  # fmt: skip
