"""The host's end of the agent's protocol: a `Box` that many threads may ask at once, and the sandbox made of it.

One reader thread a box gives each answer to the thread that waits for it, by request id. A box that ends, or says what is no
answer, is lost: every waiting request fails with `sandbox_lost`, and the next `open` starts a fresh box.

Left out: how the box is started and reached, which is a `Transport` (`local.py`, `docker.py`).
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import json
import os
import threading
from collections.abc import Callable
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from envgym.errors import PrerequisiteError, SpecError, Stage, UsageError, WorldFailure
from envgym.sandbox import App, RowChanges, ToolResult
from envgym.sandbox.options import SandboxOptions

GRACE_SECONDS = {"fork": 10.0, "state": 0.05}
"""How long past its deadline a request is waited for. With `fork` the agent enforces deadlines itself, so silence beyond
this means that the agent is gone; with `state` nobody else does."""
LINE_BYTES = 128 * 2**20
"""A box that sends this much without an end of line is out of its mind."""
STDERR_BYTES = 4096
FIXED_VARIABLES = {"TZ": "UTC", "PYTHONHASHSEED": "0", "PYTHONUTF8": "1", "PYTHONDONTWRITEBYTECODE": "1"}
"""Environment of every agent: what a tool could read differently in two boxes (time zone, order of a set, text encoding)."""


class Transport(Protocol):
    """A started agent and the bytes to and from it."""

    def send(self, data: bytes) -> None:
        """Writes to the agent's stdin. Raises OSError when it is gone."""
        ...

    def receive(self) -> bytes:
        """The next bytes of the agent's stdout; empty when it has ended. Keeps the tail of stderr aside."""
        ...

    def last_words(self) -> str:
        """The tail of the agent's stderr, where the prints of tools go too."""
        ...

    def kill(self) -> None:
        """Ends the box and all that runs in it. Never raises; safe to call twice and from any thread."""
        ...


class Tail:
    """The last bytes of a stream."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-STDERR_BYTES:]

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()


class Box:
    """One running agent, asked by many threads.

    Raises: SpecError for an app that cannot be loaded; WorldFailure(stage `open`) for a box that does not start.
    """

    def __init__(self, transport: Transport, hello: dict[str, Any], *, timeout_seconds: float):
        self._transport, self._grace = transport, GRACE_SECONDS[hello["isolation"]]
        self._ids = itertools.count(1)
        self._sending, self._state = threading.Lock(), threading.Lock()
        self._waiting: dict[int, SimpleQueue[dict[str, Any]]] = {}
        self.lost: str | None = None
        """Why the box is gone; None while it is well."""
        ready = self._waiting[0] = SimpleQueue()
        threading.Thread(target=self._read, name="envgym-box", daemon=True).start()
        self.tools: list[dict[str, Any]] = self._exchange(0, hello, ready, "open", timeout_seconds)

    def request(self, op: str, *, stage: Stage, timeout_seconds: float, **fields: Any) -> Any:
        """Sends a request and waits for its result. Raises WorldFailure."""
        number, answer = next(self._ids), SimpleQueue()
        with self._state:
            if self.lost is None:
                self._waiting[number] = answer
        if self.lost is not None:
            raise WorldFailure("sandbox_lost", self.lost, stage=stage)
        message = {"id": number, "op": op, "timeout": timeout_seconds, **fields}
        return self._exchange(number, message, answer, stage, timeout_seconds)

    def tell(self, op: str, **fields: Any) -> None:
        """Sends what needs no answer; a lost box is no trouble."""
        with contextlib.suppress(OSError):
            self._send({"op": op, **fields})

    def _exchange(self, number: int, message: dict[str, Any], answer: SimpleQueue, stage: Stage, timeout_seconds: float) -> Any:
        try:
            self._send(message)
            reply = answer.get(timeout=timeout_seconds + self._grace)
        except OSError as error:
            self.end(f"the box takes no request: {error}")
            reply = answer.get()
        except Empty:
            self.end(f"the box gave no answer to '{message.get('op', 'start')}' within {timeout_seconds:g} s and was ended")
            raise WorldFailure("timeout", self.lost or "", stage=stage) from None
        finally:
            self._waiting.pop(number, None)
        if error := reply.get("error"):
            if error["kind"] == "app_error":
                raise SpecError(error["message"])
            raise WorldFailure(error["kind"], error["message"], stage=stage)
        return reply["result"]

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        with self._sending:
            self._transport.send(line)

    def _read(self) -> None:
        reason = "the box ended"
        try:
            rest = bytearray()
            while data := self._transport.receive():
                rest += data
                if b"\n" in data:
                    *lines, rest = rest.split(b"\n")
                    for line in lines:
                        self._deliver(json.loads(line))
                elif len(rest) > LINE_BYTES:
                    raise ValueError("a line without an end")
        except OSError as error:
            reason = f"the connection to the box broke: {error}"
        except (ValueError, TypeError, KeyError) as error:
            reason = f"the box broke the protocol: {error}"
        words = self._transport.last_words()
        self.end(reason + (f"; its last words:\n{words}" if words else ""))

    def _deliver(self, reply: dict[str, Any]) -> None:
        if answer := self._waiting.pop(reply["id"], None):
            answer.put(reply)

    def end(self, reason: str) -> None:
        """Kills the box; whoever still waits gets `sandbox_lost`."""
        with self._state:
            self.lost = self.lost or reason
            waiting, self._waiting = self._waiting, {}
        for answer in waiting.values():
            answer.put({"error": {"kind": "sandbox_lost", "message": self.lost}})
        self._transport.kill()


class BoxSession:
    """One episode's share of a box; the `Session` of envgym.sandbox."""

    def __init__(self, box: Box, name: str, state_hash: str):
        self.state_hash = state_hash
        self._box, self._name, self._lock, self._closed = box, name, threading.Lock(), False

    def call(self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float) -> ToolResult:
        result = self._request("call", "call", timeout_seconds, tool=tool, arguments=arguments, now=now)
        return ToolResult(**result)

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        return self._request("diff", "diff", timeout_seconds)

    def exchange(self, server: str, lines: list[str], *, timeout_seconds: float) -> list[str]:
        """Lines to an MCP server of the app, and those that came back: as of the agent's `relay.py`. Raises WorldFailure."""
        patience, limit = timeout_seconds, timeout_seconds + 1.0  # the server is given up before its box is: it has last words
        return self._request("exchange", "call", limit, server=server, lines=lines, patience=patience)

    def close(self) -> None:
        if not self._closed:
            self._closed = True
            self._box.tell("close", session=self._name)

    def _request(self, op: str, stage: Stage, timeout_seconds: float, **fields: Any) -> Any:
        with self._lock:  # one call at a time: they share a database
            if self._closed:
                raise UsageError("this session is closed; open another one with Sandbox.open()")
            return self._box.request(op, stage=stage, timeout_seconds=timeout_seconds, session=self._name, **fields)


class BoxSandbox:
    """A sandbox of one box at a time, started when it is first needed and again after it was lost.

    Args:
        start: gives a freshly started agent.
        root: the app's folder as the agent sees it.
        label: what people are told about the isolation in force.
    """

    def __init__(self, app: App, start: Callable[[], Transport], *, root: str, options: SandboxOptions, label: str):
        self.label = label
        self._hello = {"root": root, "tools": list(app.tools), "schema": app.schema, "seed": app.seed,
                       "servers": [dataclasses.asdict(server) for server in app.servers],
                       "isolation": options.isolation, "output_bytes": options.output_bytes}  # fmt: skip
        self._start, self._start_seconds = start, options.open_seconds
        self._names = itertools.count(1)
        self._closed = self._has_worked = False
        self._forget_boxes()

    def _forget_boxes(self) -> None:
        self._process, self._lock, self._box = os.getpid(), threading.Lock(), None

    def _after_fork(self) -> None:
        """For what else a backend must not share with its parent process."""

    def describe(self) -> list[dict[str, Any]]:
        return self._ready_box().tools

    def open(self, *, seed: int, timeout_seconds: float) -> BoxSession:
        box, name = self._ready_box(), f"s{next(self._names)}"
        state_hash = box.request("open", stage="open", timeout_seconds=timeout_seconds, session=name, seed=seed)
        return BoxSession(box, name, state_hash)

    def close(self) -> None:
        self._closed = True
        with self._lock:
            if self._box and self._process == os.getpid():
                self._box.end("the sandbox was closed")
            self._box = None

    def _ready_box(self) -> Box:
        if self._process != os.getpid():  # after a fork of the host: the box, and maybe a held lock, belong to the parent
            self._forget_boxes()
            self._after_fork()
        with self._lock:
            if self._closed:
                raise UsageError("this sandbox is closed; open another one with open_sandbox()")
            if self._box is None or self._box.lost is not None:
                self._box = self._new_box()
            return self._box

    def _new_box(self) -> Box:
        try:
            box = Box(self._start(), self._hello, timeout_seconds=self._start_seconds)
        except WorldFailure as failure:
            if self._has_worked:
                raise
            raise PrerequisiteError(f"the sandbox does not start ({self.label}): {failure.message}") from None
        self._has_worked = True
        return box
