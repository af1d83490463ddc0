"""Policies that need no model: they test environments, give floors and ceilings, and make demonstrations.

    OraclePolicy    knows the hidden truth: the ceiling
    NoopPolicy      does nothing: the floor
    RefusePolicy    always says no
    RandomPolicy    valid calls with random arguments; random words where there is nothing to call
    ScriptedPolicy  whatever a function or a list of texts says

None of them has tokens, so `trace()` is None. An environment has to read the dialect they write.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.dialects import render_call
from envgym.errors import UsageError
from envgym.messages import Message, ToolCall
from envgym.policies import Completion
from envgym.tasks import Task
from envgym.tools import Tool

Script = Callable[[Task | None, int], str]
"""(task, turn from 0) -> what is said."""


class ScriptDialogue:
    """One conversation of a policy without tokens: what it says depends on the number of the turn alone."""

    def __init__(self, say: Callable[[int], str]):
        self._say = say
        self._turn = -1

    def reply(self) -> Completion:
        self._turn += 1
        return Completion(self._say(self._turn))

    def observe(self, messages: Sequence[Message]) -> None:
        """Nothing that is answered changes the script."""

    def trace(self) -> None:
        return None

    def close(self) -> None:
        """Holds nothing."""


@dataclass(frozen=True)
class ScriptedPolicy:
    """Says what its script says.

    Args:
        script: function of the task and the turn's number (from 0), or the texts in order.
        then: said when the texts have run out.
    """

    script: Script | Sequence[str]
    then: str = "Done."

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> ScriptDialogue:
        script = self.script
        if callable(script):
            return ScriptDialogue(lambda turn: script(task, turn))
        return ScriptDialogue(lambda turn: script[turn] if turn < len(script) else self.then)


@dataclass(frozen=True)
class OraclePolicy:
    """Solves the task from its hidden truth: one call a turn, then the final message."""

    dialect: str = "hermes"

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> ScriptDialogue:
        """Raises UsageError without a task: a foreign environment has no hidden truth to read."""
        if task is None:
            raise UsageError(
                "the oracle needs tasks with an `oracle`, and this environment gives none; use another policy"
            )
        texts = [render_call(call, self.dialect) for call in task.oracle]
        return ScriptDialogue(lambda turn: texts[turn] if turn < len(texts) else task.final)


class NoopPolicy(ScriptedPolicy):
    """Claims to be done at once."""

    def __init__(self) -> None:
        super().__init__(())


@dataclass(frozen=True)
class RefusePolicy:
    """Refuses whatever is asked: by one and the same call where there is one, then in words.

    Args:
        call: how the environment wants a refusal, such as `ToolCall("close_request", {"outcome": "refused", ...})`.
        dialect: in which the call is written.
    """

    call: ToolCall | None = None
    dialect: str = "hermes"
    words: str = "I am sorry, I cannot do that."

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> ScriptDialogue:
        offered = self.call is not None and (
            task is None or task.tools is None or self.call.name in task.tools
        )
        texts = [render_call(self.call, self.dialect)] if self.call is not None and offered else []
        return ScriptDialogue(lambda turn: texts[turn] if turn < len(texts) else self.words)


@dataclass(frozen=True)
class RandomPolicy:
    """Calls random tools with arguments that fit their schemas; texts are drawn from the words of the conversation.

    Where no tool is offered, it says one of these words a turn.

    Args:
        tools: used when `open` is given none because they stand in the system message.
        max_calls: calls before it says "Done."; their number is drawn from 0..max_calls.
        dialect: in which calls are written.
    """

    tools: Sequence[Tool] = ()
    max_calls: int = 4
    dialect: str = "hermes"

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> ScriptDialogue:
        offered = [Tool.from_schema(schema) for schema in tools] or list(self.tools)
        if task is not None and task.tools is not None:
            offered = [tool for tool in offered if tool.name in task.tools]
        rng = random.Random(seed)
        words = [
            word.strip(".,:;!?\"'()")
            for message in messages
            if message.role == "user"
            for word in message.content.split()
        ]
        if not offered:
            return ScriptDialogue(lambda turn: _random_text({}, rng, words))
        calls = [
            random_call(rng.choice(offered), rng, words)
            for _ in range(rng.randint(0, self.max_calls))
        ]
        texts = [render_call(call, self.dialect) for call in calls]
        return ScriptDialogue(lambda turn: texts[turn] if turn < len(texts) else "Done.")


def random_call(tool: Tool, rng: random.Random, words: Sequence[str] = ()) -> ToolCall:
    """A call that passes validation; optional arguments are left out half of the time.

    Args:
        words: texts are drawn from these.
    """
    taken = [name for name in tool.properties if name in tool.required or rng.random() < 0.5]
    return ToolCall(
        tool.name, {name: random_value(tool.properties[name], rng, words) for name in taken}
    )


def random_value(schema: dict[str, Any], rng: random.Random, words: Sequence[str] = ()) -> Any:
    """A value that fits a schema of the kinds that `envgym.tools` checks."""
    if "const" in schema:
        return schema["const"]
    if "enum" in schema:
        return rng.choice(schema["enum"])
    if options := schema.get("anyOf") or schema.get("oneOf"):
        return random_value(rng.choice(options), rng, words)
    kind = schema.get("type", "string")
    kind = rng.choice(kind) if isinstance(kind, list) else kind
    if kind in ("integer", "number"):
        return _random_number(kind, schema, rng)
    if kind == "array":
        least = schema.get("minItems", 0)
        most = schema.get("maxItems", 3)
        return [
            random_value(schema.get("items", {}), rng, words)
            for _ in range(rng.randint(least, max(least, min(most, 3))))
        ]
    if kind == "object":
        return {
            name: random_value(inner, rng, words)
            for name, inner in schema.get("properties", {}).items()
        }
    return {"boolean": rng.random() < 0.5, "null": None}.get(kind, _random_text(schema, rng, words))


def _random_number(kind: str, schema: dict[str, Any], rng: random.Random) -> int | float:
    low = schema.get(
        "minimum", schema["exclusiveMinimum"] + 1 if "exclusiveMinimum" in schema else None
    )
    high = schema.get(
        "maximum", schema["exclusiveMaximum"] - 1 if "exclusiveMaximum" in schema else None
    )
    low = low if low is not None else min(0, high - 100 if high is not None else 0)
    high = high if high is not None else low + 100
    return rng.randint(low, high) if kind == "integer" else round(rng.uniform(low, high), 2)


def _random_text(schema: dict[str, Any], rng: random.Random, words: Iterable[str]) -> str:
    drawn = rng.choice([word for word in words if word] or ["something"])
    least = schema.get("minLength", 0)
    return drawn.ljust(least, "x")[: schema.get("maxLength")]
