"""HTTP connection with a vLLM server. One attempt each; `server.py` decides what follows.

Source of routes and fields: vLLM's `entrypoints/openai/completion/protocol.py`,
`entrypoints/serve/lora/` and `entrypoints/serve/dev/sleep/`.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx

from envgym.errors import PrerequisiteError, UsageError
from envgym.http_client import Address, bearer, client_options
from envgym.policies.chat_completions import is_context_full, retry_after_seconds
from envgym.text import read_json
from envgym_trainer.inference.vllm.errors import ContextFull, NoAnswer, Refused

TIMEOUT_SECONDS = 600.0
"""Time limit of one request in seconds. Requests to a busy server wait in its queue."""
HEALTH_TIMEOUT_SECONDS = 5.0
_AGAIN = {408, 409, 425, 429, 500, 502, 503, 504}
"""HTTP status codes after which a request may be sent again."""


class Connection:
    """Connection with one address. Thread-safe. Must be closed.

    Args:
        url: URL of the server, with or without /v1.
        key: API key, sent to `url` only. None sends no key.
        timeout_seconds: Time limit of one request in seconds.
    """

    def __init__(
        self, url: str, *, key: str | None = None, timeout_seconds: float = TIMEOUT_SECONDS
    ):
        address = Address.of(url, bearer(key))
        self.url = address.url.rstrip("/").removesuffix("/v1")
        self._timeout_seconds = timeout_seconds
        # Each episode in flight needs a connection; httpx's default limit is 100.
        self._client = httpx.Client(
            headers=dict(address.headers),
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            **client_options(),
        )

    def models(self) -> list[str]:
        """Return the names of the models and adapters on the server."""
        listed = self._object(self._send("GET", "/v1/models")).get("data")
        entries = listed if isinstance(listed, list) else []
        return [str(entry.get("id")) for entry in entries if isinstance(entry, dict)]

    def post(self, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        """Send one request and return the JSON object of the answer.

        Raises:
            NoAnswer: If the request may be sent again.
            Refused: If the server would refuse it again.
            ContextFull: If the prompt is too long for the server.
            UsageError: If the server refuses the key.
        """
        return self._object(self._send("POST", path, body))

    def act(
        self,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> None:
        """Send one request whose answer is plain text. The errors are those of `post`."""
        self._send("POST", path, body, timeout_seconds=timeout_seconds)

    def stream(self, path: str, body: dict[str, Any]) -> Iterator[dict[str, Any]]:
        """Send one request and yield the objects of its event stream.

        Closing the generator closes the connection, and the server stops sampling. The errors are
        those of `post`.
        """
        try:
            with self._client.stream("POST", self.url + path, json=body) as response:
                if not response.is_success:
                    response.read()
                    self._check(response)
                for line in response.iter_lines():
                    data = line.removeprefix("data:").strip()
                    if not line.startswith("data:") or data == "[DONE]":
                        continue
                    event = json.loads(data)
                    if "error" in event:
                        raise NoAnswer(f"the stream ended with {str(event['error'])[:300]}")
                    yield event
        except httpx.TransportError as error:
            raise NoAnswer(_named(error)) from None

    def is_healthy(self) -> bool:
        """Return whether the server answers in time and its engine works."""
        try:
            answer = self._client.get(f"{self.url}/health", timeout=HEALTH_TIMEOUT_SECONDS)
        except httpx.TransportError:
            return False
        return answer.status_code < 500

    def close(self) -> None:
        self._client.close()

    def _send(
        self,
        method: str,
        path: str,
        body: dict[str, Any] | None = None,
        *,
        timeout_seconds: float | None = None,
    ) -> httpx.Response:
        try:
            response = self._client.request(
                method,
                self.url + path,
                json={} if method == "POST" and body is None else body,
                timeout=timeout_seconds or self._timeout_seconds,
            )
        except httpx.TransportError as error:
            raise NoAnswer(_named(error)) from None
        self._check(response)
        return response

    def _check(self, response: httpx.Response) -> None:
        if response.is_success:
            return
        status = response.status_code
        words = " ".join(response.text[:300].split())
        if status in (401, 403):
            raise UsageError(
                f"the server at {self.url} refused the key (HTTP {status}: {words}). Set "
                "train.engine.vllm.key, such as to env:NAME."
            )
        if status in _AGAIN:
            retry_after = retry_after_seconds(response)
            raise NoAnswer(f"HTTP {status}: {words}", status=status, retry_after=retry_after)
        if status in (400, 413, 422) and is_context_full(response.text):
            raise ContextFull(words)
        raise Refused(status, words)

    def _object(self, response: httpx.Response) -> dict[str, Any]:
        try:
            plain = read_json(response.content)
        except ValueError:
            plain = None
        if not isinstance(plain, dict):
            raise NoAnswer(f"the answer is not a JSON object: {response.text[:200]!r}")
        return plain


def first_contact(connection: Connection) -> list[str]:
    """Return the models of a server that has not answered before.

    Raises:
        PrerequisiteError: If no vLLM server answers at this address.
    """
    try:
        return connection.models()
    except (NoAnswer, Refused) as error:
        raise PrerequisiteError(
            f"no server answers at {connection.url} ({error}). Start one, for example: vllm serve "
            "MODEL, or let envgym start it: train.engine='{vllm: {start: true}}'"
        ) from None


def _named(error: httpx.TransportError) -> str:
    return f"{type(error).__name__}: {error}" if str(error) else type(error).__name__
