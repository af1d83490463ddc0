"""Generated conversations: calls, parallel calls, results, reasoning and unusual text."""

from __future__ import annotations

import random
from typing import Any

from envgym.messages import ToolCall

TOOLS = [
    {
        "type": "function",
        "function": {
            "name": "find_contacts",
            "description": "Find contacts.\nBy name or id.",
            "parameters": {
                "type": "object",
                "properties": {
                    "query": {"type": "string", "description": "Text to look for"},
                    "page": {"type": "integer", "default": 1},
                    "field": {"enum": ["phone", "e-mail", None], "default": None},
                    "tags": {"type": "array", "items": {"type": "string"}},
                    "after": {"anyOf": [{"type": "string"}, {"type": "null"}], "default": None},
                },
                "required": ["query"],
            },
        },
    },
    {
        "type": "function",
        "function": {
            "name": "set_value",
            "description": "Set a value – né “so”",
            "parameters": {
                "type": "object",
                "properties": {"row": {"type": "object"}, "on": {"type": "boolean"}},
                "required": ["row", "on"],
            },
        },
    },
]
WORDS = [
    "Ann",
    "Müller",
    "東京",
    "🙂",
    "two\nlines",
    'a "quoted" word',
    "<b>&</b>",
    "back\\slash",
    "0",
    "  x",
]


def conversation(
    seed: int, *, parallel: bool = True, reasoning: bool = True
) -> list[dict[str, Any]]:
    """Return a conversation that ends with a user or a tool message."""
    rng = random.Random(seed)
    messages: list[dict[str, Any]] = []
    if rng.random() < 0.8:
        messages.append({"role": "system", "content": f"Be brief. {text(rng)}"})
    messages.append({"role": "user", "content": f"Do it: {text(rng)}"})
    for turn in range(rng.randrange(4)):
        answer: dict[str, Any] = {"role": "assistant", "content": ""}
        if reasoning and rng.random() < 0.5:
            answer["reasoning_content"] = f"Hm, {text(rng)}."
        if rng.random() < 0.7:
            calls = [call(rng) for _ in range(rng.randrange(1, 4) if parallel else 1)]
            answer["tool_calls"] = [
                {"id": f"call{turn:02d}{n:03d}", "type": "function", "function": made.to_dict()}
                for n, made in enumerate(calls)
            ]
            messages.append(answer)
            messages += [
                {
                    "role": "tool",
                    "tool_call_id": each["id"],
                    "name": each["function"]["name"],
                    "content": f"{text(rng)} found",
                }
                for each in answer["tool_calls"]
            ]
        else:
            messages.append(answer | {"content": f"It is {text(rng)}."})
            messages.append({"role": "user", "content": f"And {text(rng)}?"})
    return messages


def call(rng: random.Random) -> ToolCall:
    """Return a random call of one of the tools."""
    if rng.random() < 0.5:
        arguments: dict[str, Any] = {"query": text(rng)}
        if rng.random() < 0.5:
            arguments["page"] = rng.randrange(100)
        if rng.random() < 0.3:
            arguments["tags"] = [text(rng) for _ in range(rng.randrange(3))]
        return ToolCall("find_contacts", arguments)
    row = {"name": text(rng), "deep": {"list": [1, 2.5, None, True]}, "empty": {}}
    return ToolCall("set_value", {"row": row, "on": rng.random() < 0.5})


def text(rng: random.Random) -> str:
    """Return a short text with unusual characters."""
    return " ".join(rng.choices(WORDS, k=rng.randrange(1, 4)))
