"""Agent side of the protocol: JSON lines in and out, and the dispatch of requests to a session."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable
from typing import Any

from .errors import BoxError, tail_of
from .session import Desk

Request = dict[str, Any]
Reply = dict[str, Any]


class Wire:
    """Input and output of the protocol, as file descriptors that tools cannot find by number."""

    def __init__(self, source: int, sink: int):
        self.source = source
        self.sink = sink
        self._rest = b""

    def lines(self) -> list[bytes] | None:
        """Block for one read and return the complete lines, possibly none.

        Return `None` at the end.
        """
        data = os.read(self.source, 1 << 16)
        if not data:
            return None
        *whole, self._rest = (self._rest + data).split(b"\n")
        return whole

    def say(self, reply: Reply) -> None:
        self.pass_on(encode(reply))

    def pass_on(self, line: bytes) -> None:
        while line:
            line = line[os.write(self.sink, line) :]


def encode(reply: Reply) -> bytes:
    # ASCII only, because a lone surrogate in a tool's output must not break the line.
    return json.dumps(reply, separators=(",", ":")).encode() + b"\n"


def take_stdio() -> Wire:
    """Reserve stdin and stdout for the protocol.

    Tools then read an empty stdin and print to stderr.
    """
    wire = Wire(os.dup(0), os.dup(1))
    nothing = os.open(os.devnull, os.O_RDONLY)
    os.dup2(nothing, 0)
    os.close(nothing)
    os.dup2(2, 1)
    sys.stdout.reconfigure(line_buffering=True)  # type: ignore[union-attr]
    return wire


def failed(request: Request, kind: str, message: str) -> Reply:
    return {"id": request["id"], "error": {"kind": kind, "message": message}}


def no_session(request: Request) -> Reply:
    why = "closed, timed out, or its process ended"
    return failed(
        request, "session_gone", f"the box has no session '{request.get('session')}' ({why})"
    )


def attempt(request: Request, work: Callable[[], Any]) -> Reply:
    """Return the reply with the result of `work`, or with its error."""
    try:
        return {"id": request["id"], "result": work()}
    except BoxError as error:
        return failed(request, error.kind, str(error))
    except BaseException as error:
        return failed(
            request, "seed_crashed" if request["op"] == "open" else "tool_crashed", tail_of(error)
        )


def answer(desk: Desk, request: Request) -> Reply:
    """Return the reply of a session to `call`, `exchange`, `diff` or `finish`."""
    if request["op"] == "call":
        return attempt(
            request,
            lambda: desk.call(
                request["tool"], request["arguments"], request["now"], request["seconds"]
            ),
        )
    if request["op"] == "exchange":
        return attempt(
            request,
            lambda: desk.relay(request["server"]).exchange(request["lines"], request["patience"]),
        )
    if request["op"] == "finish":
        return attempt(request, lambda: desk.finish(keep_files=request["keep_files"]))
    return attempt(request, desk.diff)
