"""Render conversations in ChatML with Hermes-style tools."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envgym.messages import Message
from envgym_trainer.model.own_template import Encode

Tools = Sequence[dict[str, Any]]

JINJA = Path(__file__).parent / "templates" / "chatml_tools.jinja"


class ChatML:
    """ChatML with Hermes-style tools. The file in `templates/` renders the same for servers."""

    def __init__(self, tokenizer: Any, encode: Encode):
        self._encode = encode
        self._start_id, self.end_id = (
            tokenizer.convert_tokens_to_ids(token) for token in ("<|im_start|>", "<|im_end|>")
        )

    def open(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        head, rest = self._head(messages, tools)
        return head + self._turns(rest) + self._generation_prompt()

    def shared(self, messages: Sequence[Message], tools: Tools) -> int:
        return len(self._head(messages, tools)[0])

    def observe(
        self,
        messages: Sequence[Message],
        *,
        closed: bool,
        history: Sequence[Message] = (),
        tools: Tools = (),
    ) -> list[int]:
        end = [] if closed else [self.end_id]
        return end + self._encode("\n") + self._turns(messages) + self._generation_prompt()

    def _head(
        self, messages: Sequence[Message], tools: Tools
    ) -> tuple[list[int], Sequence[Message]]:
        """Return the ids of the system turn, and the messages after it."""
        has_system = bool(messages) and messages[0].role == "system"
        parts = [messages[0].content] if has_system and messages[0].content else []
        parts += [_tools_text(tools)] if tools else []
        head = self._turn("system", "\n\n".join(parts)) if has_system or tools else []
        return head, messages[1:] if has_system else messages

    def _turns(self, messages: Sequence[Message]) -> list[int]:
        return [
            token for message in messages for token in self._turn(message.role, message.content)
        ]

    def _turn(self, role: str, text: str) -> list[int]:
        return [self._start_id, *self._encode(f"{role}\n{text}"), self.end_id, *self._encode("\n")]

    def _generation_prompt(self) -> list[int]:
        return [self._start_id, *self._encode("assistant\n")]


def _tools_text(tools: Tools) -> str:
    lines = [
        json.dumps(tool.get("function", tool), ensure_ascii=False, separators=(",", ":"))
        for tool in tools
    ]
    usage = (
        '# Tools\nTo call a tool write <tool_call>{"name": ..., "arguments": {...}}</tool_call>.'
    )
    return "\n".join([usage, "<tools>", *lines, "</tools>"])
