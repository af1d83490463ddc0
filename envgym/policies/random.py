"""Policy `random`: random valid tool calls, or random words if there is no tool."""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envgym.dialects import render_call
from envgym.messages import Message, ToolCall
from envgym.policies.scripted import ScriptDialogue
from envgym.tasks import Task
from envgym.tools import Tool

if TYPE_CHECKING:
    from envgym.world import World


@dataclass(frozen=True)
class RandomPolicy:
    """Makes random valid calls; texts are drawn from the words of the user's messages.

    If there are no tools, it answers with one of these words in every turn.

    Args:
        tools: Tools to call if `open` is given none because the system message lists them.
        max_calls: Maximum number of calls before "Done."; the number is drawn from 0 to this.
        dialect: Tool-call syntax. The environment must accept it.
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
        return ScriptDialogue.from_texts(texts, then="Done.")


def open_policy(argument: str, world: World) -> RandomPolicy:
    """Return the policy for a world; the argument is ignored."""
    return RandomPolicy(list(world.tools.values()), dialect=world.spec.prompt.dialects[0])


def random_call(tool: Tool, rng: random.Random, words: Sequence[str] = ()) -> ToolCall:
    """Return a call that passes validation. Each optional argument is given with probability 1/2.

    Args:
        tool: The tool to call.
        rng: Source of randomness.
        words: Words from which texts are drawn.
    """
    taken = [name for name in tool.properties if name in tool.required or rng.random() < 0.5]
    return ToolCall(
        tool.name, {name: random_value(tool.properties[name], rng, words) for name in taken}
    )


def random_value(schema: dict[str, Any], rng: random.Random, words: Sequence[str] = ()) -> Any:
    """Return a value that fits a schema of the kinds that `envgym.tools` validates."""
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
