"""Whether a vLLM server answers, and what is done if it does not.

`RemoteServer` waits for a server of somebody else. `ManagedServer` starts one, restarts it when it
dies, and stops its process group at the end. Both count how often the server came back
(`generation`), because a server that restarts has lost its adapters.
"""

from __future__ import annotations

import contextlib
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

from envgym.errors import PrerequisiteError
from envgym_trainer.inference.vllm import guard
from envgym_trainer.inference.vllm.connection import Connection
from envgym_trainer.inference.vllm.errors import ServerGone

POLL_SECONDS = 0.5
HEALTH_POLLS = 12
"""Failed health checks in a row after which a live process counts as dead. Under load a check may
fail by itself."""
STOP_SECONDS = 15.0


class Server(Protocol):
    """Server of an engine. Thread-safe."""

    is_ours: bool
    """Whether the server ends when it is closed."""
    connection: Connection
    generation: int
    """Number of times that the server came back."""

    def recover(self, seen: int, problem: str) -> None:
        """Return when the server answers again.

        Args:
            seen: Generation at which a request failed.
            problem: Reason for the failure.

        Raises:
            ServerGone: If the server does not come back.
        """
        ...

    def close(self) -> None:
        """Release all resources. May be called twice."""
        ...


class RemoteServer:
    """Server that somebody else runs.

    Args:
        url: URL of the server.
        key: API key.
        wait_seconds: Maximum time to wait for a server that does not answer. After a wait in vain,
            later requests fail at once until the server answers again.
    """

    is_ours = False

    def __init__(self, url: str, *, key: str | None = None, wait_seconds: float = 60.0):
        self.connection = Connection(url, key=key)
        self.generation = 0
        self._wait_seconds = wait_seconds
        self._is_gone = False
        self._lock = threading.Lock()

    def recover(self, seen: int, problem: str) -> None:
        with self._lock:
            if seen != self.generation:
                return
            patience = 0.0 if self._is_gone else self._wait_seconds
            deadline = time.monotonic() + patience
            was_away = False
            while not self.connection.is_healthy():
                was_away = True
                if time.monotonic() >= deadline:
                    self._is_gone = True
                    raise ServerGone(
                        f"the vLLM server at {self.connection.url} does not answer ({problem}). "
                        "Start it again, then continue the run with --resume"
                    )
                time.sleep(POLL_SECONDS)
            self.generation += was_away
            self._is_gone = False

    def close(self) -> None:
        self.connection.close()


class ManagedServer:
    """Server that envgym runs on this machine.

    Args:
        command: Executable and its arguments, without address and port.
        environment: Environment variables of the server.
        log: File to which its output is appended.
        start_timeout_seconds: Time limit of a start.
        max_restarts: Maximum number of restarts.
        notify: Receives one line of text for the terminal.

    Raises:
        PrerequisiteError: If the executable does not exist, or the server does not start.
    """

    is_ours = True

    def __init__(
        self,
        command: Sequence[str],
        *,
        environment: Mapping[str, str],
        log: Path,
        start_timeout_seconds: float,
        max_restarts: int,
        notify: Callable[[str], None],
    ):
        self.generation = 0
        self._command = [_executable(command[0]), *command[1:]]
        self._log = log
        self._start_timeout_seconds = start_timeout_seconds
        self._max_restarts = max_restarts
        self._notify = notify
        self._lock = threading.Lock()
        self._process_lock = threading.Lock()
        """Held while the process is started, so that `close` misses none."""
        self._closed = False
        self._port = _free_port()
        # Other users of the machine could otherwise load files through the server.
        self._key = secrets.token_hex(16)
        self._environment = {**environment, "VLLM_API_KEY": self._key}
        log.parent.mkdir(parents=True, exist_ok=True)
        self.connection = Connection(f"http://127.0.0.1:{self._port}", key=self._key)
        self._process: subprocess.Popen[bytes] | None = None
        try:
            self._start()
        except BaseException:
            self.close()
            raise

    @property
    def process_group(self) -> int | None:
        """Id of the server's process group, or None if it does not run."""
        process = self._process
        return None if process is None or process.poll() is not None else process.pid

    def recover(self, seen: int, problem: str) -> None:
        with self._lock:
            if seen != self.generation or self._is_working():
                return
            if self._closed:
                raise ServerGone("the engine is closed")
            if self.generation >= self._max_restarts:
                raise ServerGone(
                    f"the vLLM server died again after {self._max_restarts} restarts ({problem}). "
                    f"Its log is {self._log}. Continue the run with --resume"
                )
            self._notify(f"the vLLM server died ({problem}); starting it again")
            self._stop()
            try:
                self._start()
            except PrerequisiteError as error:
                raise ServerGone(f"{error} Continue the run with --resume") from None
            self.generation += 1

    def close(self) -> None:
        with self._process_lock:
            self._closed = True
        self._stop()
        self.connection.close()

    def _is_working(self) -> bool:
        """Return whether the process runs and answers. A busy one gets time for its answer."""
        for _ in range(HEALTH_POLLS):
            if self.process_group is None:
                return False
            if self.connection.is_healthy():
                return True
            time.sleep(POLL_SECONDS)
        return False

    def _start(self) -> None:
        """Start the process and wait until it answers."""
        if not _is_free(self._port):
            self._port = _free_port()
            self.connection.close()
            self.connection = Connection(f"http://127.0.0.1:{self._port}", key=self._key)
        line = [*self._command, "--host", "127.0.0.1", "--port", str(self._port)]
        self._notify(f"starting vLLM (log: {self._log})")
        with self._process_lock, self._log.open("ab") as log:
            if self._closed:
                raise ServerGone("the engine is closed")
            log.write(f"$ {' '.join(line)}\n".encode())
            log.flush()
            self._process = subprocess.Popen(
                [sys.executable, "-I", guard.__file__, *line],
                env=dict(self._environment),
                stdin=subprocess.PIPE,
                stdout=log,
                stderr=subprocess.STDOUT,
                start_new_session=True,
            )
        self._wait_until_ready()

    def _wait_until_ready(self) -> None:
        started = time.monotonic()
        told = started
        while not self.connection.is_healthy():
            now = time.monotonic()
            if self.process_group is None:
                raise PrerequisiteError(
                    f"vLLM ended while it started: {_reason(self._log)}. Its log is {self._log}."
                )
            if now - started > self._start_timeout_seconds:
                raise PrerequisiteError(
                    f"vLLM did not start within {self._start_timeout_seconds:g} s. Its log is "
                    f"{self._log}. Set train.engine.vllm.start_timeout_seconds if it needs longer."
                )
            if now - told > 60:
                told = now
                self._notify(f"vLLM has been starting for {now - started:.0f} s")
            time.sleep(POLL_SECONDS)
        self._notify(
            f"vLLM answers at {self.connection.url} after {time.monotonic() - started:.0f} s"
        )

    def _stop(self) -> None:
        """End the process group: politely, then with SIGKILL."""
        process = self._process
        if process is None:
            return
        assert process.stdin is not None
        with contextlib.suppress(OSError):
            process.stdin.close()  # the guard ends its group
        with contextlib.suppress(subprocess.TimeoutExpired):
            process.wait(STOP_SECONDS)
        with contextlib.suppress(ProcessLookupError):  # also children that left the guard
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        self._process = None


def _executable(name: str) -> str:
    found = shutil.which(os.path.expanduser(name))
    if found is None:
        raise PrerequisiteError(
            f"there is no executable '{name}'. Install vLLM in a virtual environment of its own "
            "(python -m venv vllm; vllm/bin/pip install vllm) and set "
            "train.engine.vllm.command=vllm/bin/vllm."
        )
    return os.path.abspath(found)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind(("127.0.0.1", port))
        except OSError:
            return False
    return True


def _reason(log: Path) -> str:
    """Return the last line of the log that names an error, or its last line."""
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines()[-200:]]
    named = [line for line in lines if "Error" in line or "error:" in line]
    return ((named or [line for line in lines if line] or ["no output"])[-1])[-300:]
