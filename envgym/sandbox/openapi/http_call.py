"""Build and send one HTTP request for an operation and its arguments.

Parameter styles other than OpenAPI's defaults are not supported. `live.py` interprets the status.
"""

from __future__ import annotations

import contextlib
import json
import time
from typing import Any
from urllib.parse import quote

import httpx

from envgym.sandbox.agent.openapi.document import Operation
from envgym.secrets import redact

MOST_REDIRECTS = 5
MARGIN = 2**16
"""Bytes that are read beyond the limit, so that a secret at the cut is read whole and replaced."""
LONGEST_SHOWN = 2**20
"""Longest body that may be shown. Longer ones are tables of the whole state, read by graders."""


class Call:
    """HTTP request of one operation. Raises ValueError if a value is not allowed in its place."""

    def __init__(
        self,
        base_url: str,
        operation: Operation,
        arguments: dict[str, Any],
        headers: dict[str, str],
    ):
        self.method = operation.method.upper()
        path = operation.path
        query = []
        body: Any = {}
        headers = dict(headers)
        for name, value in arguments.items():
            for place in operation.places[name]:
                if place.where == "path":
                    path = path.replace(f"{{{place.name}}}", _segment(name, value))
                elif place.where == "query":
                    query += [
                        (place.name, _plain(one))
                        for one in (value if isinstance(value, list) else [value])
                    ]
                elif place.where == "header":
                    headers[place.name] = _header(name, value)
                else:
                    body = body | {place.name: value} if place.name else value
        wanted = operation.body is not None and (
            operation.body.get("properties") or "body" in operation.parameters["required"]
        )
        self.parts: dict[str, Any] = {"url": base_url + path, "headers": headers}
        self.parts |= {"params": query} if query else {}
        self.parts |= {"json": body} if body or wanted else {}

    def send(self, client: httpx.Client, timeout_seconds: float, most: int) -> tuple[int, str]:
        """Send the request and return (status, body).

        Raises:
            httpx.HTTPError, TimeoutError: If there is no response in time.
            ValueError: If the server redirects to another host or too often.
        """
        deadline = time.monotonic() + timeout_seconds
        request = client.build_request(self.method, **self.parts)
        origin = _origin(request.url)
        for _ in range(MOST_REDIRECTS):
            request.extensions = request.extensions | {
                "timeout": httpx.Timeout(max(0.001, deadline - time.monotonic())).as_dict()
            }
            response = client.send(request, stream=True)
            with contextlib.closing(response):
                if response.next_request is None:
                    return response.status_code, _text(response, deadline, most)
                request = response.next_request
            if _origin(request.url) != origin:
                raise ValueError(
                    f"the server redirects to {request.url.host}, "
                    "which this environment may not call"
                )
        raise ValueError("the server redirects in circles")


def _text(response: httpx.Response, deadline: float, most: int) -> str:
    """Return the body as text, without secrets that the server repeats, cut with a marker.

    The deadline also covers slow responses.
    """
    kept = b""
    for chunk in response.iter_bytes():
        kept += chunk
        if time.monotonic() > deadline:
            raise TimeoutError
        if len(kept) > most + MARGIN:
            break
    text = kept.decode("utf-8", "replace").strip()
    if len(text) <= LONGEST_SHOWN:
        text = redact(text)
    if len(text.encode()) <= most:
        return text
    shown = text.encode()[:most].decode("utf-8", "ignore")
    return f"{shown}\n[output cut: the first {most:,} bytes are shown]"


def _origin(url: httpx.URL) -> tuple[str, str, int | None]:
    return url.scheme, url.host, url.port


def _segment(name: str, value: Any) -> str:
    text = _plain(value)
    if text in ("", ".", ".."):
        raise ValueError(f"{name} cannot be {text!r}")
    return quote(text, safe="")


def _header(name: str, value: Any) -> str:
    text = _plain(value)
    if not text.isprintable() or not text.isascii():
        raise ValueError(f"{name} must be printable ASCII")
    return text


def _plain(value: Any) -> str:
    """Convert a value to text for a path, query or header."""
    if isinstance(value, str):
        value.encode()  # A lone surrogate raises UnicodeEncodeError, which is a ValueError.
        return value
    return json.dumps(value)
