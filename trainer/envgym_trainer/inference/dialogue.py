"""Policy and dialogues of a sampling engine. A dialogue is used by one worker thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies import Completion, TokenTrace
from envgym.tasks import Task
from envgym_trainer.inference.in_process.scheduler import DialogueState, PendingTurn
from envgym_trainer.model.chat import Chat


class Engine(Protocol):
    """Interface of a sampling engine: in this process, or on a server."""

    chat: Chat
    max_context: int

    @property
    def seconds_busy(self) -> float:
        """Wall seconds of computation since the start; NaN if unknown."""
        ...

    def policy(
        self, *, temperature: float = 1.0, max_new_tokens: int = 256, siblings: int = 1
    ) -> EnginePolicy: ...

    def refresh(self, peft_model: Any = None) -> None: ...

    def sleep(self) -> None: ...

    def submit(self, turn: PendingTurn) -> None: ...

    def release(self, track: DialogueState) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """Policy that samples from an engine. Safe to share between threads."""

    engine: Engine
    temperature: float
    max_new_tokens: int
    """Maximum tokens of one turn."""
    siblings: int = 1
    """Number of dialogues with the same opening that are open at once."""

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        seed: int,
        task: Task | None = None,
    ) -> EngineDialogue:
        """Start a dialogue; see `envgym.policies.Policy`. The task is ignored."""
        return EngineDialogue(self, messages, tools, seed=seed)


class EngineDialogue:
    """Dialogue with keys and values that stay in the engine between turns."""

    def __init__(
        self,
        policy: EnginePolicy,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
    ):
        self._policy = policy
        self._engine = policy.engine
        self._tools = tools
        chat = self._engine.chat
        ids = chat.open(messages, tools)
        # At least one id stays outside the shared prefix: the first logits need a forward pass
        # over the dialogue's row.
        opening = len(ids) - 1
        system = min(chat.shared(messages, tools), opening)
        # With enough members, a prefix for each group has fewer keys to read at each token.
        if policy.siblings * (opening - system) > opening:
            self._track = DialogueState(ids, opening, seed, outer=system)
        else:
            self._track = DialogueState(ids, system, seed)
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
        track = self._track
        start = len(self._track.ids)
        if start >= self._engine.max_context:
            return Completion("", stop_reason="context")
        turn = PendingTurn(
            track, self._policy.temperature, max_new_tokens or self._policy.max_new_tokens
        )
        self._engine.submit(turn)
        stop_reason = turn.future.result()
        self._may_reply = False
        text = self._engine.chat.decode(track.ids[start:])
        self._history.append(Message("assistant", text))
        return Completion(
            text, tuple(track.ids[start:]), tuple(track.logprobs[start:]), stop_reason
        )

    def observe(self, messages: Sequence[Message]) -> None:
        """Append the messages of the environment."""
        closed = self._track.mask[-1] and self._track.ids[-1] in self._engine.chat.stop_ids
        chat = self._engine.chat
        self._track.extend(
            chat.observe(messages, closed=closed, history=self._history, tools=self._tools)
        )
        self._history += messages
        self._may_reply = True

    def trace(self) -> TokenTrace:
        """Return all tokens of the dialogue, as the model read or sampled them."""
        return TokenTrace(
            tuple(self._track.ids), tuple(self._track.mask), tuple(self._track.logprobs)
        )

    def close(self) -> None:
        """Release the dialogue's cache. Safe to call twice."""
        if not self._track.closed:
            self._engine.release(self._track)
