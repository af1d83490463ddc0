"""Host side of the agent's protocol: a `Box` used by many threads, and a session in it.

One reader thread per box hands each reply to the waiting thread by request id. If a box ends or
violates the protocol it is lost: every waiting request fails with `sandbox_lost`. A `Transport`
starts and reaches the box (`local.py`, `docker.py`); see `pool.py` for the number of boxes.
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from envgym.errors import (
    BoxState,
    PrerequisiteError,
    SpecError,
    Stage,
    UsageError,
    WorldFailure,
)
from envgym.sandbox import VERIFY_SECONDS, RowChanges, ToolResult, Verification
from envgym.sandbox.box.neighbours import RequestLog
from envgym.sandbox.statistics import Statistics, counting_failures

GRACE_SECONDS = 10.0
GRACE_SECONDS_STATE = 0.05
"""Seconds to wait for a reply after the deadline of a request.

The agent enforces deadlines itself, so a longer silence means that it is gone. With isolation
`state` only the host enforces them.
"""
STOP_SECONDS = 1.0
"""Seconds for the session's process to stop a call at its time limit. After that it is killed."""
PING_SECONDS = 5.0
LINE_BYTES = 128 * 2**20
"""Maximum length of one line in bytes. A longer one is a protocol error."""
STDERR_BYTES = 4096
FIXED_VARIABLES = {
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
"""Environment variables of every agent: time zone, set order and text encoding must not differ."""


class Transport(Protocol):
    """Connection to a started agent."""

    def send(self, data: bytes) -> None:
        """Write to the agent's stdin. Raises OSError if the agent is gone."""
        ...

    def receive(self) -> bytes:
        """Return the next bytes of the agent's stdout, or b"" at its end.

        Collects the tail of stderr.
        """
        ...

    def last_words(self) -> str:
        """Return the tail of the agent's stderr, which includes the output of tools."""
        ...

    def kill(self) -> None:
        """Kill the box and its processes. Never raises; safe to call twice and from any thread."""
        ...


class Tail:
    """Buffer for the last bytes of a stream."""

    def __init__(self) -> None:
        self._kept = b""

    def add(self, data: bytes) -> None:
        self._kept = (self._kept + data)[-STDERR_BYTES:]

    def text(self) -> str:
        return self._kept.decode("utf-8", "replace").strip()


@dataclass(frozen=True, slots=True)
class Usage:
    """Resource usage of a box."""

    memory: int
    """Current memory in bytes."""
    cpu_seconds: float
    """CPU seconds since the start. If `is_whole` is False, child processes count only after their
    end.
    """
    is_whole: bool
    """True if the numbers cover the whole control group, False if only the agent's process."""


class Box:
    """One running agent, used by many threads.

    Raises:
        SpecError: If the app cannot be loaded.
        PrerequisiteError: If the box cannot provide the isolation level.
        WorldFailure: Stage `open`, if the box does not start.
    """

    def __init__(
        self,
        transport: Transport,
        hello: dict[str, Any],
        *,
        timeout_seconds: float,
        statistics: Statistics,
    ):
        self.transport = transport
        self._statistics = statistics
        self._grace = GRACE_SECONDS_STATE if hello["isolation"] == "state" else GRACE_SECONDS
        self._ids = itertools.count(1)
        self._sending, self._state = threading.Lock(), threading.Lock()
        self._waiting: dict[int, SimpleQueue[dict[str, Any]]] = {}
        self.log = RequestLog()
        self.lost: str | None = None
        """Reason why the box is lost. `None` if it works."""
        self.on_dirty: Callable[[str], None] = lambda message: None
        """Called by the reader thread if a session left traces that the agent cannot remove."""
        ready = self._waiting[0] = SimpleQueue()
        threading.Thread(target=self._read, name="envgym-box", daemon=True).start()
        try:
            self.tools: list[dict[str, Any]] = self._exchange(
                0, hello, ready, "open", timeout_seconds
            )
        except BaseException:
            self.end("the box did not start")
            raise

    def request(self, op: str, *, stage: Stage, timeout_seconds: float, **fields: Any) -> Any:
        """Send a request and return its result. Raises WorldFailure."""
        number = next(self._ids)
        answer = SimpleQueue()
        with self._state:
            if self.lost is None:
                self._waiting[number] = answer
        if self.lost is not None:
            raise WorldFailure("sandbox_lost", self.lost, stage=stage, box="gone")
        message = {"id": number, "op": op, "timeout": timeout_seconds, **fields}
        return self._exchange(number, message, answer, stage, timeout_seconds)

    def usage(self) -> Usage:
        """Return the resource usage of the box. Raises WorldFailure."""
        said = self.request("ping", stage="open", timeout_seconds=PING_SECONDS)
        return Usage(said["memory"], said["cpu_seconds"], is_whole=said["is_whole"])

    def tell(self, op: str, **fields: Any) -> None:
        """Send a message without a reply. A lost box is ignored."""
        if op == "close":
            self.log.forget(fields["session"])
        with contextlib.suppress(OSError):
            self._send({"op": op, **fields})

    def _exchange(
        self,
        number: int,
        message: dict[str, Any],
        answer: SimpleQueue,
        stage: Stage,
        timeout_seconds: float,
    ) -> Any:
        session = message.get("session", "") if "op" in message else ""
        started = self.log.asked(session)
        reply: dict[str, Any] = {"error": {}}
        box: BoxState = "lost"
        try:
            self._send(message)
            reply = answer.get(timeout=timeout_seconds + self._grace)
        except OSError as error:
            self.end(f"the box accepts no request: {error}")
            reply = answer.get()
            box = "gone"
        except Empty:
            neighbours = self.log.neighbours(session, started)
            self.end(
                f"the box did not respond to '{message.get('op', 'start')}' within "
                f"{timeout_seconds:g} s and was ended"
            )
            raise WorldFailure(
                "timeout", self.lost or "", stage=stage, box=box, neighbours=neighbours
            ) from None
        finally:
            self._waiting.pop(number, None)
            self.log.ended(session, answered="error" not in reply)
        if error := reply.get("error"):
            if error["kind"] == "app_error":
                raise SpecError(error["message"])
            if error["kind"] == "level_refused":
                raise PrerequisiteError(
                    f"this box cannot provide isolation '{message['isolation']}': "
                    f"{error['message']}. Use isolation=container or "
                    "fork, or see `envgym sandbox doctor`"
                )
            raise WorldFailure(
                error["kind"],
                error["message"],
                stage=stage,
                box="alive" if self.lost is None else box,
                neighbours=self.log.neighbours(session, started),
            )
        return reply["result"]

    def _send(self, message: dict[str, Any]) -> None:
        line = json.dumps(message, separators=(",", ":")).encode() + b"\n"
        self._statistics.count("bytes/sent", len(line))
        with self._sending:
            self.transport.send(line)

    def _read(self) -> None:
        reason = "the box ended"
        try:
            rest = bytearray()
            while data := self.transport.receive():
                rest += data
                self._statistics.count("bytes/received", len(data))
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
        words = self.transport.last_words()
        self.end(reason + (f"; its last output:\n{words}" if words else ""))

    def _deliver(self, reply: dict[str, Any]) -> None:
        if reply.get("event") == "dirty":
            self.on_dirty(reply["message"])
        elif answer := self._waiting.pop(reply["id"], None):
            answer.put(reply)

    def end(self, reason: str) -> None:
        """Kill the box. Waiting requests fail with `sandbox_lost`."""
        with self._state:
            self.lost = self.lost or reason
            waiting = self._waiting
            self._waiting = {}
        for answer in waiting.values():
            answer.put({"error": {"kind": "sandbox_lost", "message": self.lost}})
        self.transport.kill()


class BoxSession:
    """Session of one episode in a box.

    Args:
        check: Runs a hidden test on a tree of final files, see `CheckRunner.run`.
        on_close: Called once after the session has ended.
    """

    def __init__(
        self,
        box: Box,
        name: str,
        state_hash: str,
        *,
        statistics: Statistics,
        check: Callable[..., Verification],
        on_close: Callable[[], None],
    ):
        self.state_hash = state_hash
        self._box = box
        self._name = name
        self._statistics = statistics
        self._check = check
        self._on_close = on_close
        self._final: dict[str, Any] | None = None
        self._lock, self._closing, self._closed = threading.Lock(), threading.Lock(), False

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        started = time.perf_counter()
        asked = time.monotonic()
        work = {"tool": tool, "arguments": arguments, "now": now, "seconds": timeout_seconds}
        result = ToolResult(**self._request("call", "call", timeout_seconds + STOP_SECONDS, **work))
        self._statistics.time_call(time.perf_counter() - started, inside=result.seconds)
        if result.is_late:
            self._box.log.ended(self._name, answered=False)
            if self._box.log.neighbours(self._name, asked) == "still":
                raise WorldFailure("timeout", result.text, stage="call", neighbours="still")
        return result

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        with self._statistics.timed("diff"):
            return self._request("diff", "diff", timeout_seconds)

    def finish(self, *, timeout_seconds: float, keep_files: bool = False) -> RowChanges:
        with self._statistics.timed("diff"):
            final = self._request("finish", "diff", timeout_seconds, keep_files=keep_files)
        self._final = final
        return final["changes"]

    def verify(
        self,
        files: Mapping[str, str],
        command: Sequence[str],
        *,
        timeout_seconds: float,
        inputs: Mapping[str, str] | None = None,
    ) -> Verification:
        final = self._final or self._request("finish", "score", VERIFY_SECONDS, keep_files=True)
        if final["problem"]:
            return Verification(None, final["problem"])
        with counting_failures(self._statistics), self._statistics.timed("check"):
            return self._check(
                final["tree"], files, inputs or {}, command, timeout_seconds=timeout_seconds
            )

    def exchange(self, server: str, lines: list[str], *, timeout_seconds: float) -> list[str]:
        """Send lines to an MCP server of the app and return its lines. Raises WorldFailure."""
        # The relay must time out before the box, so that it can report the server's last output.
        work = {"server": server, "lines": lines, "patience": timeout_seconds}
        return self._request("exchange", "call", timeout_seconds + 1.0, **work)

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with self._statistics.timed("close"):
            self._box.tell("close", session=self._name)
        self._on_close()

    def _request(self, op: str, stage: Stage, timeout_seconds: float, **fields: Any) -> Any:
        with self._lock:  # Calls share one database, so they run one at a time.
            if self._closed:
                raise UsageError("this session is closed; open another one with Sandbox.open()")
            with counting_failures(self._statistics):
                return self._box.request(
                    op, stage=stage, timeout_seconds=timeout_seconds, session=self._name, **fields
                )
