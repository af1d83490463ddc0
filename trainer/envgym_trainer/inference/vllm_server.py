"""Inference engine that samples from a vLLM server by token ids.

    vllm serve MODEL --enable-lora --max-lora-rank 16 --logprobs-mode processed_logprobs

Each adapter version is saved in a folder that both sides see and loaded under a new name. Requests
carry a salt per version, so the server's prefix cache never mixes versions. See `off_policy.py` for
the mismatch of logprobs. Not supported: servers without a shared folder, other protocols.
Source: https://docs.vllm.ai/en/latest/features/lora/, https://docs.vllm.ai/en/latest/serving/
"""

from __future__ import annotations

import math
import shutil
import uuid
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from envgym.errors import EnvgymError, UsageError, WorldFailure
from envgym.policies import StopReason
from envgym.policies.openai import ContextFull, OpenAIPolicy, RequestRejected
from envgym.secrets import get_logger
from envgym_trainer.inference import Engine, EngineInputs, EngineStatistics
from envgym_trainer.inference.token_session import (
    DialogueTokens,
    SamplingSettings,
    TokenSession,
    TurnRequest,
)
from envgym_trainer.model.adapter_files import save_weights
from envgym_trainer.model.chat import Chat

OPTIONS = ("url", "model", "adapter_folder", "key")
TIMEOUT_SECONDS = 600.0
"""Time limit of one request in seconds. Requests to a busy server wait in its queue."""

log = get_logger(__name__)


class VllmServerEngine(Engine):
    """Engine on a vLLM server. Thread-safe. Must be closed.

    Args:
        url: URL of the server, with or without /v1.
        chat: Converts messages to token ids of this model.
        model: Name of the base model on the server. None selects its only model.
        adapters: Folder for adapter versions. The server must see it under the same path.
        max_context: Maximum length of a dialogue in tokens.
        key: API key, sent to `url` only. None sends no key.
        backoff_seconds: Wait before the first of three retries of a failed request. Doubles.

    Raises:
        PrerequisiteError: If no server answers.
        UsageError: If the server does not have the model.
    """

    dtype = torch.bfloat16  # vLLM rounds differently, also if the local model is float32

    def __init__(
        self,
        url: str,
        chat: Chat,
        *,
        model: str | None,
        adapters: Path,
        max_context: int,
        key: str | None = None,
        backoff_seconds: float = 0.5,
    ):
        self.chat = chat
        self.max_context = max_context
        self._server = OpenAIPolicy(
            url,
            model,
            api_key=key,
            timeout_seconds=TIMEOUT_SECONDS,
            backoff_seconds=backoff_seconds,
        )
        self._base = self._server.model
        self._serving = self._base
        listed = self._server.request("GET", "/models").get("data", [])
        names = [entry.get("id") for entry in listed]
        if self._base not in names:
            raise UsageError(
                f"the server at {url} has no model '{self._base}', but {', '.join(names)}. "
                "Set train.engine.model to one of these."
            )
        self._folder = adapters.absolute()
        self._session = uuid.uuid4().hex[:8]
        self._version = 0
        self._closed = False

    @property
    def statistics(self) -> EngineStatistics:
        """Nothing is measured: the server may have other clients."""
        return EngineStatistics()

    def open_tokens(
        self, ids: Sequence[int], *, seed: int, sampling: SamplingSettings, shared: int = 0
    ) -> ServerSession:
        """Start a conversation; see `Engine.open_tokens`. The server finds shared prefixes."""
        return ServerSession(self, DialogueTokens(list(ids), seed), sampling)

    def load_adapter(self, model: Any = None) -> None:
        """Use the adapter's current weights from now on. None selects the base model.

        Raises:
            UsageError: If the server refuses the adapter.
            WorldFailure: If the server cannot be reached, also after retries.
        """
        before = self._serving
        if model is None:
            self._serving = self._base
        else:
            self._version += 1
            name = f"envgym-{self._session}-{self._version}"
            folder = save_weights(model, self._folder / name, base_id=self._base)
            self._adapters("load", {"lora_name": name, "lora_path": str(folder)})
            self._serving = name
        self._drop(before)

    def complete(self, request: TurnRequest) -> StopReason:
        """Sample one response. Blocks the calling thread.

        Raises:
            WorldFailure: With kind `policy_failed`, if the server fails or if its response cannot
                be used for training.
        """
        if self._closed:
            raise WorldFailure("policy_failed", "the engine is closed", stage="policy")
        dialogue = request.dialogue
        body = {
            "model": self._serving,
            "prompt": list(dialogue.ids),
            "max_tokens": min(request.max_new_tokens, request.max_context - len(dialogue.ids)),
            "temperature": request.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": math.floor(dialogue.random() * 2**53),
            "stop_token_ids": sorted(request.stop_ids),
            "logprobs": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": f"{self._session}-{self._serving}",
        }
        try:
            answer = self._server.request("POST", "/completions", body, seed=dialogue.seed)
        except ContextFull:
            return "context"
        return _take(request, answer)

    def close(self) -> None:
        """Remove the adapter from the server. Can be called twice."""
        if self._closed:
            return
        self._closed = True
        try:
            self._drop(self._serving)
        except EnvgymError as error:  # a server that is gone must not hide the run's own error
            log.warning("the adapter %s stays on the server: %s", self._serving, error)
        self._server.close()

    def _drop(self, name: str) -> None:
        if name != self._base:
            self._adapters("unload", {"lora_name": name})
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _adapters(self, verb: str, body: dict[str, str]) -> None:
        try:
            self._server.send("POST", f"/{verb}_lora_adapter", body)
        except (UsageError, RequestRejected) as error:
            raise UsageError(
                f"the server would not {verb} the adapter: {error}. Start it with "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and a --max-lora-rank of at "
                "least train.lora.rank. It must see the folder of train.engine.adapter_folder."
            ) from error


class ServerSession(TokenSession):
    """Session of `VllmServerEngine`. The server holds no state of it."""

    def __init__(
        self, engine: VllmServerEngine, tokens: DialogueTokens, sampling: SamplingSettings
    ):
        super().__init__(
            tokens, sampling, stop_ids=engine.chat.stop_ids, max_context=engine.max_context
        )
        self._engine = engine

    def complete(self, request: TurnRequest) -> StopReason:
        return self._engine.complete(request)


def open_engine(inputs: EngineInputs) -> Engine:
    """Return the engine of a run. See `VllmServerEngine`."""
    config = inputs.config
    assert config.engine.url is not None  # the schema requires it
    return VllmServerEngine(
        config.engine.url,
        inputs.chat,
        model=config.engine.model,
        adapters=Path(config.engine.adapter_folder or inputs.folder),
        max_context=config.rollout.max_context_tokens,
        key=config.engine.key,
    )


def _take(request: TurnRequest, answer: dict[str, Any]) -> StopReason:
    """Add the sampled tokens to the dialogue and return the stop reason."""
    try:
        choice = answer["choices"][0]
        ids = choice["token_ids"]
        logprobs = choice["logprobs"]["token_logprobs"]
        if not ids or len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} tokens with {len(logprobs)} probabilities")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        problem = (
            f"the server's answer has no token ids with their logprobs ({error}). "
            "This needs vLLM 0.10.2 or later"
        )
        raise WorldFailure("policy_failed", problem, stage="policy") from None
    for count, (token, logprob) in enumerate(zip(ids, logprobs, strict=True), start=1):
        reason = request.take(token, logprob)
        is_whole = count == len(ids)
        if reason and (is_whole or (reason == "stop" and token not in request.stop_ids)):
            return reason  # the callback may end a turn before the server does
        if bool(reason) != is_whole:
            break
    problem = (
        f"the server ended a turn ({choice.get('finish_reason')}) with token {ids[-1]}, "
        f"but the turn does not end there: its stop ids are {sorted(request.stop_ids)}"
    )
    raise WorldFailure("policy_failed", problem, stage="policy")
