"""Policy `oracle`: solves every task from its hidden truth. It is the ceiling of an environment."""

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
    """Makes the calls of the task's oracle, one a turn, and ends with its final message.

    Args:
        dialect: Tool-call syntax. The environment must accept it.
    """

    dialect: str = "hermes"

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> ScriptDialogue:
        """Raises UsageError without a task: a foreign environment has no hidden truth."""
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
