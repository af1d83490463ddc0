"""Messages to token ids and back, append-only: what was sampled is never rendered again.

A conversation is `open` ids, then by turns sampled ids and `observe` ids. ChatML models (SmolLM2, Qwen) get our own ChatML
with tools; other families their own template (`chat_template.py`). Text of users and tools cannot forge a turn: the
spelling of a special token inside it becomes ordinary tokens.
Left out: images, and forking where a template rewrites earlier turns (an error names the turn).
"""

from __future__ import annotations

import copy
import json
import threading
from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Any, Literal

from envgym.errors import UsageError, did_you_mean
from envgym.messages import Message
from envgym_trainer.model.own_template import Encode, OwnTemplate

TemplateName = Literal["auto", "chatml", "model"]
JINJA = Path(__file__).parent / "templates" / "chatml_tools.jinja"

Tools = Sequence[dict[str, Any]]
"""JSON schemas in OpenAI function form."""


class Chat:
    """The bridge between messages and one tokenizer. Safe to share between threads.

    Args:
        tokenizer: a Hugging Face tokenizer; copied, so that nobody else changes its settings.
        template: `chatml` (ours), `model` (the tokenizer's own), or `auto`: ChatML where the tokenizer has its two tokens.
        model: every end-of-sequence id of its generation config ends a turn, too.
    Raises: UsageError for a tokenizer without what the template needs.
    """

    def __init__(self, tokenizer: Any, template: TemplateName = "auto", *, model: Any = None):
        self.tokenizer = copy.deepcopy(tokenizer)
        self._lock = threading.Lock()
        self.template = _choose(template, tokenizer)
        style = ChatML if self.template == "chatml" else OwnTemplate
        self._style = style(self.tokenizer, self._encode)
        self.stop_ids = frozenset(
            {self._style.end_id}
            | eos_ids(self.tokenizer)
            | eos_ids(getattr(model, "generation_config", None))
        )
        """Ids that end a turn, each of them sampled and trained on."""

    def open(self, messages: Sequence[Message], tools: Tools = ()) -> list[int]:
        """The prompt's ids, up to and including the generation prompt."""
        return self._style.open(messages, tools)

    def shared(self, messages: Sequence[Message], tools: Tools = ()) -> int:
        """How many of `open`'s first ids belong to the leading system message, which many dialogues have in common."""
        return self._style.shared(messages, tools)

    def observe(
        self,
        messages: Sequence[Message],
        *,
        closed: bool,
        history: Sequence[Message] = (),
        tools: Tools = (),
    ) -> list[int]:
        """The ids that follow a sampled turn: its end where it was cut, the new messages, the next generation prompt.

        Args:
            messages: what the environment answered.
            closed: whether the sampled ids ended with a stop id.
            history: all messages before these; lets `template="model"` prove that it only appends.
        Raises: UsageError when the model's template rewrites an earlier turn.
        """
        return self._style.observe(messages, closed=closed, history=history, tools=tools)

    def answer(self, text: str) -> list[int]:
        """The ids of an assistant turn with this text, its end included; for demonstrations, never for sampled turns."""
        return [*self._encode(text), self._style.end_id]

    def decode(self, ids: Sequence[int]) -> str:
        """Text without special tokens; a stop id at the end is left out even where it is an ordinary token."""
        ids = list(ids[:-1] if ids and ids[-1] in self.stop_ids else ids)
        with self._lock:
            return self.tokenizer.decode(
                ids, skip_special_tokens=True, clean_up_tokenization_spaces=False
            )

    @cached_property
    def jinja(self) -> str:
        """The template a server needs to render the same ids; saved beside an adapter."""
        return JINJA.read_text() if self.template == "chatml" else self.tokenizer.chat_template

    def _encode(self, text: str, *, special: bool = False) -> list[int]:
        """Ids of a text; `special` says whether it may spell special tokens."""
        with self._lock:
            return self.tokenizer(text, add_special_tokens=False, split_special_tokens=not special)[
                "input_ids"
            ]


class ChatML:
    """ChatML with Hermes-style tools. The template under `templates/` renders the same text for servers."""

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
        """Ids of the system turn, and the messages after it."""
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


def eos_ids(source: Any) -> set[int]:
    """The end-of-sequence ids that a tokenizer or a generation config names: none, one or a list."""
    ids = getattr(source, "eos_token_id", None)
    return set() if ids is None else {ids} if isinstance(ids, int) else set(ids)


def _choose(template: str, tokenizer: Any) -> Literal["chatml", "model"]:
    has_chatml = {"<|im_start|>", "<|im_end|>"} <= tokenizer.get_vocab().keys()
    if template not in ("auto", "chatml", "model"):
        hint = did_you_mean(template, ("auto", "chatml", "model")) or "."
        raise UsageError(f"chat template '{template}' is unknown{hint} Take auto, chatml or model.")
    if template == "chatml" and not has_chatml:
        raise UsageError(
            "chat template 'chatml' needs the tokens <|im_start|> and <|im_end|>, which this tokenizer lacks. Take 'model'."
        )
    if template == "chatml" or (template == "auto" and has_chatml):
        return "chatml"
    if not tokenizer.chat_template:
        raise UsageError(
            "this tokenizer has neither ChatML tokens nor a chat template. Take an instruct (chat) model."
        )
    return "model"
