"""Policy that uses an OpenAI-compatible chat server: vLLM, SGLang, llama.cpp, Ollama or OpenAI.

Structured tool calls are written into the answer in a dialect that the environment reads, so that
it parses and counts them like other calls. Not supported: token ids and logprobs, so this policy is
for evaluation only.
"""

from __future__ import annotations

import os
import random
import threading
import time
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any
from urllib.parse import urlsplit

import httpx

from envgym.errors import PrerequisiteError, UsageError, WorldFailure
from envgym.http_client import Address, bearer, client_options
from envgym.messages import Message
from envgym.policies import SamplingOverrides
from envgym.policies.chat_completions import (
    ContextFull,
    RequestRejected,
    api_root,
    is_context_full,
    read_object,
    retry_after_seconds,
)
from envgym.policies.openai_dialogue import ChatSettings, OpenAIDialogue, ToolRole
from envgym.secrets.values import resolve
from envgym.tasks import Task

if TYPE_CHECKING:
    from envgym.spec.environment import EnvSpec
    from envgym.world import World

EXAMPLE = "openai:http://localhost:8000/v1#MODEL"
KEY_VARIABLE = "OPENAI_API_KEY"
"""Environment variable with the key for the server that the command line names."""
RETRIED = {408, 409, 425, 429, 500, 502, 503, 504}
"""HTTP status codes that are retried."""
LONGEST_WAIT_SECONDS = 30.0


class OpenAIPolicy:
    """Policy that sends `POST {base_url}/chat/completions`. Thread-safe.

    Args:
        base_url: URL such as `http://localhost:8000/v1`. `/v1` is appended if there is no path.
        model: Name of the model. Default: the server's only model.
        api_key: API key, sent to `base_url` only. Default: no key. A user and a password in
            `base_url` are sent instead of a key.
        temperature: Sampling temperature.
        max_tokens: Maximum number of tokens of one answer.
        timeout_seconds: Time limit of one request in seconds.
        retries: Number of retries after a transient failure (timeouts, 429, 5xx).
        backoff_seconds: Wait before the first retry in seconds. It doubles each time; the server's
            Retry-After takes precedence.
        extra_body: Further fields of the request, such as `{"chat_template_kwargs": {...}}`. None
            removes a field.
        dialects: Dialects that the environment reads (`prompt.dialects`). Structured calls of the
            server are written in the first one that can express them.
        tool_role: Role of the result of a call that the model wrote as text. The chat template of
            an adapter shows role `tool` as training did. If the server refuses it, the results are
            sent as `<tool_response>` of the user.
    """

    def __init__(
        self,
        base_url: str,
        model: str | None = None,
        *,
        api_key: str | None = None,
        temperature: float = 0.0,
        max_tokens: int = 512,
        timeout_seconds: float = 120.0,
        retries: int = 3,
        backoff_seconds: float = 0.5,
        extra_body: dict[str, Any] | None = None,
        dialects: Sequence[str] = ("hermes",),
        tool_role: ToolRole = "tool",
    ):
        address = Address.of(base_url, bearer(api_key))
        self.base_url = api_root(address.url)
        self._model = model
        self.retries = retries
        self.backoff_seconds = backoff_seconds
        self.settings = ChatSettings(
            temperature, max_tokens, dict(extra_body or {}), tuple(dialects), tool_role
        )
        # Each episode in flight needs a connection; httpx's default limit is 100.
        self._client = httpx.Client(
            headers=dict(address.headers),
            timeout=timeout_seconds,
            limits=httpx.Limits(max_connections=None, max_keepalive_connections=256),
            **client_options(),
        )
        self._lock = threading.Lock()
        self._answered = False

    @classmethod
    def from_argument(cls, text: str, **options: Any) -> OpenAIPolicy:
        """Build the policy for `openai:URL` or `openai:URL#MODEL` of a command line.

        The key OPENAI_API_KEY is sent to this URL, because the user named both. No URL of a YAML
        gets it.

        Raises:
            UsageError: If the text has no URL.
        """
        url, _, model = text.removeprefix("openai:").partition("#")
        if not url.startswith(("http://", "https://")):
            raise UsageError(
                f"policy '{text}': needs a URL, as in openai:http://localhost:8000/v1#MODEL"
            )
        has_credentials = "@" in urlsplit(url).netloc
        key = None if has_credentials or not os.environ.get(KEY_VARIABLE) else f"env:{KEY_VARIABLE}"
        given: dict[str, Any] = {"api_key": resolve(key) if key else None}
        return cls(url, model or None, **given | options)

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> OpenAIDialogue:
        return OpenAIDialogue(self, self.settings, messages, tools, seed)

    def close(self) -> None:
        self._client.close()

    @property
    def temperature(self) -> float:
        return self.settings.temperature

    @property
    def max_tokens(self) -> int:
        return self.settings.max_tokens

    @property
    def model(self) -> str:
        """Name of the model, requested from the server if it was not given.

        Raises:
            UsageError: If no model was given and the server does not have exactly one.
        """
        with self._lock:
            if self._model is None:
                self._model = self._only_model()
            return self._model

    def _only_model(self) -> str:
        names = self._models()
        if len(names) != 1:
            listed = ", ".join(names) or "none listed"
            raise UsageError(
                f"{self.base_url} has these models: {listed}. "
                f"Name one: openai:{self.base_url}#MODEL"
            )
        return names[0]

    def _models(self) -> list[str]:
        listed = self.request("GET", "/models").get("data")
        entries = listed if isinstance(listed, list) else []
        return [str(entry.get("id")) for entry in entries if isinstance(entry, dict)]

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seed: int = 0
    ) -> dict[str, Any]:
        """Call `send` and return the JSON object of the response.

        Raises:
            WorldFailure: If the response is not a JSON object. Other errors are those of `send`.
        """
        return read_object(self.send(method, path, body, seed=seed))

    def send(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seed: int = 0
    ) -> httpx.Response:
        """Send one request, with retries.

        Raises:
            UsageError: For 401, 403 or 404, because no retry can succeed.
            PrerequisiteError: If no server has ever answered at this address.
            ContextFull: If the conversation is longer than the model's context.
            RequestRejected: If the server rejects the request with another status.
            WorldFailure: For all other errors, with kind `policy_failed`.
        """
        jitter = random.Random(seed)
        problem = ""
        failure = WorldFailure
        for attempt in range(self.retries + 1):
            waited = self.backoff_seconds * 2**attempt * (1 + jitter.random())
            try:
                response = self._client.request(method, self.base_url + path, json=body)
            except httpx.TransportError as error:
                problem = f"{type(error).__name__}: {error}"
                self._answered |= not isinstance(error, httpx.ConnectError | httpx.ConnectTimeout)
            else:
                self._answered = True
                if response.is_success:
                    return response
                problem = self._refusal(response, path)
                waited = retry_after_seconds(response) or waited
                if response.status_code not in RETRIED:
                    failure = RequestRejected
                    break
            if attempt < self.retries:
                time.sleep(min(waited, LONGEST_WAIT_SECONDS))
        if not self._answered:
            raise PrerequisiteError(
                f"no server answers at {self.base_url} ({problem}). "
                "Start one, for example: vllm serve MODEL"
            )
        raise failure("policy_failed", f"{method} {self.base_url}{path}: {problem}", stage="policy")

    def _refusal(self, response: httpx.Response, path: str) -> str:
        """Return the status and the server's message. Raise an error if no retry can help."""
        status = response.status_code
        words = " ".join(response.text[:300].split())
        if status in (401, 403):
            raise UsageError(
                f"{self.base_url} refused the key (HTTP {status}: {words}). "
                f"{self._remedy_for_key()}"
            )
        if status == 404:
            raise UsageError(
                f"{self.base_url}{path}: HTTP 404: {words}. {self._remedy_for_404(path)}"
            )
        if status in (400, 413, 422) and is_context_full(response.text):
            raise ContextFull(words)
        return f"HTTP {status}: {words}"

    def _remedy_for_key(self) -> str:
        return (
            f"For --policy openai:URL set {KEY_VARIABLE} to a valid one. A server that a YAML "
            "names gets the key that the YAML declares, such as `key: env:NAME`."
        )

    def _remedy_for_404(self, path: str) -> str:
        try:
            names = self._models() if path != "/models" else []
        except (UsageError, PrerequisiteError, WorldFailure):
            names = []
        if names:
            return f"Models there: {', '.join(names)}. Name one: openai:{self.base_url}#MODEL"
        return "The base URL usually ends with /v1, and the model must be available on the server."


def open_policy(
    argument: str,
    world: World,
    *,
    sampling: SamplingOverrides = SamplingOverrides(),  # noqa: B008 - immutable
) -> OpenAIPolicy:
    """Return the policy for `URL` or `URL#MODEL`, which writes calls as the world reads them.

    Raises:
        UsageError: If there is no URL, or `sampling` has a limit that the server sets.
    """
    if sampling.max_context_tokens is not None:
        raise UsageError("policy 'openai': the server limits the context. Leave out that setting")
    options = {"temperature": sampling.temperature, "max_tokens": sampling.max_turn_tokens}
    given = {name: value for name, value in options.items() if value is not None}
    return OpenAIPolicy.from_argument(argument, dialects=world.spec.prompt.dialects, **given)


def settings(argument: str, spec: EnvSpec) -> list[str]:
    """Return the form of the prompt for a server, which renders tools itself."""
    is_open = spec.prompt.rendering == "auto" and spec.tools
    return ["prompt.rendering=native"] if is_open else []
