"""Run one MCP server for a session and relay its JSON-RPC lines over stdin and stdout.

The client is on the host. The relay writes the client's lines and returns the server's lines once
all requests are answered or the server sends a request. Other output and stderr go to the box's
stderr; the last bytes are kept for error messages. Messages are not interpreted otherwise.
"""

from __future__ import annotations

import contextlib
import json
import os
import selectors
import signal
import subprocess
import sys
import threading
import time
from typing import Any

from .errors import BoxError

EXCHANGE_BYTES = 16 * 2**20
EXCHANGE_LINES = 10_000
"""Limits of one exchange in bytes and lines. A server that exceeds them is killed."""
WORDS_BYTES = 2000
OWN_PYTHON = ("python", "python3")
"""Commands replaced by the Python interpreter that runs the agent."""


class Relay:
    """Running MCP server. For one thread at a time.

    Args:
        server: Dict with `name`, `command` (list of words) and `env` (additional variables).
        root: Folder in which the server starts.
        seed: Passed to the server as ENVGYM_SEED.
    """

    def __init__(self, server: dict[str, Any], root: str, seed: int):
        self.name = server["name"]
        self._unanswered: set[str] = set()
        self._outgoing = b""
        self._rest = b""
        self._words = b""
        self._failure = ""
        program, *arguments = server["command"]
        try:
            self._process = subprocess.Popen(
                [sys.executable if program in OWN_PYTHON else program, *arguments],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
                cwd=root,
                env=os.environ | server["env"] | {"ENVGYM_SEED": str(seed)},
            )
        except OSError as error:
            raise BoxError(
                "server_lost", f"MCP server '{self.name}' does not start: {error}"
            ) from None
        self._stdin: Any = self._process.stdin
        self._stdout: Any = self._process.stdout
        for stream in (self._stdin, self._stdout):
            os.set_blocking(stream.fileno(), False)
        self._listener = threading.Thread(
            target=self._hear_stderr, name="envgym-stderr", daemon=True
        )
        self._listener.start()

    def exchange(self, lines: list[str], seconds: float) -> list[str]:
        """Write `lines` and return the server's lines once no request is unanswered.

        After an error the server is killed and every later exchange raises `server_lost`.

        Raises:
            BoxError: Kind `server_lost` (it ended), `timeout`, or `tool_crashed` (too much output).
        """
        if self._failure:
            raise BoxError("server_lost", self._failure)
        self._note_requests(lines)
        self._outgoing += "".join(f"{line}\n" for line in lines).encode()
        deadline = time.monotonic() + seconds
        incoming: list[str] = []
        size = 0
        while self._outgoing or self._unanswered:
            self._write()
            data = (
                self._read(deadline - time.monotonic())
                if self._outgoing or self._unanswered
                else b""
            )
            size += len(data)
            asked = self._take(data, incoming)
            if size > EXCHANGE_BYTES or len(incoming) > EXCHANGE_LINES:
                limit = f"{EXCHANGE_BYTES >> 20} MiB or {EXCHANGE_LINES:,} lines"
                self._fail("tool_crashed", f"sent more than {limit} in one exchange")
            if asked:
                break
        return incoming

    def _note_requests(self, lines: list[str]) -> None:
        for message in map(json.loads, lines):
            if message.get("method") == "notifications/cancelled":
                self._unanswered.discard(repr(message["params"].get("requestId")))
            elif "method" in message and "id" in message:
                self._unanswered.add(repr(message["id"]))

    def _write(self) -> None:
        """Write as much as the server accepts without blocking."""
        try:
            written = self._stdin.write(self._outgoing) if self._outgoing else 0
        except OSError:  # Its end is detected on stdout, which may still hold earlier output.
            written = len(self._outgoing)
        self._outgoing = self._outgoing[written or 0 :]

    def _read(self, seconds: float) -> bytes:
        """Wait until the server sends output or accepts input, and return its output.

        Raises:
            BoxError: If neither happens in time, or the server ended.
        """
        with selectors.DefaultSelector() as selector:
            selector.register(self._stdout, selectors.EVENT_READ)
            if self._outgoing:
                selector.register(self._stdin, selectors.EVENT_WRITE)
            ready = {key.fileobj for key, _ in selector.select(max(0.0, seconds))}
        if not ready:
            self._fail("timeout", "did not respond in time")
        if self._stdout not in ready:
            return b""
        data = self._stdout.read(1 << 18)
        if data == b"":
            self._fail("server_lost", f"ended ({self._how_it_ended()})")
        return data or b""

    def _take(self, data: bytes, incoming: list[str]) -> bool:
        """Collect complete lines. Return True if one of them is a request to the client."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        asked = False
        for line in lines:
            # A server in another encoding must not lose its answer: the caller makes its bytes
            # visible.
            text = line.decode("utf-8", "surrogateescape")
            message = _message(text)
            if message is None:
                self._remember(line + b"\n" if line.strip() else b"")
                continue
            incoming.append(text)
            asked |= "method" in message and "id" in message
            if "method" not in message:
                self._unanswered.discard(repr(message.get("id")))
        return asked

    def _fail(self, kind: str, what: str) -> None:
        self.end()
        self._listener.join(0.5)
        words = self._words.decode("utf-8", "replace").strip()
        self._failure = f"MCP server '{self.name}' {what}" + (
            f"; its last output:\n{words}" if words else ""
        )
        raise BoxError(kind, self._failure)

    def _how_it_ended(self) -> str:
        try:
            code = self._process.wait(0.5)
        except subprocess.TimeoutExpired:
            return "it closed its stdout"
        return f"signal {signal.Signals(-code).name}" if code < 0 else f"exit status {code}"

    def _hear_stderr(self) -> None:
        stream: Any = self._process.stderr
        with contextlib.suppress(OSError, ValueError):
            while data := stream.read(1 << 16):
                self._remember(data)

    def _remember(self, data: bytes) -> None:
        self._words = (self._words + data)[-WORDS_BYTES:]
        with contextlib.suppress(OSError):
            os.write(2, data)

    def end(self) -> None:
        """Kill the server. Its child processes end with the session."""
        self._process.kill()
        self._process.wait()


def _message(line: str) -> dict[str, Any] | None:
    """Return a JSON-RPC message, or `None` for any other output."""
    try:
        message = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return message if isinstance(message, dict) and message.get("jsonrpc") == "2.0" else None
