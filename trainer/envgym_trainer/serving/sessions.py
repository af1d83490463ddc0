"""Sessions of the engine that are kept between the requests of a conversation.

A client sends the whole conversation with each request. If a kept session begins with the same ids,
the request continues it, so that the engine computes only the ids that are new. Conversations with
the same system message and tools share the ids of these.
"""

from __future__ import annotations

import threading
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

from envgym.text import to_json
from envgym_trainer.inference import Engine, SamplingSettings
from envgym_trainer.inference.token_session import TokenSession
from envgym_trainer.model.chat import Chat

MAX_HEADS = 64
"""Number of system messages whose ids are remembered."""


class SessionCache:
    """Kept sessions of one engine. Thread-safe.

    Args:
        engine: Engine that samples.
        limit: Maximum number of idle sessions. 0 keeps none.
    """

    def __init__(self, engine: Engine, limit: int):
        self._engine = engine
        self._limit = limit
        self._idle: list[TokenSession] = []
        """Idle sessions, the last used one at the end."""
        self._lock = threading.Lock()

    def open(
        self, ids: Sequence[int], *, seed: int, sampling: SamplingSettings, shared: int = 0
    ) -> tuple[TokenSession, int]:
        """Return a session that holds these ids, and the number of ids that it had before.

        Args:
            ids: Ids of the prompt.
            seed: Seed of the sampling.
            sampling: Settings of the turn.
            shared: Number of first ids that other conversations begin with too.
        """
        found, common = self._take(list(ids))
        if found is None:
            return self._engine.open_tokens(ids, seed=seed, sampling=sampling, shared=shared), 0
        found.rewind(common)
        found.extend(ids[common:])
        return found, common

    def keep(self, session: TokenSession) -> None:
        """Keep a session for a later request. The one that was idle longest is closed."""
        with self._lock:
            self._idle.append(session)
            ended = self._idle[: -self._limit] if self._limit else self._idle
            self._idle = self._idle[-self._limit :] if self._limit else []
        for old in ended:
            old.close()

    def close(self) -> None:
        """Close all idle sessions."""
        with self._lock:
            ended, self._idle = self._idle, []
        for session in ended:
            session.close()

    def _take(self, ids: list[int]) -> tuple[TokenSession | None, int]:
        """Remove and return the session that shares most with these ids, if it is enough.

        A session of another conversation is left alone: it would lose its own ids.
        """
        with self._lock:
            best: TokenSession | None = None
            most = 0
            for session in self._idle:
                common = common_length(session.tokens.ids, ids)
                own, kept = common - session.shared, len(session.tokens.ids) - session.shared
                is_same = common >= len(ids) - 1 or 2 * own > kept
                if is_same and own > 0 and common > most:
                    best, most = session, common
            if best is not None:
                self._idle.remove(best)
            return best, most


class PromptHeads:
    """Numbers of ids that belong to a system message and its tools. Thread-safe.

    Args:
        chat: Converter between messages and ids.
    """

    def __init__(self, chat: Chat):
        self._chat = chat
        self._heads: OrderedDict[str, list[int]] = OrderedDict()
        self._lock = threading.Lock()

    def shared(
        self, ids: Sequence[int], messages: Sequence[Mapping[str, Any]], tools: Sequence[Any]
    ) -> int:
        """Return how many first ids of a rendered conversation other conversations have too."""
        system = [message for message in messages[:1] if message["role"] == "system"]
        if not system and not tools:
            return 0
        key = to_json([system, tools])
        with self._lock:
            if (head := self._heads.pop(key, None)) is None:
                head = self._render(system, tools)
            self._heads[key] = head
            if len(self._heads) > MAX_HEADS:
                self._heads.popitem(last=False)
        return len(head) if list(ids[: len(head)]) == head else 0

    def _render(self, system: Sequence[Mapping[str, Any]], tools: Sequence[Any]) -> list[int]:
        one, other = (
            self._chat.render([*system, {"role": "user", "content": text}], tools)
            for text in ("0", "x")
        )
        return one[: common_length(one, other)]


def common_length(left: list[int], right: list[int]) -> int:
    """Return the number of first ids that two lists share. Compares slices, which is fast."""
    low, high = 0, min(len(left), len(right))
    if left[:high] == right[:high]:
        return high
    while high - low > 1:  # the first `low` ids are equal, the first `high` ids are not
        middle = (low + high) // 2
        if left[low:middle] == right[low:middle]:
            low = middle
        else:
            high = middle
    return low
