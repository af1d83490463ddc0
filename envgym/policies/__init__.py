"""Who plays: the contract between an episode and whatever answers in it.

A policy opens a dialogue; the dialogue is the handle under which a KV cache, or an API client's message list, lives.
One dialogue belongs to one episode and one thread; a policy is shared by many threads.

    dialogue = policy.open(messages, tools, seed=7, task=task)
    completion = dialogue.reply()
    dialogue.observe(tool_messages)
    dialogue.close()
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal, Protocol, runtime_checkable

from envgym.messages import Message
from envgym.tasks import Task

StopReason = Literal["stop", "length", "context"]
"""`stop`: the model ended its turn. `length`: the turn's token limit. `context`: no room is left for another turn."""


@dataclass(frozen=True, slots=True)
class Completion:
    """One answer of a policy, exactly as sampled."""

    text: str
    """What the environment gets: decoded without special tokens, the stop token left out."""
    token_ids: tuple[int, ...] = ()
    """Sampled ids, stop token included. Trained on as they are; never rebuilt from `text`."""
    logprobs: tuple[float, ...] = ()
    """Natural log of each id's probability at the sampling temperature; empty where the policy cannot know it."""
    stop_reason: StopReason = "stop"


@dataclass(frozen=True, slots=True)
class TokenTrace:
    """The tokens of one whole dialogue, in order: prompt, answers, observations."""

    token_ids: tuple[int, ...]
    """(T,) ids exactly as the model saw or sampled them."""
    loss_mask: tuple[bool, ...]
    """(T,) True where the policy sampled the token."""
    logprobs: tuple[float, ...]
    """(T,) natural log at the sampling temperature; 0.0 where `loss_mask` is False."""


@runtime_checkable
class Dialogue(Protocol):
    """One conversation in progress."""

    def reply(self) -> Completion:
        """Samples the next assistant message."""
        ...

    def observe(self, messages: Sequence[Message]) -> None:
        """Appends what the environment answered."""
        ...

    def trace(self) -> TokenTrace | None:
        """All tokens so far; None for a policy that has none (a person, an API)."""
        ...

    def close(self) -> None:
        """Frees what the dialogue holds. Safe to call twice."""
        ...


@runtime_checkable
class Policy(Protocol):
    """Opens dialogues; safe to share between threads."""

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        task: Task | None = None,
    ) -> Dialogue:
        """Starts a conversation.

        Args:
            messages: the opening: system and user messages.
            tools: JSON schemas (OpenAI function form) to be rendered by the chat template; empty when the
                environment has already written its tools into the system message.
            seed: fixes the randomness of this dialogue's sampling.
            task: the task with its hidden truth. An oracle reads it; a model-backed policy must not.
        """
        ...
