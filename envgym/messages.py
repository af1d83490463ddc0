"""Messages and tool calls of an episode, as frozen values.

See the trainer's chat template code for their tokens, and the dialects for parsing calls from text.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal, NotRequired, TypedDict

from envgym.text import clean, content_text

Role = Literal["system", "user", "assistant", "tool"]


class MessageDict(TypedDict):
    """JSON form of a `Message`."""

    role: Role
    content: str
    name: NotRequired[str]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """Call of one tool."""

    name: str
    arguments: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation."""

    role: Role
    content: str
    """Text of the message. For the assistant it is the sampled text, tool calls included."""
    name: str | None = None
    """Name of the tool that answered, for role `tool`."""

    def __post_init__(self) -> None:
        # Every text of a conversation passes here, so a tokenizer, a request and a record can
        # encode it.
        object.__setattr__(self, "content", clean(self.content))
        if self.name is not None:
            object.__setattr__(self, "name", clean(self.name))

    def to_dict(self) -> MessageDict:
        """Return the JSON form used in `info`, in episode records and by chat templates."""
        plain: MessageDict = {"role": self.role, "content": self.content}
        if self.name is not None:
            plain["name"] = self.name
        return plain

    @classmethod
    def from_dict(cls, plain: Mapping[str, Any]) -> Message:
        """Build a message; content that is a list of parts becomes the text of its parts."""
        content = content_text(plain.get("content"))
        return cls(role=plain["role"], content=content, name=plain.get("name"))
