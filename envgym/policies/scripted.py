"""Policies that follow a script. They have no tokens, so `trace()` is None."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from envgym.messages import Message
from envgym.policies import Completion
from envgym.tasks import Task

Script = Callable[[Task | None, int], str]
"""Function of the task and the turn's number (from 0) that returns the text of the turn."""


class ScriptDialogue:
    """A conversation whose answers depend on the turn's number alone.

    Args:
        say: Function of the turn's number (from 0) that returns the text of the turn.
    """

    def __init__(self, say: Callable[[int], str]):
        self._say = say
        self._turn = -1

    @classmethod
    def from_texts(cls, texts: Sequence[str], *, then: str) -> ScriptDialogue:
        """Return a dialogue that says the texts in order, and `then` in every later turn."""
        return cls(lambda turn: texts[turn] if turn < len(texts) else then)

    def reply(self) -> Completion:
        self._turn += 1
        return Completion(self._say(self._turn))

    def observe(self, messages: Sequence[Message]) -> None:
        """Ignore the environment's answers."""

    def trace(self) -> None:
        return None

    def close(self) -> None:
        """Do nothing: the dialogue holds no resources."""


@dataclass(frozen=True)
class ScriptedPolicy:
    """Plays a script.

    Args:
        script: Function of the task and the turn's number (from 0), or the texts in order.
        then: Text of every turn after the last text.
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
        return ScriptDialogue.from_texts(script, then=self.then)
