"""Errors of the HTTP API, in the form of OpenAI's API.

Source: https://platform.openai.com/docs/guides/error-codes
"""

from __future__ import annotations

from typing import Any

from envgym.errors import EnvgymError
from envgym.text import visible


class ApiError(EnvgymError):
    """Answer of the server to a request that it does not fulfil.

    Args:
        status: HTTP status.
        message: Description for the client's developer.
        param: Path of the field that is wrong, such as `messages[0].content`.
        code: Short machine-readable name.
        headers: Headers of the response.
    """

    def __init__(
        self,
        status: int,
        message: str,
        *,
        param: str | None = None,
        code: str | None = None,
        headers: dict[str, str] | None = None,
    ):
        super().__init__(message)
        self.status = status
        self.param = param
        self.code = code
        self.headers = headers or {}

    @property
    def body(self) -> dict[str, Any]:
        """JSON object of the response."""
        kind = "server_error" if self.status >= 500 else "invalid_request_error"
        return {
            "error": {
                "message": visible(str(self)),
                "type": "rate_limit_error" if self.status == 429 else kind,
                "param": self.param,
                "code": self.code,
            }
        }


def invalid(
    message: str, param: str | None, code: str | None = "invalid_value", *, status: int = 400
) -> ApiError:
    """Return the error of a field with a wrong value."""
    return ApiError(status, message, param=param, code=code)


def unsupported(param: str, reason: str) -> ApiError:
    """Return the error of a field, or of a value of it, that this server does not support."""
    return ApiError(400, f"'{param}': {reason}", param=param, code="unsupported_parameter")


def context_exceeded(param: str, tokens: int, limit: int) -> ApiError:
    """Return the error of a prompt that leaves no room for an answer."""
    return ApiError(
        400,
        f"This model's maximum context length is {limit} tokens, and your prompt has {tokens}. "
        "Shorten it, or start the server with a larger --max-context-tokens.",
        param=param,
        code="context_length_exceeded",
    )
