"""Turn the text of a sequence into an assistant message, at once or as a stream of deltas.

A stream sends text as soon as it cannot be part of a call. From the first character that may begin
a call, text is held until the answer is complete and parsed. Calls are therefore sent whole.
"""

from __future__ import annotations

import uuid
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from envgym.dialects import find_dialect, split_reasoning, without_reasoning
from envgym.messages import ToolCall
from envgym.text import to_json
from envgym_trainer.model.chat import Chat

MARKS = "<[{`◁"
"""Characters with which marks of reasoning and of calls begin."""
LONGEST_MARK = 32
"""Maximum length of a mark of reasoning, in characters."""


@dataclass(frozen=True, slots=True)
class AssistantMessage:
    """Parsed answer of the model."""

    content: str
    reasoning: str = ""
    calls: Sequence[dict[str, Any]] = ()
    """Tool calls in OpenAI's form."""

    def to_dict(self) -> dict[str, Any]:
        """Return the message of a response."""
        message: dict[str, Any] = {
            "role": "assistant",
            "content": self.content if self.content or not self.calls else None,
            "refusal": None,
        }
        if self.reasoning:
            message["reasoning_content"] = self.reasoning
        if self.calls:
            message["tool_calls"] = list(self.calls)
        return message


@dataclass(frozen=True, slots=True)
class AnswerReader:
    """Parser of the answers to one request."""

    chat: Chat
    tools: Sequence[dict[str, Any]]
    """Tools that may be called. If there are none, nothing is parsed as a call."""
    is_parallel: bool = True
    """Whether an answer may have several calls. If not, the first one is returned."""

    def read(self, text: str) -> AssistantMessage:
        """Return the message of a complete answer. A malformed call is returned as content."""
        answer = self.chat.parse(text, self.tools)
        if not self.tools or answer.problem:
            return AssistantMessage(without_reasoning(text), answer.reasoning)
        calls = answer.calls if self.is_parallel else answer.calls[:1]
        return AssistantMessage(answer.content, answer.reasoning, [_call(call) for call in calls])

    def certain(self, text: str) -> tuple[str, str]:
        """Return the reasoning and the content that an unfinished text certainly begins with."""
        reasoning, content = split_reasoning(text)
        if not content:
            return _before_mark(reasoning), ""
        return reasoning, self._before_call(content) if self.tools else _before_mark(content)

    def _before_call(self, content: str) -> str:
        """Return the text before the first place that may begin a call."""
        content = content.lstrip()
        starts = [*MARKS, *self._dialect_marks()]
        places = [place for mark in starts if (place := _find_start(content, mark)) >= 0]
        names = [tool["function"]["name"] for tool in self.tools]
        start = 0
        for line in content.splitlines(keepends=True):
            word = line.lstrip()
            is_open = bool(word) and word == word.rstrip("\r\n")
            if any(word.startswith(name) or (is_open and name.startswith(word)) for name in names):
                places.append(start)
            start += len(line)
        return content[: min(places, default=len(content))].rstrip()

    def _dialect_marks(self) -> list[str]:
        """Return the strings that announce a call in a dialect of the chat."""
        dialects = map(find_dialect, self.chat.dialects)
        return [mark for each in dialects for mark in getattr(each, "MARKS", ())]


@dataclass(eq=False, slots=True)
class DeltaStream:
    """Deltas of one answer."""

    reader: AnswerReader
    text: str = ""
    sent: dict[str, str] = field(default_factory=lambda: {"reasoning_content": "", "content": ""})
    """Text of each field that was sent."""
    has_calls: bool = False

    def push(self, piece: str) -> list[dict[str, Any]]:
        """Return the deltas that are certain after this piece of text."""
        if not piece:
            return []
        self.text += piece
        reasoning, content = self.reader.certain(self.text)
        return [*self._grow("reasoning_content", reasoning), *self._grow("content", content)]

    def finish(self) -> list[dict[str, Any]]:
        """Return the remaining deltas, with the calls."""
        message = self.reader.read(self.text)
        self.has_calls = bool(message.calls)
        deltas = [
            *self._grow("reasoning_content", message.reasoning),
            *self._grow("content", message.content),
        ]
        for index, call in enumerate(message.calls):
            function = call["function"]
            head = {**call, "index": index, "function": {**function, "arguments": ""}}
            tail = {"index": index, "function": {"arguments": function["arguments"]}}
            deltas += [{"tool_calls": [head]}, {"tool_calls": [tail]}]
        return deltas

    def _grow(self, name: str, text: str) -> list[dict[str, Any]]:
        """Return the delta of a field, if its text has grown."""
        sent = self.sent[name]
        if not text.startswith(sent):
            text = text.lstrip()  # white space at the start of an answer is not streamed
        if not text.startswith(sent) or len(text) == len(sent):
            return []
        self.sent[name] = text
        return [{name: text[len(sent) :]}]


def _find_start(text: str, mark: str) -> int:
    """Return the place of a mark, which may be incomplete at the end of the text, or -1."""
    if (place := text.find(mark)) >= 0:
        return place
    lengths = range(min(len(mark) - 1, len(text)), 0, -1)
    return next((len(text) - n for n in lengths if text.endswith(mark[:n])), -1)


def _before_mark(text: str) -> str:
    """Return the text before a mark of reasoning that may be incomplete at its end."""
    tail = max(0, len(text) - LONGEST_MARK)
    places = [place for mark in MARKS if (place := text.find(mark, tail)) >= 0]
    return text[: min(places, default=len(text))].rstrip()


def _call(call: ToolCall) -> dict[str, Any]:
    return {
        "id": f"call_{uuid.uuid4().hex[:24]}",
        "type": "function",
        "function": {"name": call.name, "arguments": to_json(call.arguments)},
    }
