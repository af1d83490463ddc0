"""What is said in an episode: messages and tool calls, as plain frozen values.

Left out on purpose: how they become tokens (the trainer's `chat.py`) and how text becomes calls (`parsing.py`).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

Role = Literal["system", "user", "assistant", "tool"]


@dataclass(frozen=True, slots=True)
class ToolCall:
    """One call of a tool, as the model meant it."""

    name: str
    arguments: dict[str, Any]

    def to_dict(self) -> dict[str, Any]:
        return {"name": self.name, "arguments": self.arguments}


@dataclass(frozen=True, slots=True)
class Message:
    """One message of the conversation."""

    role: Role
    content: str
    """For an assistant the text exactly as it was sampled, tool calls included."""
    name: str | None = None
    """The tool that answers, for role `tool`."""

    def to_dict(self) -> dict[str, str]:
        """The JSON form used in `info`, in episode records and by chat templates."""
        plain = {"role": self.role, "content": self.content}
        return plain if self.name is None else plain | {"name": self.name}

    @classmethod
    def from_dict(cls, plain: dict[str, Any]) -> Message:
        return cls(role=plain["role"], content=plain["content"], name=plain.get("name"))
