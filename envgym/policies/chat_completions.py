"""Requests and responses of an OpenAI-compatible chat server."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import httpx

from envgym.errors import WorldFailure
from envgym.policies import StopReason
from envgym.text import content_text, read_json


class ContextFull(Exception):
    """The conversation exceeds the model's context."""


class RequestRejected(WorldFailure):
    """The server answered that the request itself is wrong, so it was not retried."""


def assistant_message(message: dict[str, Any], calls: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Return the message that later requests repeat, with the text of its content."""
    plain: dict[str, Any] = {"role": "assistant", "content": content_text(message.get("content"))}
    return plain | ({"tool_calls": list(calls)} if calls else {})


def first_choice(answer: dict[str, Any]) -> dict[str, Any]:
    """Return the first choice of a response. Raises WorldFailure if it has no message."""
    choices = answer.get("choices")
    if (
        not isinstance(choices, list)
        or not choices
        or not isinstance(choices[0], dict)
        or not isinstance(choices[0].get("message"), dict)
    ):
        raise WorldFailure(
            "policy_failed",
            f"the server's answer contains no message: {str(answer)[:200]}",
            stage="policy",
        )
    return choices[0]


def stop_reason(choice: dict[str, Any]) -> StopReason:
    """Return the reason for the end of an answer."""
    return "length" if choice.get("finish_reason") == "length" else "stop"


def read_object(response: httpx.Response) -> dict[str, Any]:
    """Return the JSON object of a response. Raises WorldFailure if it is none."""
    try:
        plain = read_json(response.content)
    except ValueError:
        plain = None
    if not isinstance(plain, dict):
        raise WorldFailure(
            "policy_failed",
            f"the server's answer is not a JSON object: {response.text[:200]!r}",
            stage="policy",
        )
    return plain


def is_context_full(words: str) -> bool:
    """Return whether an error message says that the conversation exceeds the context."""
    words = words.lower()
    return "context_length_exceeded" in words or (
        "context" in words and ("maximum" in words or "exceed" in words)
    )


def retry_after_seconds(response: httpx.Response) -> float:
    """Return the seconds that the server asks to wait, or 0."""
    try:
        return max(0.0, float(response.headers.get("retry-after", "")))
    except ValueError:
        return 0.0


def api_root(url: str) -> str:
    """Return the URL without `/chat/completions`; `/v1` is appended if there is no path."""
    url = url.rstrip("/").removesuffix("/chat/completions")
    return url if httpx.URL(url).path.strip("/") else f"{url}/v1"
