"""Dialogue with keys and values that stay in the engine between turns."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from envgym.messages import Message
from envgym.policies import StopReason
from envgym_trainer.inference import SamplingSettings
from envgym_trainer.inference.dialogue import TokenDialogue, TurnRequest
from envgym_trainer.inference.in_process.scheduler import DialogueState, PendingTurn

if TYPE_CHECKING:
    from envgym_trainer.inference.in_process.engine import InProcessEngine


class CachedDialogue(TokenDialogue):
    """Dialogue of `InProcessEngine`."""

    def __init__(
        self,
        engine: InProcessEngine,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        sampling: SamplingSettings,
    ):
        self._engine = engine
        ids = engine.chat.open(messages, tools)
        # At least one id stays outside the shared prefix: the first logits need a forward pass
        # over the dialogue's row.
        opening = len(ids) - 1
        system = min(engine.chat.shared(messages, tools), opening)
        # With enough members, a prefix for each group has fewer keys to read at each token.
        if sampling.group_size * (opening - system) > opening:
            self._state = DialogueState(ids, seed, shared=opening, outer=system)
        else:
            self._state = DialogueState(ids, seed, shared=system)
        super().__init__(engine, self._state, messages, tools, sampling)

    def sample(self, request: TurnRequest) -> StopReason:
        turn = PendingTurn(self._state, request)
        self._engine.submit(turn)
        return turn.future.result()

    def close(self) -> None:
        """Release the dialogue's cache. Safe to call twice."""
        if not self._state.closed:
            self._engine.release(self._state)
