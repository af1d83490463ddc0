"""Conversation with an engine in token ids, and the request for one sampled turn.

An engine derives its session from `TokenSession` and implements `complete`. Sampled ids are kept
unchanged and never encoded again from text. Importable without torch.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from itertools import accumulate, chain

import numpy as np

from envgym.errors import UsageError
from envgym.policies import StopReason, TokenTrace

OnToken = Callable[[int, float], bool | None]
"""Callback for each sampled token: its id and its log probability. If it returns True, the turn
ends after this token. It is called on a thread of the engine, so it must return at once."""

AllowedTokens = Callable[[Sequence[int]], Collection[int] | None]
"""Constraint of a turn: from the ids sampled so far to those that may come next, or None for any.
Only engines with `supports_constraints` use it."""


@dataclass(frozen=True, slots=True)
class SamplingSettings:
    """Settings of all dialogues of one policy."""

    temperature: float = 1.0
    """Sampling temperature, at least 0. 0 is greedy."""
    max_new_tokens: int = 256
    """Maximum tokens of one turn."""
    group_size: int = 1
    """Number of dialogues with the same opening that are open at once. It affects only speed."""
    stop_ids: frozenset[int] | None = None
    """Ids that end a turn; None for those of the chat template."""

    def __post_init__(self) -> None:
        if self.temperature < 0 or self.max_new_tokens < 1:
            raise UsageError(
                "temperature must be at least 0 and max_new_tokens at least 1, got "
                f"{self.temperature} and {self.max_new_tokens}."
            )


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
        self.reseed(self.seed)

    def reseed(self, seed: int) -> None:
        """Start the dialogue's generator again."""
        self.seed = seed
        self.random = np.random.default_rng(seed).random

    def extend(self, ids: Sequence[int]) -> None:
        """Append tokens that were not sampled."""
        self.ids += ids
        self.mask += [False] * len(ids)
        self.logprobs += [0.0] * len(ids)

    def rewind(self, count: int) -> None:
        """Drop all tokens but the first `count`."""
        del self.ids[count:], self.mask[count:], self.logprobs[count:]

    def take(self, ids: Sequence[int], logprobs: Sequence[float] | None = None) -> None:
        """Append sampled tokens; without log probabilities, they are 0."""
        self.ids += ids
        self.mask += [True] * len(ids)
        self.logprobs += logprobs or [0.0] * len(ids)

    def trace(self) -> TokenTrace:
        """Return an unchangeable copy."""
        return TokenTrace(tuple(self.ids), tuple(self.mask), tuple(self.logprobs))


def joined_traces(traces: Sequence[TokenTrace]) -> TokenTrace:
    """Return one trace of the streams of a dialogue, in order."""
    lengths = [len(trace.token_ids) for trace in traces]
    return TokenTrace(
        tuple(chain.from_iterable(trace.token_ids for trace in traces)),
        tuple(chain.from_iterable(trace.loss_mask for trace in traces)),
        tuple(chain.from_iterable(trace.logprobs for trace in traces)),
        tuple(accumulate(lengths[:-1])),
    )


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
    on_token: OnToken | None = None
    allowed: AllowedTokens | None = None
    count: int = 0
    """Number of tokens sampled so far."""

    def choices(self) -> Collection[int] | None:
        """Return the ids that may be sampled next, or None for any."""
        if self.allowed is None:
            return None
        ids = self.dialogue.ids
        return self.allowed(ids[len(ids) - self.count :])

    def take(self, token: int, logprob: float) -> StopReason | None:
        """Append a sampled token. Return the stop reason, or None if the response goes on."""
        dialogue = self.dialogue
        dialogue.ids.append(token)
        dialogue.mask.append(True)
        dialogue.logprobs.append(logprob)
        self.count += 1
        is_last = bool(self.on_token and self.on_token(token, logprob))
        if token in self.stop_ids or is_last:
            return "stop"
        if self.count >= self.max_new_tokens:
            return "length"
        return "context" if len(dialogue.ids) >= self.max_context else None


@dataclass(frozen=True, slots=True)
class SampledTurn:
    """Tokens of one sampled turn."""

    token_ids: tuple[int, ...]
    """Sampled ids, the stop id included. Empty if the context has no room for a token."""
    logprobs: tuple[float, ...]
    """Log probability (natural) of each id at the sampling temperature."""
    stop_reason: StopReason


class TokenSession(ABC):
    """Conversation in token ids whose tokens are kept from turn to turn. Used by one thread.

    Args:
        tokens: Tokens of the opening.
        sampling: Settings of the turns.
        stop_ids: Ids that end a turn if `sampling` names none.
        max_context: Maximum tokens of the whole conversation.
    """

    def __init__(
        self,
        tokens: DialogueTokens,
        sampling: SamplingSettings,
        *,
        stop_ids: frozenset[int],
        max_context: int,
    ):
        self.tokens = tokens
        self.sampling = sampling
        self.max_context = max_context
        self._stop_ids = stop_ids

    @abstractmethod
    def complete(self, request: TurnRequest) -> StopReason:
        """Sample one turn with `request.take`, and return its stop reason. Blocks.

        Raises:
            WorldFailure: With kind `policy_failed`, if the engine fails or is closed.
        """

    @property
    def stop_ids(self) -> frozenset[int]:
        """Ids that end a turn."""
        chosen = self.sampling.stop_ids
        return self._stop_ids if chosen is None else chosen

    def sample(
        self,
        *,
        max_new_tokens: int | None = None,
        sampling: SamplingSettings | None = None,
        seed: int | None = None,
        on_token: OnToken | None = None,
        allowed: AllowedTokens | None = None,
    ) -> SampledTurn:
        """Sample the next turn. Blocks until it is finished.

        Args:
            max_new_tokens: Maximum tokens of this turn; that of the settings by default.
            sampling: Settings from this turn on. None keeps those of the session.
            seed: Seed from this turn on. None continues the generator of the session.
            on_token: Callback for each token.
            allowed: Constraint of the tokens, for an engine with `supports_constraints`.

        Raises:
            WorldFailure: If the engine fails or is closed (`policy_failed`). The session cannot be
                continued after it.
        """
        if sampling is not None:
            self.sampling = sampling
        if seed is not None:
            self.tokens.reseed(seed)
        tokens = self.tokens
        start = len(tokens.ids)
        if start >= self.max_context:
            return SampledTurn((), (), "context")
        request = TurnRequest(
            tokens,
            self.sampling.temperature,
            max_new_tokens or self.sampling.max_new_tokens,
            self.stop_ids,
            self.max_context,
            on_token,
            allowed,
        )
        stop_reason = self.complete(request)
        return SampledTurn(tuple(tokens.ids[start:]), tuple(tokens.logprobs[start:]), stop_reason)

    def extend(self, ids: Sequence[int]) -> None:
        """Append tokens that were not sampled, such as an observation and a generation prompt."""
        self.tokens.extend(ids)

    @property
    def shared(self) -> int:
        """Number of first ids that cannot be rewound, because other sessions share them."""
        return 0

    def rewind(self, count: int) -> None:
        """Drop all tokens but the first `count`, between two turns.

        Args:
            count: Number of ids to keep, more than `shared`.
        """
        self.tokens.rewind(count)

    def trace(self) -> TokenTrace:
        """Return all tokens, as the model read or sampled them."""
        return self.tokens.trace()

    def close(self) -> None:
        """Release the resources of the session. Does nothing by default. May be called twice."""
        return None
