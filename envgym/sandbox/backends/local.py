"""Backend `local`: boxes are local processes. The default if there is no container engine.

A box has a clean environment without the caller's secrets, handles crashes, hangs and excessive
output of tools, ends with its owner, and gives each session a folder that is removed with it. If
the kernel permits it, a box sees only its own processes, and of the environment's folder only the
files of a container (`agent/private_box.py`). Not isolated: other files and network of the user.
For tools that execute a model's code use Docker.
"""

from __future__ import annotations

import contextlib
import functools
import os
import selectors
import signal
import subprocess
import sys
import tempfile
import threading
from collections.abc import Sequence
from typing import Any

from envgym.errors import PrerequisiteError
from envgym.sandbox import App, Isolation
from envgym.sandbox.agent.cleaning import SHARES_GROUP
from envgym.sandbox.agent.file_tree import wipe
from envgym.sandbox.archive import AGENT, listed_files
from envgym.sandbox.box.channel import FIXED_VARIABLES, Tail
from envgym.sandbox.box.checks import CAPABILITIES, WAY_OUT, random_user
from envgym.sandbox.box.sandbox import PooledSandbox
from envgym.sandbox.options import SandboxOptions

LEVELS: tuple[Isolation, ...] = ("state", "fork")
WHY_NOT: dict[Isolation, str] = dict.fromkeys(
    ("namespaces", "container"),
    "a local process sees the files and the network of its user",
)
ISOLATED = "own processes, no hidden files; other files of the user and the network are open"
NOT_ISOLATED = "can read the caller's files and environment"
KEPT_VARIABLES = (
    "PATH",
    "HOME",
    "TMPDIR",
    "LANG",
    "LC_ALL",
    "LD_LIBRARY_PATH",
    "DYLD_LIBRARY_PATH",
)


def probe() -> dict[str, object]:
    """Return the Python interpreter that runs the boxes, and their isolation."""
    isolation = f"not isolated: {NOT_ISOLATED}" if why_not_isolated() else ISOLATED
    return {"name": "python", "command": sys.executable, "isolation": isolation}


def open(app: App, options: SandboxOptions) -> LocalSandbox:
    """Return a sandbox of local processes."""
    return LocalSandbox(app, options)


@functools.cache
def why_not_isolated() -> str:
    """Return the reason why local boxes cannot isolate themselves here, or an empty string."""
    if sys.platform != "linux":
        return "namespaces exist on Linux only"
    command = [sys.executable, "-I", str(AGENT), "--why-not-isolated"]
    said = subprocess.run(command, capture_output=True, text=True, check=False, env={})
    return said.stdout.strip() if said.returncode == 0 else said.stderr.strip()[-200:]


def private_box(app: App) -> dict[str, Any]:
    """Return the fields of a local box's `PrivateBox`."""
    commands = [word for server in app.servers for word in server.command]
    return {
        "root": str(app.root.resolve()),
        "files": list(listed_files(app)),
        "keep": [_whole(word) for word in commands if os.path.isabs(word)],
    }


def check_hello(app: App, options: SandboxOptions) -> dict[str, Any]:
    """Return the first message to the agent of a local check box.

    The box has no network, an empty /tmp, and nothing of the environment's folder.
    """
    hello = {
        "users": [random_user()],
        "is_open": bool(options.accept_risk),
        "limits": {
            "memory_mb": options.memory_mb,
            "processes": options.max_processes,
            "files": options.max_open_files,
        },
    }
    if why_not_isolated():
        return hello | {"place": None}
    private = {
        "root": str(app.root.resolve()),
        "files": [],
        "tmpfs_mb": options.tmpfs_mb,
        "network": False,
        "capabilities": CAPABILITIES,
        "keep": [],
    }
    return hello | {"place": "/tmp", "private": private}


def start_check(options: SandboxOptions) -> ProcessTransport:
    """Start the agent of a check box.

    Raises:
        PrerequisiteError: If the kernel refuses to isolate it and the YAML does not accept that.
    """
    if (problem := why_not_isolated()) and not options.accept_risk:
        raise PrerequisiteError(
            f"a hidden test cannot be kept from the model's code in a local process: {problem}. "
            f"{WAY_OUT}"
        )
    return start_locally()


def _whole(program: str) -> str:
    """Return the installation of a program: the folder above its `bin`."""
    folder = os.path.dirname(program)
    return os.path.dirname(folder) if os.path.basename(folder) == "bin" else program


def clean_environment() -> dict[str, str]:
    """Return the environment variables of an agent, without any that may hold a secret."""
    return {
        name: os.environ[name] for name in KEPT_VARIABLES if name in os.environ
    } | FIXED_VARIABLES


class ProcessTransport:
    """Agent as a child process with pipes.

    Args:
        scratch: Folder of the box, removed with it. `None` if it is not on this machine.
    """

    def __init__(
        self, command: Sequence[str], environment: dict[str, str], *, scratch: str | None = None
    ):
        self.scratch = scratch
        # A separate process group: Ctrl-C goes to the owner alone, which then closes the box.
        self.process = subprocess.Popen(
            command,
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            bufsize=0,
            env=environment,
            cwd="/",
            start_new_session=True,
        )
        self._stdin: Any = self.process.stdin
        self._stdout: Any = self.process.stdout
        self._stderr: Any = self.process.stderr
        self._tail, self._sending, self._ending = Tail(), threading.Lock(), threading.Lock()
        self._selector = selectors.DefaultSelector()
        for stream in (self._stdout, self._stderr):
            self._selector.register(stream, selectors.EVENT_READ)

    def send(self, data: bytes) -> None:
        with self._sending:
            if self._stdin.closed:
                raise BrokenPipeError("the process has ended")
            while data:
                data = data[self._stdin.write(data) :]

    def receive(self) -> bytes:
        while True:
            ready = {key.fileobj for key, _ in self._selector.select()}
            if self._stderr in ready:
                self._hear_stderr()
            if self._stdout in ready:
                return self._stdout.read(1 << 18) or self._hang_up()

    def _hear_stderr(self) -> None:
        data = self._stderr.read(1 << 16)
        self._tail.add(data)
        if not data:
            self._selector.unregister(self._stderr)

    def _hang_up(self) -> bytes:
        """Close the output pipes from the reading thread, after keeping the rest of stderr."""
        os.set_blocking(self._stderr.fileno(), False)  # A descendant may still hold the pipe open.
        self._tail.add(self._stderr.read() or b"")
        self._selector.close()
        self._stdout.close()
        self._stderr.close()
        return b""

    def last_words(self) -> str:
        return self._tail.text()

    def kill(self) -> None:
        with self._ending:
            if self.process.poll() is None:
                with contextlib.suppress(OSError):
                    os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        if self.scratch:
            wipe(self.scratch)  # The agent removes it too, in case the owner is killed.
        with self._sending:  # A sender blocked on a full pipe has failed by now.
            self._stdin.close()


def start_locally(before: Sequence[str] = ()) -> ProcessTransport:
    """Start an agent with this Python interpreter in a private folder.

    Args:
        before: Words before the command, such as ("nice", "-n", "10").
    """
    scratch = tempfile.mkdtemp(prefix="envgym-")
    environment = clean_environment() | {"ENVGYM_SCRATCH": scratch, SHARES_GROUP: "1"}
    command = [*before, sys.executable, "-s", str(AGENT)]
    return ProcessTransport(command, environment, scratch=scratch)


class LocalSandbox(PooledSandbox):
    """Run an app in local processes."""

    def __init__(self, app: App, options: SandboxOptions):
        problem = why_not_isolated()
        isolation = f"not isolated: {NOT_ISOLATED} ({problem})" if problem else ISOLATED
        super().__init__(
            app,
            start_locally,
            root=str(app.root.resolve()),
            options=options,
            within=options.level,
            label=f"local process, isolation {options.level}: {isolation}",
            start_check=functools.partial(start_check, options),
            check_hello=check_hello(app, options),
        )
        if not problem:
            self._hello["private"] = private_box(app)
