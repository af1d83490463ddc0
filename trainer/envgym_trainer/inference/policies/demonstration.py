"""Policy that plays the oracle's actions token by token, to record demonstrations for SFT."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from envgym.dialects import render_call
from envgym.errors import UsageError
from envgym.messages import Message, ToolCall
from envgym.policies import Completion, TokenTrace
from envgym.tasks import Task
from envgym_trainer.inference.token_session import DialogueTokens, joined_traces
from envgym_trainer.model.chat import Chat


class DemoPolicy:
    """Policy that makes the task's oracle calls, one per turn, and sends its final message.

    Args:
        chat: Converts text to the token ids that the model would have to sample. With `native`
            rendering the model's chat template writes the calls.
        dialect: Syntax of tool calls, for `text` rendering.
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
        turns = [*((self._text(call), call) for call in task.oracle), (task.final, None)]
        return DemoDialogue(self.chat, messages, tools, turns)

    def _text(self, call: ToolCall) -> str:
        return "" if self.chat.rendering == "native" else render_call(call, self.dialect)


class DemoDialogue:
    """Dialogue of a demonstration.

    Args:
        chat: Converts text to token ids.
        messages: Opening messages.
        tools: Tools of the conversation.
        turns: Text and call of each answer. The text is empty if the template writes the call.
    """

    def __init__(
        self,
        chat: Chat,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        turns: list[tuple[str, ToolCall | None]],
    ):
        self.chat = chat
        self.tools = tools
        self.turns = turns
        self.history = list(messages)
        self.streams = [DialogueTokens(chat.open(messages, tools), seed=0)]

    def reply(self) -> Completion:
        text, call = self.turns.pop(0)
        ids = self.chat.answer(text, call, history=self.history, tools=self.tools)
        self.streams[-1].take(ids)
        text = text or self.chat.decode(ids)
        self.history.append(Message("assistant", text))
        return Completion(text, tuple(ids))

    def observe(self, messages: Sequence[Message]) -> None:
        found = self.chat.extend(self.history, messages, self.tools, closed=True)
        if found.rewritten:
            self.streams.append(DialogueTokens(found.prompt, seed=0))
        else:
            self.streams[-1].extend(found.ids)
        self.history += messages

    def trace(self) -> TokenTrace:
        """Return the recorded tokens. Logprobs are 0, because the model did not sample them."""
        return joined_traces([tokens.trace() for tokens in self.streams])

    def close(self) -> None:
        """Do nothing, because no resource is held."""
