"""Policy that plays the oracle's actions token by token, to record demonstrations for SFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envgym.dialects import render_call
from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies import Completion, TokenTrace
from envgym.tasks import Task
from envgym_trainer.model.chat import Chat


class DemoPolicy:
    """Policy that makes the task's oracle calls, one per turn, and sends its final message.

    Args:
        chat: Converts text to the token ids that the model would have to sample.
        dialect: Syntax of tool calls.
    """

    def __init__(self, chat: Chat, dialect: str):
        self.chat = chat
        self.dialect = dialect

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> DemoDialogue:
        if task is None or not task.has_solution:
            raise UsageError(
                "a warm start needs tasks with `oracle` or `final`. Add one of them to each "
                "template, or set train.warm_start.episodes=0"
            )
        lines = [*(render_call(call, self.dialect) for call in task.oracle), task.final]
        return DemoDialogue(self.chat, self.chat.open(messages, tools), lines)


class DemoDialogue:
    def __init__(self, chat: Chat, prompt: list[int], lines: list[str]):
        self.chat = chat
        self.lines = lines
        self.ids, self.mask = list(prompt), [False] * len(prompt)

    def reply(self) -> Completion:
        text = self.lines.pop(0)
        ids = self.chat.answer(text)
        self.ids += ids
        self.mask += [True] * len(ids)
        return Completion(text, tuple(ids))

    def observe(self, messages: Sequence[Message]) -> None:
        ids = self.chat.observe(messages, closed=True)
        self.ids += ids
        self.mask += [False] * len(ids)

    def trace(self) -> TokenTrace:
        """Return the recorded tokens. Logprobs are 0, because the model did not sample them."""
        return TokenTrace(tuple(self.ids), tuple(self.mask), (0.0,) * len(self.ids))

    def close(self) -> None:
        """Do nothing, because no resource is held."""
