"""Policy `refuse`: refuses every task, by the call `episode.refusal` of the YAML or in words."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envgym.dialects import render_call
from envgym.messages import Message, ToolCall
from envgym.policies.scripted import ScriptDialogue
from envgym.tasks import Task

if TYPE_CHECKING:
    from envgym.world import World


@dataclass(frozen=True)
class RefusePolicy:
    """Refuses by the same call in every task that offers its tool, then in words.

    Args:
        call: Tool call that refuses a request in this environment. None refuses in words only.
        dialect: Tool-call syntax. The environment must accept it.
        words: Text of every other turn.
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
        texts = []
        if self.call and (task is None or task.tools is None or self.call.name in task.tools):
            texts = [render_call(self.call, self.dialect)]
        return ScriptDialogue.from_texts(texts, then=self.words)


def open_policy(argument: str, world: World) -> RefusePolicy:
    """Return the policy for a world; the argument is ignored."""
    refusal = world.spec.episode.refusal
    call = ToolCall(refusal.tool, refusal.arguments) if refusal else None
    return RefusePolicy(call, world.spec.prompt.dialects[0])
