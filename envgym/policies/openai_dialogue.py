"""One conversation with an OpenAI-compatible chat server, as the messages of its requests."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol

from envgym.dialects.known import known_tools
from envgym.errors import WorldFailure
from envgym.messages import Message
from envgym.policies import Completion
from envgym.policies.chat_completions import (
    ContextFull,
    RequestRejected,
    assistant_message,
    first_choice,
    stop_reason,
)
from envgym.policies.structured_calls import action_text, structured_calls
from envgym.secrets import get_logger

log = get_logger(__name__)

ToolRole = Literal["tool", "user"]


class ChatClient(Protocol):
    """Connection to a chat server."""

    @property
    def model(self) -> str: ...

    def request(
        self, method: str, path: str, body: dict[str, Any] | None = None, *, seed: int = 0
    ) -> dict[str, Any]: ...


@dataclass
class ChatSettings:
    """Settings that all dialogues of a policy share."""

    temperature: float
    max_tokens: int
    extra_body: dict[str, Any]
    dialects: tuple[str, ...]
    """Dialects that the environment reads."""
    tool_role: ToolRole = "tool"
    """Role of the result of a call that the model wrote as text. It becomes `user` if the server
    refuses `tool`."""


class OpenAIDialogue:
    """One conversation, stored as the message list that each request sends."""

    def __init__(
        self,
        client: ChatClient,
        settings: ChatSettings,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        seed: int,
    ):
        self._client, self._settings = client, settings
        self._tools, self._seed = list(tools), seed
        self._messages: list[dict[str, Any]] = []
        self._open_calls: list[dict[str, Any]] = []
        self.observe(messages)

    def reply(self) -> Completion:
        """Request the next answer.

        Raises:
            UsageError, PrerequisiteError, WorldFailure: See `OpenAIPolicy.send`.
        """
        try:
            answer = self._answer()
        except ContextFull:
            return Completion("", stop_reason="context")
        choice = first_choice(answer)
        message = choice["message"]
        calls = structured_calls(message, known_tools(self._tools))
        self._messages.append(assistant_message(message, calls))
        self._open_calls = list(calls)
        text = action_text(
            message.get("content"), calls, self._settings.dialects, self._tools or None
        )
        return Completion(text, stop_reason=stop_reason(choice))

    def _answer(self) -> dict[str, Any]:
        """Return the response, after another request if the server refuses the role of results."""
        role = self._settings.tool_role
        try:
            return self._request(role)
        except WorldFailure as refused:
            if (
                role == "user"
                or not any(map(_is_result_of_text, self._messages))
                or not _is_about_messages(refused)
            ):
                raise
            try:
                answer = self._request("user")
            except WorldFailure:
                raise refused from None
            self._settings.tool_role = "user"
            log.warning(
                "the server refuses results of calls that are written as text in role 'tool' (%s); "
                "they are sent as messages of the user",
                refused.message,
            )
            return answer

    def _request(self, role: ToolRole) -> dict[str, Any]:
        return self._client.request("POST", "/chat/completions", self._body(role), seed=self._seed)

    def observe(self, messages: Sequence[Message]) -> None:
        for message in messages:
            self._messages.append(self._plain(message))
        while self._open_calls:  # servers reject a conversation with an unanswered call
            self._messages.append(self._result(Message("tool", "error: not called")))

    def trace(self) -> None:
        return None

    def close(self) -> None:
        """Do nothing; the policy owns the connections."""

    def _plain(self, message: Message) -> dict[str, Any]:
        if message.role == "tool" and self._open_calls:
            return self._result(message)
        return {"role": message.role, "content": message.content}

    def _result(self, message: Message) -> dict[str, Any]:
        """Return the result of the next structured call."""
        call = self._open_calls.pop(0)
        name = message.name or call["function"].get("name")
        named = {"name": name} if isinstance(name, str) else {}
        return {
            "role": "tool",
            "tool_call_id": call["id"],
            **named,
            "content": message.content,
        }

    def _body(self, role: ToolRole) -> dict[str, Any]:
        messages = [_as_user(each) for each in self._messages] if role == "user" else self._messages
        body: dict[str, Any] = {
            "model": self._client.model,
            "messages": messages,
            "temperature": self._settings.temperature,
            "max_tokens": self._settings.max_tokens,
            "seed": self._seed,
        }
        if self._tools:
            body["tools"] = self._tools
        body |= self._settings.extra_body
        return {key: value for key, value in body.items() if value is not None}


def _is_about_messages(refused: WorldFailure) -> bool:
    """Return whether a server refused the messages, not the request as a whole.

    llama.cpp answers HTTP 500 if the chat template raises an exception.
    """
    words = ("role", "template", "jinja")
    return isinstance(refused, RequestRejected) or any(
        word in refused.message.lower() for word in words
    )


def _is_result_of_text(message: dict[str, Any]) -> bool:
    return message["role"] == "tool" and "tool_call_id" not in message


def _as_user(message: dict[str, Any]) -> dict[str, Any]:
    """Return the result of a call without an id as a message of the user.

    Hermes and Qwen are trained on this form.
    """
    if not _is_result_of_text(message):
        return message
    content = f"<tool_response>\n{message['content']}\n</tool_response>"
    return {"role": "user", "content": content}
