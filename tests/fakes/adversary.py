"""Scripted adversary: hostile arguments for every tool, by the type of each argument."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Any

from envgym.dialects import render_call
from envgym.messages import ToolCall
from envgym.policies.scripted import ScriptDialogue
from envgym.tools import Tool

NUMBERS = [0, -1, 1, 2**31, 2**63 - 1, -(2**63), 2**63, -(2**64), 10**300, 10**4000]
FLOATS = [0.0, -0.0, 1e308, -1e308, 5e-324, 1.5, 2.0]
TEXTS = [
    "",
    " ",
    "nan",
    "Infinity",
    "1e999",
    "\x00",
    "a\x00b",
    "\ud800",
    "\u202e\u2066",
    "\x1b[2J\x9b31m",
    "\ue000\uffff\U0010fffe",
    "'; DROP TABLE items; --",
    "SELEC 1",
    "COMMIT",
    "((((",
    "[a-",
    "%s%n{0}{x!r}",
    "../../etc/passwd",
    "/proc/self/mem",
    "/dev/zero",
    "A" * 5000,
    "(" * 3000,
    '{"a":' * 500,
    "2026-13-45T99:99:99",
    "None",
    "true",
]
SHELL = [
    "exit 3",
    "kill -9 $$",
    "kill -9 $PPID",
    "kill -INT 1; kill -TERM 1",
    "kill -STOP $PPID",
    "kill -9 -1",
    "kill -INT -1",
    "kill -ALRM $PPID",
    "python3 -c 'import os,signal; os.kill(os.getppid(), signal.SIGSEGV)'",
    "python3 -c 'while True: pass'",
    "sleep 30",
    "(sleep 0.2; kill -9 $PPID) & true",
    "head -c 300000000 /dev/zero > big",
    "head -c 300000000 /dev/zero > /tmp/big",
    "for i in $(seq 3000); do : > f$i; done",
    "mkfifo pipe",
    "ln -s / root; ln -s loop loop",
    "rm -rf ../* .; mkdir -p a/b",
    "chmod 000 .",
    "mv . ../gone",
    "yes | head -c 50000000",
    "cat /dev/urandom | head -c 100000",
    "python3 -c 'x = bytearray(3 * 10**9)'",
    ":(){ :|:& };:",
    "exec 0<&- 1>&- 2>&-; sleep 1",
    "ulimit -n 0; ls",
]
"""Commands and programs for tools that execute code."""


def hostile_value(schema: dict[str, Any], rng: random.Random, depth: int = 0) -> Any:
    """Return a value of the schema's type, or now and then of another one."""
    if rng.random() < 0.1:
        return rng.choice([None, True, [], {}, [[[]]], rng.choice(TEXTS), rng.choice(NUMBERS)])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return hostile_value(rng.choice(options), rng, depth)
    if "enum" in schema:
        return rng.choice([*schema["enum"], *map(_other_type, schema["enum"])])
    kind = schema.get("type")
    if kind == "integer":
        return rng.choice(NUMBERS)
    if kind == "number":
        return rng.choice([*FLOATS, *NUMBERS])
    if kind == "boolean":
        return rng.choice([True, False, 1])
    if kind == "array" and depth < 3:
        count = rng.choice([0, 1, 2, 13, 200])
        return [hostile_value(schema.get("items") or {}, rng, depth + 1) for _ in range(count)]
    if kind == "object" and depth < 3:
        properties = schema.get("properties", {})
        return {
            name: hostile_value(each, rng, depth + 1) for name, each in properties.items()
        } or nested(rng.choice([1, 50, 400]))
    return rng.choice(TEXTS)


def nested(depth: int) -> Any:
    """Return a list in a list in a list, so many deep."""
    value: Any = 0
    for _ in range(depth):
        value = [value]
    return value


def _other_type(value: Any) -> Any:
    return float(value) if isinstance(value, int) else str(value) + "\x00"


def hostile_call(tool: Tool, rng: random.Random, words: Sequence[str]) -> ToolCall:
    """Return a hostile call of a tool. Some arguments are words of the task, to get further."""
    arguments = {}
    for name, schema in tool.properties.items():
        if name not in tool.required and rng.random() < 0.5:
            continue
        is_text = schema.get("type") == "string"
        if is_text and words and rng.random() < 0.4:
            arguments[name] = rng.choice(words)
        elif (is_text and name in ("command", "code")) or tool.name in ("run", "shell", "python"):
            arguments[name] = rng.choice(SHELL)
        else:
            arguments[name] = hostile_value(schema, rng)
    return ToolCall(tool.name, arguments)


class Adversary:
    """Policy that makes hostile calls, several a turn, and ends with words or a cut call.

    Args:
        tools: Tools to call.
        max_calls: Maximum number of turns with calls.
    """

    def __init__(self, tools: Sequence[Tool], *, max_calls: int = 4):
        self.tools = list(tools)
        self.max_calls = max_calls

    def open(self, messages, tools, *, seed: int, task=None) -> ScriptDialogue:
        rng = random.Random(seed)
        offered = [t for t in self.tools if not task or not task.tools or t.name in task.tools]
        words = [word.strip(".,:;!?\"'()") for m in messages for word in m.content.split()][-40:]
        if not offered:
            return ScriptDialogue(lambda turn: rng.choice(TEXTS))
        texts = []
        for _ in range(rng.randint(1, self.max_calls)):
            calls = [
                self._written(hostile_call(rng.choice(offered), rng, words), rng)
                for _ in range(rng.choice([1, 1, 1, 2, 9]))
            ]
            texts.append("\n".join(calls))
        return ScriptDialogue.from_texts(texts, then=rng.choice(["Done.", *TEXTS]))

    def _written(self, call: ToolCall, rng: random.Random) -> str:
        try:
            text = render_call(call, rng.choice(["hermes", "pythonic"]))
        except (ValueError, RecursionError):  # Python does not print an integer of any size.
            text = f"{call.name}(x={'9' * 5000})"
        return text[: rng.randrange(len(text) + 1)] if rng.random() < 0.05 else text
