"""Render conversations with a model's own chat template, for families without ChatML.

Such a template renders whole conversations, so new ids are the difference of two renderings. If the
longer rendering does not begin with the shorter one, the template rewrites history and the dialogue
stops with an error.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, Protocol

from envgym.errors import UsageError
from envgym.messages import Message

Tools = Sequence[dict[str, Any]]


class Encode(Protocol):
    """Function from text to ids. With `special=True` the text may contain special tokens."""

    def __call__(self, text: str, *, special: bool = False) -> list[int]: ...


class OwnTemplate:
    """The tokenizer's own chat template. Raises UsageError if no special token ends a turn."""

    def __init__(self, tokenizer: Any, encode: Encode):
        self._tokenizer = tokenizer
        self._encode = encode
        self._special: list[str] = sorted(tokenizer.all_special_tokens, key=len, reverse=True)
        self._end, self._tail = self._turn_end()
        self.end_id: int = tokenizer.convert_tokens_to_ids(self._end)

    def open(self, messages: Sequence[Message], tools: Tools) -> list[int]:
        return self._ids(self._render(messages, tools, prompt=True))

    def shared(self, messages: Sequence[Message], tools: Tools) -> int:
        """Return the length of the common prefix of prompts with this system message."""
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
            f"assistant turn {turn}, once it is history",
        )
        self._check_prefix(
            before,
            after,
            f"assistant turn {turn}, once a {messages[0].role if messages else 'prompt'} follows",
        )
        text = ("" if closed else self._end) + self._tail + after[len(before) :]
        return self._ids(text)

    def _turn_end(self) -> tuple[str, str]:
        """Return the token that ends an assistant turn, and the template's text after it."""
        text = self._render([Message("user", "x"), Message("assistant", "zqz")], ())
        rest = text.rpartition("zqz")[2]
        found = [
            (rest.index(token), -len(token), token) for token in self._special if token in rest
        ]
        if not found:
            raise UsageError(
                "the model's chat template ends an assistant turn without a special token. Use an "
                "instruct (chat) model."
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
        except Exception as error:  # templates may raise any exception
            roles = ", ".join(message.role for message in messages)
            raise UsageError(
                f"the model's chat template refuses a conversation of {roles}: {error}. Use "
                "template 'chatml'."
            ) from error

    def _mask(self, text: str) -> str:
        """Replace each spelled special token by a private character, so that it stays text."""
        for index, token in enumerate(self._special):
            text = text.replace(token, chr(0xE000 + index))
        return text

    def _ids(self, text: str) -> list[int]:
        """Return the ids of a rendering. Masked spellings become ordinary text again."""
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
                f"the model's chat template rewrites earlier text at {where}, so tokens already "
                "sampled would change. Use template 'chatml', or a model whose template only "
                "appends."
            )
