"""Interfaces between an episode and the policy that plays it.

>>> from envgym import ScriptedPolicy
>>> dialogue = ScriptedPolicy(["guess(number=8)"]).open([Message("user", "Go.")], [], seed=7)
>>> dialogue.reply().text
'guess(number=8)'
>>> dialogue.observe([Message("tool", "higher")])
>>> dialogue.close()
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from envgym.messages import Message
from envgym.tasks import Task
from envgym.text import clean

StopReason = Literal["stop", "length", "context"]
"""Reason for the end of an answer. `stop`: the model ended its turn. `length`: token limit of the
turn. `context`: the context has no room for another turn."""


@dataclass(frozen=True, slots=True)
class SamplingOverrides:
    """Sampling settings that replace those of a policy. None keeps the policy's own."""

    temperature: float | None = None
    """Sampling temperature. 0 is greedy."""
    max_turn_tokens: int | None = None
    """Maximum tokens of one answer."""
    max_context_tokens: int | None = None
    """Maximum tokens of a whole dialogue."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a policy, exactly as sampled."""

    text: str
    """Action for the environment: decoded text without special tokens and stop token."""
    token_ids: tuple[int, ...] = ()
    """Sampled token ids, stop token included. Training uses them unchanged and never re-encodes
    `text`."""
    logprobs: tuple[float, ...] = ()
    """Log probability (natural) of each id at the sampling temperature; empty if the policy does
    not report it."""
    stop_reason: StopReason = "stop"

    def __post_init__(self) -> None:
        object.__setattr__(self, "text", clean(self.text))


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """Tokens of one whole dialogue in order: prompt, answers and observations.

    If a chat template rewrites earlier turns, the dialogue continues on the rewritten prompt. Then
    the tokens of that new stream follow those of the one before, and each sampled token is in the
    stream in which it was sampled.
    """

    token_ids: tuple[int, ...]
    """Token ids exactly as the model saw or sampled them, shape (T,)."""
    loss_mask: tuple[bool, ...]
    """True if the policy sampled the token, shape (T,)."""
    logprobs: tuple[float, ...]
    """Log probability (natural) at the sampling temperature, shape (T,); 0.0 if `loss_mask` is
    False."""
    starts: tuple[int, ...] = ()
    """Positions at which further streams begin; empty if no turn was rewritten."""

    @property
    def longest_stream(self) -> int:
        """Number of tokens of the longest stream, which had to fit into the context."""
        bounds = (0, *self.starts, len(self.token_ids))
        return max(stop - start for start, stop in itertools.pairwise(bounds))


@runtime_checkable
class Dialogue(Protocol):
    """One conversation in progress, used by one episode and one thread.

    It holds the state of the conversation, such as a KV cache or the message list of an API client.
    """

    def reply(self) -> Completion:
        """Sample the next assistant message."""
        ...

    def observe(self, messages: Sequence[Message]) -> None:
        """Append the messages of the environment."""
        ...

    def trace(self) -> TokenTrace | None:
        """Return all tokens of the dialogue, or None if the policy has no tokens."""
        ...

    def close(self) -> None:
        """Release the resources of the dialogue. May be called twice."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Factory of dialogues, shared by many threads."""

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> Dialogue:
        """Start a conversation.

        Args:
            messages: Opening messages: system and user.
            tools: JSON schemas (OpenAI function form) for the chat template. Empty if the
                environment lists its tools in the system message.
            seed: Seed of the sampling in this dialogue.
            task: Task with its hidden truth. An oracle reads it; a model-backed policy must not.
        """
        ...
