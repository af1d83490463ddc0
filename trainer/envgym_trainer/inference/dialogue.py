"""Tokens of a dialogue with an engine, and the request for one response.

An engine derives its dialogue from `TokenDialogue` and implements `sample`. Sampled ids are kept
unchanged and never encoded again from text.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies import Completion, StopReason, TokenTrace
from envgym_trainer.inference import Engine, SamplingSettings


@dataclass(eq=False, slots=True)
class DialogueTokens:
    """All tokens of one dialogue, as the model read or sampled them."""

    ids: list[int]
    seed: int
    mask: list[bool] = field(init=False)
    """Whether each token was sampled."""
    logprobs: list[float] = field(init=False)
    """Log probability of each sampled token at the sampling temperature; 0 for the others."""
    random: Callable[[], float] = field(init=False)
    """Function that returns the next uniform number in [0, 1) of the dialogue's generator."""

    def __post_init__(self) -> None:
        self.mask = [False] * len(self.ids)
        self.logprobs = [0.0] * len(self.ids)
        self.random = np.random.default_rng(self.seed).random

    def extend(self, ids: list[int]) -> None:
        """Append tokens that were not sampled."""
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def trace(self) -> TokenTrace:
        """Return an unchangeable copy."""
        return TokenTrace(tuple(self.ids), tuple(self.mask), tuple(self.logprobs))


@dataclass(eq=False, slots=True)
class TurnRequest:
    """Request for one response of a dialogue."""

    dialogue: DialogueTokens
    temperature: float
    max_new_tokens: int
    stop_ids: frozenset[int]
    """Ids that end the turn. They are sampled and kept."""
    max_context: int
    """Maximum tokens of the whole dialogue."""
    count: int = 0
    """Number of tokens sampled so far."""

    def take(self, token: int, logprob: float) -> StopReason | None:
        """Append a sampled token. Return the stop reason, or None if the response goes on."""
        dialogue = self.dialogue
        dialogue.ids.append(token)
        dialogue.mask.append(True)
        dialogue.logprobs.append(logprob)
        self.count += 1
        if token in self.stop_ids:
            return "stop"
        if self.count >= self.max_new_tokens:
            return "length"
        return "context" if len(dialogue.ids) >= self.max_context else None


class TokenDialogue(ABC):
    """Dialogue whose tokens are kept from turn to turn. Used by one worker thread.

    Args:
        engine: Engine that samples.
        tokens: Tokens of the opening.
        messages: Opening messages.
        tools: Tool schemas for the chat template.
        sampling: Settings of the policy.
    """

    def __init__(
        self,
        engine: Engine,
        tokens: DialogueTokens,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        sampling: SamplingSettings,
    ):
        self._chat = engine.chat
        self._max_context = engine.max_context
        self._tokens = tokens
        self._tools = tools
        self._sampling = sampling
        self._stop_ids = engine.chat.stop_ids if sampling.stop_ids is None else sampling.stop_ids
        self._history = list(messages)
        self._may_reply = True

    @abstractmethod
    def sample(self, request: TurnRequest) -> StopReason:
        """Sample one response with `request.take`, and return its stop reason. Blocks.

        Raises:
            WorldFailure: With kind `policy_failed`, if the engine fails or is closed.
        """

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
        tokens = self._tokens
        start = len(tokens.ids)
        if start >= self._max_context:
            return Completion("", stop_reason="context")
        limit = max_new_tokens or self._sampling.max_new_tokens
        stop_reason = self.sample(
            TurnRequest(
                tokens, self._sampling.temperature, limit, self._stop_ids, self._max_context
            )
        )
        self._may_reply = False
        text = self._chat.decode(tokens.ids[start:])
        self._history.append(Message("assistant", text))
        return Completion(
            text, tuple(tokens.ids[start:]), tuple(tokens.logprobs[start:]), stop_reason
        )

    def observe(self, messages: Sequence[Message]) -> None:
        """Append the messages of the environment."""
        tokens = self._tokens
        closed = tokens.mask[-1] and tokens.ids[-1] in self._stop_ids
        tokens.extend(
            self._chat.observe(messages, closed=closed, history=self._history, tools=self._tools)
        )
        self._history += messages
        self._may_reply = True

    def trace(self) -> TokenTrace:
        """Return all tokens of the dialogue, as the model read or sampled them."""
        return self._tokens.trace()

    def close(self) -> None:
        """Release the resources of the dialogue. Does nothing by default. May be called twice."""
        return None
