"""Policy `oracle`: plays the known solution of every task. Its result is the upper bound."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from envgym.dialects import render_call
from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies.scripted import ScriptDialogue
from envgym.tasks import Task

if TYPE_CHECKING:
    from envgym.world import World


@dataclass(frozen=True)
class OraclePolicy:
    """Policy that makes the calls of `Task.oracle`, one per turn, and then sends `Task.final`."""

    dialect: str = "hermes"
    """Syntax of the tool calls, one of the environment's `prompt.dialects`."""

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> ScriptDialogue:
        """Return the dialogue of a task. The prompt is not read.

        Raises:
            UsageError: If there is no task, because a foreign environment has no known solution.
        """
        if task is None:
            raise UsageError(
                "the oracle needs tasks with an `oracle`, and this environment gives none; "
                "use another policy"
            )
        texts = [render_call(call, self.dialect) for call in task.oracle]
        return ScriptDialogue.from_texts(texts, then=task.final)


def open_policy(argument: str, world: World) -> OraclePolicy:
    """Return the oracle of a world; the argument is ignored."""
    return OraclePolicy(world.spec.prompt.dialects[0])
