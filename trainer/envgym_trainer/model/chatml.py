"""Render conversations in ChatML, with tools and calls as text."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from envgym.messages import Message
from envgym_trainer.model.rendering import ChatMessage, Extension, Tools
from envgym_trainer.model.rendering.control_tokens import ControlTokens

JINJA = Path(__file__).parent / "templates" / "chatml.jinja"
START, END = "<|im_start|>", "<|im_end|>"


class ChatML:
    """ChatML without tools of its own. The file in `templates/` renders the same for servers."""

    adapters: tuple[str, ...] = ()
    opened = ""
    template = JINJA.read_text(encoding="utf-8")

    def __init__(self, tokenizer: Any, tokens: ControlTokens):
        self._encode = tokens.encode_text
        self._start_id, self._end_id = (
            tokenizer.convert_tokens_to_ids(token) for token in (START, END)
        )
        self.end = END
        self.ends = (END,)

    def open(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        return self._turns(messages) + self._generation_prompt()

    def render_ids(
        self,
        messages: Sequence[ChatMessage],
        tools: Tools = (),
        *,
        add_generation_prompt: bool = True,
    ) -> list[int]:
        ids = self._turns([Message.from_dict(message) for message in messages])
        return ids + (self._generation_prompt() if add_generation_prompt else [])

    def shared(self, messages: Sequence[Message], tools: Tools = ()) -> int:
        if not messages or messages[0].role != "system":
            return 0
        return len(self._turns(messages[:1]))

    def extend(
        self,
        history: Sequence[Message],
        new: Sequence[Message],
        tools: Tools = (),
        *,
        closed: bool,
    ) -> Extension:
        end = [] if closed else [self._end_id]
        return Extension(end + self._encode("\n") + self._turns(new) + self._generation_prompt())

    def _turns(self, messages: Sequence[Message]) -> list[int]:
        return [
            token for message in messages for token in self._turn(message.role, message.content)
        ]

    def _turn(self, role: str, text: str) -> list[int]:
        return [self._start_id, *self._encode(f"{role}\n{text}"), self._end_id, *self._encode("\n")]

    def _generation_prompt(self) -> list[int]:
        return [self._start_id, *self._encode("assistant\n")]
