"""Check the answers of a session's process. A tool may have written them.

An answer can only describe the result of the call that it answers. A failure that it reports is a
failure of the session: it can neither report one of the box nor stop the host.
"""

from __future__ import annotations

import json
from typing import Any

from ..protocol import Request, encode

KINDS = ("tool_crashed", "state_lost", "server_lost", "timeout", "session_ended")
"""Failure kinds that a session's process may report."""
CALL_RESULT = {
    "text": str,
    "ok": bool,
    "seconds": (int, float),
    "fault": str,
    "is_late": bool,
    "writes": list,
}
"""Fields of a result of `call` with their types. The first three are required."""
CALL_BYTES = 1 << 16
EXCHANGE_BYTES = 64 * 2**20
MOST_SECONDS = 1e9


def most_bytes(request: Request | None, output_bytes: int) -> int:
    """Return the maximum size of the answer to a request.

    A call's output is cut at `output_bytes`; JSON writes a byte of it as at most 6.
    """
    if request is None or request["op"] not in ("exchange", "open"):
        return CALL_BYTES + 8 * output_bytes
    return EXCHANGE_BYTES


def checked(line: bytes, request: Request) -> bytes | None:
    """Return the answer to pass on to the host, or `None` if the line is no answer."""
    # Another encoding, or a line break inside of it, would be read differently by the host.
    if not line.isascii() or b"\0" in line or line.find(b"\n") != len(line) - 1:
        return None
    try:
        reply = json.loads(line)
        if reply["id"] != request["id"] or isinstance(reply["id"], bool):
            return None
        if "error" in reply:
            return _checked_error(reply, request)
        is_right = set(reply) == {"id", "result"} and _is_result(reply["result"], request["op"])
    except (ValueError, TypeError, LookupError, RecursionError):
        return None
    return line if is_right else None


def _checked_error(reply: dict[str, Any], request: Request) -> bytes | None:
    error = reply["error"]
    if set(reply) != {"id", "error"} or set(error) != {"kind", "message"}:
        return None
    if not isinstance(error["kind"], str) or not isinstance(error["message"], str):
        return None
    kind = error["kind"] if error["kind"] in KINDS else "session_ended"
    return encode({"id": request["id"], "error": {"kind": kind, "message": error["message"]}})


def _is_result(result: Any, op: str) -> bool:
    if op == "exchange":
        return isinstance(result, list) and all(isinstance(line, str) for line in result)
    if op != "call" or not isinstance(result, dict):
        return False
    seconds = result["seconds"]
    if isinstance(seconds, bool) or not isinstance(seconds, int | float):
        return False
    if not 0 <= seconds < MOST_SECONDS or not {"text", "ok"} <= set(result) <= set(CALL_RESULT):
        return False
    return all(isinstance(value, CALL_RESULT[name]) for name, value in result.items()) and all(
        isinstance(name, str) for name in result.get("writes", ())
    )
