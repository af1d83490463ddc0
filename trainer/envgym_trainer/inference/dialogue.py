"""Dialogue in messages over a conversation in token ids.

The chat converts messages to ids and sampled ids to text. Sampled ids are never encoded again.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any

from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies import Completion, TokenTrace
from envgym_trainer.inference.token_session import TokenSession, joined_traces

if TYPE_CHECKING:
    from envgym_trainer.model.chat import Chat


class TokenDialogue:
    """Dialogue with an engine. Used by one episode and one thread.

    Args:
        session: Conversation with the engine that begins with the ids of `messages`.
        open_session: Starts another one, for a template that rewrites an earlier turn.
        chat: Converter between messages and ids.
        messages: Opening messages.
        tools: Tool schemas for the chat template.
    """

    def __init__(
        self,
        session: TokenSession,
        open_session: Callable[[list[int]], TokenSession],
        chat: Chat,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
    ):
        self.session = session
        self._open_session = open_session
        self._earlier: list[TokenTrace] = []
        self._chat = chat
        self._tools = tools
        self._history = list(messages)
        self._may_reply = True

    def reply(self, max_new_tokens: int | None = None) -> Completion:
        """Sample the next assistant message. Blocks until it is finished.

        Args:
            max_new_tokens: Maximum tokens of this turn; the policy's limit by default.

        Raises:
            WorldFailure: If the engine fails or is closed (`policy_failed`).
            UsageError: If there was no observation since the last reply.
        """
        if not self._may_reply:
            raise UsageError(
                "this dialogue has already replied. Call observe() with the environment's answer "
                "first."
            )
        turn = self.session.sample(max_new_tokens=max_new_tokens)
        if not turn.token_ids:
            return Completion("", stop_reason=turn.stop_reason)
        self._may_reply = False
        text = self._chat.decode(turn.token_ids)
        self._history.append(Message("assistant", text))
        return Completion(text, turn.token_ids, turn.logprobs, turn.stop_reason)

    def observe(self, messages: Sequence[Message]) -> None:
        """Append the messages of the environment.

        If the chat template rewrites an earlier turn, such as by dropping its reasoning, the
        dialogue continues in a new session with the rewritten prompt.
        """
        tokens = self.session.tokens
        closed = tokens.mask[-1] and tokens.ids[-1] in self.session.stop_ids
        found = self._chat.extend(self._history, messages, self._tools, closed=closed)
        if found.rewritten:
            self._earlier.append(self.session.trace())
            self.session.close()
            self.session = self._open_session(found.prompt)
            self.session.tokens.random = tokens.random
        else:
            self.session.extend(found.ids)
        self._history += messages
        self._may_reply = True

    def trace(self) -> TokenTrace:
        """Return all tokens of the dialogue, as the model read or sampled them."""
        return joined_traces([*self._earlier, self.session.trace()])

    def close(self) -> None:
        """Release the resources of the dialogue. May be called twice."""
        self.session.close()
