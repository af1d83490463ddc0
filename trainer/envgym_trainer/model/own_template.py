"""Renders a conversation with the template that a model brings along, for families that do not speak ChatML.

Such a template renders whole conversations, so each addition is the difference of two renderings; where the longer one
does not begin with the shorter one, the template rewrites history and the dialogue stops with an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from envgym.errors import UsageError
from envgym.messages import Message

Tools = Sequence[dict[str, Any]]


class Encode(Protocol):
    """Text to ids; with `special=True` the text may spell special tokens."""

    def __call__(self, text: str, *, special: bool = False) -> list[int]: ...


class OwnTemplate:
    """The tokenizer's own chat template. Raises UsageError where it names no token that ends a turn."""

    def __init__(self, tokenizer: Any, encode: Encode):
        self._tokenizer = tokenizer
        self._encode = encode
        self._special: list[str] = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        self._end, self._tail = self._turn_end()
        self.end_id: int = tokenizer.convert_tokens_to_ids(self._end)

    def open(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        return self._ids(self._render(messages, tools, prompt=True))

    def shared(self, messages: Sequence[Message], tools: Tools) -> int:
        """Length of what two prompts with this system message and different users have in common."""
        if not messages or messages[0].role != "system":
            return 0
        one, other = (self.open([messages[0], Message("user", text)], tools) for text in ("0", "x"))
        whole = self.open(messages, tools)
        count = 0
        while (
            count < min(len(one), len(other), len(whole))
            and one[count] == other[count] == whole[count]
        ):
            count += 1
        return count

    def observe(
        self,
        messages: Sequence[Message],
        *,
        closed: bool,
        history: Sequence[Message] = (),
        tools: Tools = (),
    ) -> list[int]:
        history = list(history) or [Message("user", "x"), Message("assistant", "x")]
        before = self._render(history, tools)
        after = self._render([*history, *messages], tools, prompt=True)
        turn = sum(message.role == "assistant" for message in history)
        self._check_prefix(
            self._render(history[:-1], tools, prompt=True),
            before,
            f"assistant turn {turn}, as soon as it is history",
        )
        self._check_prefix(
            before,
            after,
            f"assistant turn {turn}, once a {messages[0].role if messages else 'prompt'} follows",
        )
        text = ("" if closed else self._end) + self._tail + after[len(before) :]
        return self._ids(text)

    def _turn_end(self) -> tuple[str, str]:
        """The token that closes an assistant turn, and what the template writes after it."""
        text = self._render([Message("user", "x"), Message("assistant", "zqz")], ())
        rest = text.rpartition("zqz")[2]
        found = [
            (rest.index(token), -len(token), token) for token in self._special if token in rest
        ]
        if not found:
            raise UsageError(
                "the model's chat template ends an assistant turn with no special token. Use an instruct (chat) model."
            )
        end = min(found)[2]
        return end, rest.partition(end)[2]

    def _render(self, messages: Sequence[Message], tools: Tools, *, prompt: bool = False) -> str:
        plain = [
            message.to_dict() | {"content": self._mask(message.content)} for message in messages
        ]
        try:
            return self._tokenizer.apply_chat_template(
                plain, tools=list(tools) or None, add_generation_prompt=prompt, tokenize=False
            )
        except Exception as error:  # templates raise whatever their authors wrote
            roles = ", ".join(message.role for message in messages)
            raise UsageError(
                f"the model's chat template refuses a conversation of {roles}: {error}. Take template 'chatml'."
            ) from error

    def _mask(self, text: str) -> str:
        """A private character for each spelled special token, so that the template's own remain the only ones."""
        for index, token in enumerate(self._special):
            text = text.replace(token, chr(0xE000 + index))
        return text

    def _ids(self, text: str) -> list[int]:
        """Ids of a rendering; masked spellings come back as ordinary text."""
        ids: list[int] = []
        start = 0
        for place, char in enumerate(text):
            if 0 <= ord(char) - 0xE000 < len(self._special):
                ids += self._encode(text[start:place], special=True) + self._encode(
                    self._special[ord(char) - 0xE000]
                )
                start = place + 1
        return ids + self._encode(text[start:], special=True)

    def _check_prefix(self, before: str, after: str, where: str) -> None:
        if not after.startswith(before):
            raise UsageError(
                f"the model's chat template rewrites earlier text at {where}, so tokens already sampled would change. "
                "Take template 'chatml', or a model whose template only appends."
            )
