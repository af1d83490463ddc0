"""Force an answer to begin with a call, for `tool_choice` required or a named function.

The tokens of a call's opening are forced, up to its first argument; the model chooses between the
tools that are allowed. Arguments are not constrained, so a forced call may still be malformed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Any

from envgym.dialects import render_call
from envgym.dialects.reasoning import PAIRS
from envgym.messages import Message, ToolCall
from envgym_trainer.inference.token_session import AllowedTokens
from envgym_trainer.model.chat import Chat
from envgym_trainer.serving.sessions import common_length

Node = dict[int, "Node"]
"""Node of a tree of token sequences: the next ids, each with its node. A leaf is empty."""
SAMPLES = ({"a": 1}, {"other": "text"}, {"x": [1]})
"""Arguments whose calls share nothing but the opening."""


def forced_call(
    chat: Chat, tools: Sequence[Mapping[str, Any]], name: str | None = None
) -> AllowedTokens:
    """Return the constraint of an answer that must begin with a call.

    Args:
        chat: Converter that knows the dialect of calls.
        tools: Tools of the request.
        name: Name of the tool that must be called. None: any of them.
    """
    functions = [tool["function"] for tool in tools]
    allowed = [each for each in functions if name in (None, each["name"])]
    root: Node = {}
    for ids in _openings(chat, allowed):
        node = root
        for token in ids:
            node = node.setdefault(token, {})
    return lambda sampled: _next_tokens(root, sampled)


def _next_tokens(root: Node, sampled: Sequence[int]) -> Collection[int] | None:
    node = root
    for token in sampled:
        if not node:
            return None
        node = node[token]
    return node or None


def _openings(chat: Chat, functions: Iterable[Mapping[str, Any]]) -> Iterable[list[int]]:
    """Yield the ids with which calls of these functions begin.

    A call without arguments is a sequence of its own, if the schema allows it.
    """
    for function in functions:
        schema = function.get("parameters") or {}
        if schema.get("properties"):
            first, *others = (_call_ids(chat, function, sample) for sample in SAMPLES)
            yield first[: min(common_length(first, other) for other in others)]
        if not schema.get("required"):
            yield _call_ids(chat, function, {})


def _call_ids(chat: Chat, function: Mapping[str, Any], arguments: dict[str, Any]) -> list[int]:
    """Return the ids of a call as the model would sample it, without its end token.

    If the prompt has opened the reasoning, the call begins with its end.
    """
    call = ToolCall(function["name"], arguments)
    text = render_call(call, chat.dialects[0])
    if closing := dict(PAIRS).get(chat.decode(()).strip()):
        text = f"{closing}\n\n{text}"
    history = [Message("user", "x")]
    tools = [{"type": "function", "function": dict(function)}]
    return chat.answer(text, call, history=history, tools=tools)[:-1]
