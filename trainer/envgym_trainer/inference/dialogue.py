"""The policy and the dialogues that an engine serves; one dialogue belongs to one worker thread."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol

from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies import Completion, TokenTrace
from envgym.tasks import Task
from envgym_trainer.inference.in_process.scheduler import Track, Turn
from envgym_trainer.model.chat import Chat


class Sampler(Protocol):
    """What serves dialogues: the engine of this process, or a server."""

    chat: Chat
    max_context: int

    @property
    def seconds_busy(self) -> float:
        """Wall seconds of computing so far; NaN where that is not known."""
        ...

    def policy(
        self, *, temperature: float = 1.0, max_new_tokens: int = 256, siblings: int = 1
    ) -> EnginePolicy: ...

    def refresh(self, peft_model: Any = None) -> None: ...

    def sleep(self) -> None: ...

    def submit(self, turn: Turn) -> None: ...

    def release(self, track: Track) -> None: ...

    def close(self) -> None: ...


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """Samples on an engine; safe to share between threads."""

    engine: Sampler
    temperature: float
    max_new_tokens: int
    """Limit of one turn."""
    siblings: int = 1
    """Dialogues with one opening that are open at once."""

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        seed: int,
        task: Task | None = None,
    ) -> EngineDialogue:
        """Starts a conversation; see `envgym.policies.Policy`. The task is not looked at."""
        return EngineDialogue(self, messages, tools, seed=seed)


class EngineDialogue:
    """One conversation. The engine keeps its keys and values from turn to turn."""

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
        # At least one id stays outside the segment: a pass over the dialogue's own row must give the first logits.
        opening = len(ids) - 1
        system = min(chat.shared(messages, tools), opening)
        if (
            policy.siblings * (opening - system) > opening
        ):  # a segment for each group has fewer keys to read at each token
            self._track = Track(ids, opening, seed, outer=system)
        else:
            self._track = Track(ids, system, seed)
        self._history = list(messages)
        self._may_reply = True

    def reply(self, max_new_tokens: int | None = None) -> Completion:
        """Samples the next assistant message; blocks until it is finished.

        Args:
            max_new_tokens: limit of this turn; the policy's by default.
        Raises: WorldFailure (`policy_failed`) when the engine fails or is closed. UsageError for a second reply without an
            observation in between.
        """
        if not self._may_reply:
            raise UsageError(
                "this dialogue has replied already: observe() what the environment answered first."
            )
        track = self._track
        start = len(self._track.ids)
        if start >= self._engine.max_context:
            return Completion("", stop_reason="context")
        turn = Turn(track, self._policy.temperature, max_new_tokens or self._policy.max_new_tokens)
        self._engine.submit(turn)
        stop_reason = turn.future.result()
        self._may_reply = False
        text = self._engine.chat.decode(track.ids[start:])
        self._history.append(Message("assistant", text))
        return Completion(
            text, tuple(track.ids[start:]), tuple(track.logprobs[start:]), stop_reason
        )

    def observe(self, messages: Sequence[Message]) -> None:
        """Appends what the environment answered."""
        closed = self._track.mask[-1] and self._track.ids[-1] in self._engine.chat.stop_ids
        chat = self._engine.chat
        self._track.extend(
            chat.observe(messages, closed=closed, history=self._history, tools=self._tools)
        )
        self._history += messages
        self._may_reply = True

    def trace(self) -> TokenTrace:
        """All tokens so far, as the model saw or sampled them."""
        return TokenTrace(
            tuple(self._track.ids), tuple(self._track.mask), tuple(self._track.logprobs)
        )

    def close(self) -> None:
        """Frees what the dialogue holds. Safe to call twice."""
        if not self._track.closed:
            self._engine.release(self._track)
