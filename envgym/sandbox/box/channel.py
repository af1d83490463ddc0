"""The host's end of the agent's protocol: a `Box` that many threads may ask at once, and a session in it.

One reader thread a box gives each answer to the thread that waits for it, by request id. A box that ends, or says what is no
answer, is lost: every waiting request fails with `sandbox_lost`.

Left out: how the box is started and reached, which is a `Transport` (`local.py`, `docker.py`), and how many there are (`pool.py`).
"""

from __future__ import annotations

import contextlib
import itertools
import json
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any, Protocol

from envgym.errors import PrerequisiteError, SpecError, Stage, UsageError, WorldFailure
from envgym.sandbox import VERIFY_SECONDS, RowChanges, ToolResult, Verification
from envgym.sandbox.statistics import Statistics, counting_failures

GRACE_SECONDS = 10.0
GRACE_SECONDS_STATE = 0.05
"""How long past its deadline a request is waited for. The agent enforces deadlines itself, so silence beyond this means that
it is gone; with isolation `state` nobody else does."""
PING_SECONDS = 5.0
LINE_BYTES = 128 * 2**20
"""A box that sends this much without an end of line is out of its mind."""
STDERR_BYTES = 4096
FIXED_VARIABLES = {
    "TZ": "UTC",
    "PYTHONHASHSEED": "0",
    "PYTHONUTF8": "1",
    "PYTHONDONTWRITEBYTECODE": "1",
}
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


@dataclass(frozen=True, slots=True)
class Usage:
    """What a box has used."""

    memory: int
    """Bytes, now."""
    cpu_seconds: float
    """Since its start; of processes that have ended, where it is not whole."""
    is_whole: bool
    """Of the whole box, as its control group tells; else of the agent's own process."""


class Box:
    """One running agent, asked by many threads.

    Raises: SpecError for an app that cannot be loaded; PrerequisiteError for a level of isolation that it cannot give;
        WorldFailure(stage `open`) for a box that does not start.
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
        self.lost: str | None = None
        """Why the box is gone; None while it is well."""
        self.on_dirty: Callable[[str], None] = lambda message: None
        """Called, by the thread that reads, when a session left what the agent cannot remove."""
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
        """Sends a request and waits for its result. Raises WorldFailure."""
        number = next(self._ids)
        answer = SimpleQueue()
        with self._state:
            if self.lost is None:
                self._waiting[number] = answer
        if self.lost is not None:
            raise WorldFailure("sandbox_lost", self.lost, stage=stage)
        message = {"id": number, "op": op, "timeout": timeout_seconds, **fields}
        return self._exchange(number, message, answer, stage, timeout_seconds)

    def usage(self) -> Usage:
        """What the box uses now. Raises WorldFailure."""
        said = self.request("ping", stage="open", timeout_seconds=PING_SECONDS)
        return Usage(said["memory"], said["cpu_seconds"], is_whole=said["is_whole"])

    def tell(self, op: str, **fields: Any) -> None:
        """Sends what needs no answer; a lost box is no trouble."""
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
        try:
            self._send(message)
            reply = answer.get(timeout=timeout_seconds + self._grace)
        except OSError as error:
            self.end(f"the box takes no request: {error}")
            reply = answer.get()
        except Empty:
            self.end(
                f"the box gave no answer to '{message.get('op', 'start')}' within {timeout_seconds:g} s and was ended"
            )
            raise WorldFailure("timeout", self.lost or "", stage=stage) from None
        finally:
            self._waiting.pop(number, None)
        if error := reply.get("error"):
            if error["kind"] == "app_error":
                raise SpecError(error["message"])
            if error["kind"] == "level_refused":
                raise PrerequisiteError(
                    f"this box cannot give isolation '{message['isolation']}': {error['message']}. Take isolation=container or "
                    "fork, or see `envgym sandbox doctor`"
                )
            raise WorldFailure(error["kind"], error["message"], stage=stage)
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
        self.end(reason + (f"; its last words:\n{words}" if words else ""))

    def _deliver(self, reply: dict[str, Any]) -> None:
        if reply.get("event") == "dirty":
            self.on_dirty(reply["message"])
        elif answer := self._waiting.pop(reply["id"], None):
            answer.put(reply)

    def end(self, reason: str) -> None:
        """Kills the box; whoever still waits gets `sandbox_lost`."""
        with self._state:
            self.lost = self.lost or reason
            waiting = self._waiting
            self._waiting = {}
        for answer in waiting.values():
            answer.put({"error": {"kind": "sandbox_lost", "message": self.lost}})
        self.transport.kill()


class BoxSession:
    """One episode's share of a box; the `Session` of envgym.sandbox.

    Args:
        on_close: called once, when the session has ended.
    """

    def __init__(
        self,
        box: Box,
        name: str,
        state_hash: str,
        *,
        statistics: Statistics,
        on_close: Callable[[], None],
    ):
        self.state_hash = state_hash
        self._box = box
        self._name = name
        self._statistics = statistics
        self._on_close = on_close
        self._lock, self._closing, self._closed = threading.Lock(), threading.Lock(), False

    def call(
        self, tool: str, arguments: dict[str, Any], *, now: str, timeout_seconds: float
    ) -> ToolResult:
        started = time.perf_counter()
        result = ToolResult(
            **self._request(
                "call", "call", timeout_seconds, tool=tool, arguments=arguments, now=now
            )
        )
        self._statistics.time_call(time.perf_counter() - started, inside=result.seconds)
        return result

    def diff(self, *, timeout_seconds: float) -> RowChanges:
        with self._statistics.timed("diff"):
            return self._request("diff", "diff", timeout_seconds)

    def verify(
        self, files: dict[str, str], command: Sequence[str], *, timeout_seconds: float
    ) -> Verification:
        final = self._request("tree", "score", VERIFY_SECONDS)
        if final["problem"]:
            return Verification(None, final["problem"])
        work = {
            "tree": final["tree"],
            "files": files,
            "command": list(command),
            "seconds": timeout_seconds,
        }
        return Verification(
            **self._request("verify", "score", timeout_seconds + VERIFY_SECONDS, **work)
        )

    def exchange(self, server: str, lines: list[str], *, timeout_seconds: float) -> list[str]:
        """Lines to an MCP server of the app, and those that came back: as of the agent's `relay.py`. Raises WorldFailure."""
        # the server is given up before its box is: it has last words
        patience = timeout_seconds
        limit = timeout_seconds + 1.0
        return self._request(
            "exchange", "call", limit, server=server, lines=lines, patience=patience
        )

    def close(self) -> None:
        with self._closing:
            if self._closed:
                return
            self._closed = True
        with self._statistics.timed("close"):
            self._box.tell("close", session=self._name)
        self._on_close()

    def _request(self, op: str, stage: Stage, timeout_seconds: float, **fields: Any) -> Any:
        with self._lock:  # one call at a time: they share a database
            if self._closed:
                raise UsageError("this session is closed; open another one with Sandbox.open()")
            with counting_failures(self._statistics):
                return self._box.request(
                    op, stage=stage, timeout_seconds=timeout_seconds, session=self._name, **fields
                )
