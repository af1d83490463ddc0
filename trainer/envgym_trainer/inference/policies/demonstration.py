"""Plays the oracle's part token by token, so that a demonstration is an episode like any other, ready to be learned from."""

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
    """Answers with the task's oracle calls, one a turn, then its final message.

    Args:
        chat: turns text into the ids that the model would have to sample.
        dialect: how calls are written.
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
                "a warm start needs tasks that say what solves them, by `oracle` or `final`; set train.warmup.demos=0 without"
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
        """The logprobs are 0: a demonstration was not sampled from the model."""
        return TokenTrace(tuple(self.ids), tuple(self.mask), (0.0,) * len(self.ids))

    def close(self) -> None:
        """Holds nothing."""
