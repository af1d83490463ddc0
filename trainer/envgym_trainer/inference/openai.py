"""Engine `openai`: any OpenAI-compatible server, for evaluation only.

The server renders the messages itself and returns text, so there are no token ids to train on.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, cast

from envgym.errors import UsageError
from envgym.messages import Message
from envgym.policies.openai import OpenAIPolicy
from envgym_trainer.inference import Engine, EngineDialogue, EngineInputs, EngineStatistics
from envgym_trainer.inference.token_session import SamplingSettings, TokenSession

if TYPE_CHECKING:
    from envgym_trainer.model.chat import Chat


class OpenAIEngine(Engine):
    """Engine on a chat server. Thread-safe. Must be closed.

    Args:
        url: URL of the server.
        chat: Converter of the local model. It is not used for prompts; the calls of the server are
            written in its dialects.
        max_context: Maximum length of a dialogue in tokens. The server has its own limit.
        model: Name of the model. None selects the server's only model.
        key: API key, sent to `url` only.
    """

    def __init__(
        self, url: str, chat: Chat, *, max_context: int, model: str | None, key: str | None
    ):
        self.chat = chat
        self.max_context = max_context
        self._address = {"base_url": url, "model": model, "api_key": key}
        self._policies: dict[tuple[float, int], OpenAIPolicy] = {}

    @property
    def statistics(self) -> EngineStatistics:
        """Nothing is measured."""
        return EngineStatistics()

    def open_tokens(
        self, ids: Sequence[int], *, seed: int, sampling: SamplingSettings, shared: int = 0
    ) -> TokenSession:
        """Raise a UsageError: the server takes messages only."""
        raise UsageError(
            "engine 'openai' samples no token ids. Use train.engine='{vllm: {url: ...}}' to train."
        )

    def open_dialogue(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        sampling: SamplingSettings,
    ) -> EngineDialogue:
        """Start a dialogue in messages."""
        settings = sampling.temperature, sampling.max_new_tokens
        if settings not in self._policies:
            temperature, max_tokens = settings
            self._policies[settings] = OpenAIPolicy(
                **self._address,
                temperature=temperature,
                max_tokens=max_tokens,
                dialects=self.chat.dialects,
            )
        dialogue = self._policies[settings].open(messages, tools, seed=seed)
        return cast(EngineDialogue, dialogue)

    def load_adapter(self, model: Any = None) -> None:
        """Do nothing: the server samples from its own model."""

    def close(self) -> None:
        for policy in self._policies.values():
            policy.close()


def open_engine(inputs: EngineInputs) -> Engine:
    """Return the engine of an evaluation. See `OpenAIEngine`."""
    options = inputs.config.engine.openai
    assert options is not None  # the schema requires it
    return OpenAIEngine(
        options.url,
        inputs.chat,
        max_context=inputs.config.rollout.max_context_tokens,
        model=options.model,
        key=options.key,
    )
