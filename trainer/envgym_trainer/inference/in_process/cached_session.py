"""Conversation with keys and values that stay in the engine between turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from envgym.policies import StopReason
from envgym_trainer.inference.in_process.scheduler import DialogueState, PendingTurn
from envgym_trainer.inference.token_session import SamplingSettings, TokenSession, TurnRequest

if TYPE_CHECKING:
    from envgym_trainer.inference.in_process.engine import InProcessEngine


class CachedSession(TokenSession):
    """Session of `InProcessEngine`."""

    def __init__(
        self,
        engine: InProcessEngine,
        ids: Sequence[int],
        *,
        seed: int,
        sampling: SamplingSettings,
        shared: int,
    ):
        self._engine = engine
        # At least one id stays outside the shared prefix: the first logits need a forward pass
        # over the dialogue's row.
        opening = len(ids) - 1
        outer = min(shared, opening)
        # With enough members, a prefix for each group has fewer keys to read at each token.
        if sampling.group_size * (opening - outer) > opening:
            self._state = DialogueState(list(ids), seed, shared=opening, outer=outer)
        else:
            self._state = DialogueState(list(ids), seed, shared=outer)
        super().__init__(
            self._state,
            sampling,
            stop_ids=engine.chat.stop_ids,
            max_context=engine.max_context,
        )

    def complete(self, request: TurnRequest) -> StopReason:
        turn = PendingTurn(self._state, request)
        self._engine.submit(turn)
        return turn.future.result()

    @property
    def shared(self) -> int:
        return self._state.shared

    def rewind(self, count: int) -> None:
        """Drop all tokens but the first `count`, with their keys and values."""
        self._engine.rewind(self._state, count)

    def close(self) -> None:
        """Release the session's cache. Safe to call twice."""
        if not self._state.closed:
            self._engine.release(self._state)
