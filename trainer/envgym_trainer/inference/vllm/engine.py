"""Inference engine that samples from a vLLM server by token ids.

Each adapter version is saved in a folder that both sides see and loaded under a new name. Requests
carry a salt per version, so the server's prefix cache never mixes versions. A request that fails is
sent again with the same seed after the server has come back with the adapter in force. Not
supported: servers without a shared folder, other protocols.
Source: https://docs.vllm.ai/en/latest/features/lora/, https://docs.vllm.ai/en/latest/serving/
"""

from __future__ import annotations

import math
import shutil
import threading
import time
import uuid
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

import torch

from envgym.errors import EnvgymError, UsageError, WorldFailure
from envgym.policies import StopReason
from envgym.secrets import get_logger
from envgym_trainer.inference import Engine, EngineStatistics
from envgym_trainer.inference.token_session import (
    DialogueTokens,
    SamplingSettings,
    TokenSession,
    TurnRequest,
)
from envgym_trainer.inference.vllm.answers import prompt_logprobs, take_answer, take_events
from envgym_trainer.inference.vllm.connection import Connection, first_contact
from envgym_trainer.inference.vllm.errors import (
    AdapterRefused,
    ContextFull,
    NoAnswer,
    Refused,
    ServerGone,
)
from envgym_trainer.inference.vllm.proof import AdapterProof
from envgym_trainer.inference.vllm.server import Server
from envgym_trainer.model.adapter_files import save_weights
from envgym_trainer.model.chat import Chat

ATTEMPTS = 6
"""Number of times that one request is sent before its episode is void."""
LONGEST_WAIT_SECONDS = 30.0
UNLOAD_TIMEOUT_SECONDS = 30.0
NOT_LOADED = -1
"""Generation of the server if the version in force must be loaded before the next request."""
_NEUTRAL = {
    "top_p": 1.0,
    "top_k": 0,
    "min_p": 0.0,
    "repetition_penalty": 1.0,
    "presence_penalty": 0.0,
    "frequency_penalty": 0.0,
}
"""Settings with which the server samples from the full softmax. They override its defaults."""

T = TypeVar("T")
log = get_logger(__name__)


class VllmEngine(Engine):
    """Engine on a vLLM server. Thread-safe. Must be closed.

    Args:
        server: Server, which the engine closes.
        chat: Converts messages to token ids of this model.
        model: Name of the base model on the server. None selects its only model.
        adapters: Folder for adapter versions. The server must see it under the same path.
        max_context: Maximum length of a dialogue in tokens.
        proof: Comparison with the trained model. None compares nothing.
        dtype: Data type in which the server computes; None if it is that of the trained model.
        can_sleep: Whether the server has vLLM's sleep mode.
        backoff_seconds: Wait before the second attempt of a request. Doubles.

    Raises:
        PrerequisiteError: If no server answers.
        UsageError: If the server does not have the model.
    """

    def __init__(
        self,
        server: Server,
        chat: Chat,
        *,
        model: str | None,
        adapters: Path,
        max_context: int,
        proof: AdapterProof | None = None,
        dtype: torch.dtype | None = torch.bfloat16,
        can_sleep: bool = False,
        backoff_seconds: float = 0.5,
    ):
        self.chat = chat
        self.max_context = max_context
        self.dtype = dtype
        self._server = server
        self._backoff_seconds = backoff_seconds
        self._base = _chosen_model(first_contact(server.connection), model, server.connection.url)
        self._folder = adapters.absolute()
        self._session = uuid.uuid4().hex[:8]
        self._version = 0
        self._serving = 0
        """Version in force; 0 is the base."""
        self._loaded_at = 0
        """Generation of the server that has loaded the version in force."""
        self._lock = threading.RLock()
        self._proof = proof
        self._base_is_checked = proof is None
        self._can_sleep = can_sleep
        self._asleep = False
        self._closed = False

    @property
    def statistics(self) -> EngineStatistics:
        """Nothing is measured: the server may have other clients."""
        return EngineStatistics()

    def open_tokens(
        self, ids: Sequence[int], *, seed: int, sampling: SamplingSettings, shared: int = 0
    ) -> VllmSession:
        """Start a conversation; see `Engine.open_tokens`. The server finds shared prefixes."""
        return VllmSession(self, DialogueTokens(list(ids), seed), sampling)

    def load_adapter(self, model: Any = None) -> None:
        """Use the adapter's current weights from now on. None selects the base model.

        Raises:
            AdapterRefused: If the server refuses the adapter.
            AdapterNotActing: If the server does not sample as the trained model does.
            ServerGone: If the server does not answer.
        """
        with self._lock:
            self._wake()
            before = self._serving
            if model is None:
                self._serving = 0
            else:
                self._version += 1
                self._serving_version(self._version, model)
            self._drop(before)

    def sleep(self) -> None:
        """Free the server's GPU memory until the next `load_adapter`, if it has sleep mode."""
        with self._lock:
            if self._can_sleep and not self._asleep:
                self._attempt(lambda server: server.act("/sleep?level=1"))
                self._asleep = True

    def complete(self, request: TurnRequest) -> StopReason:
        """Sample one response. Blocks the calling thread.

        Raises:
            WorldFailure: With kind `policy_failed`, if the server fails or if its response cannot
                be used for training.
        """
        self._check_base()
        dialogue = request.dialogue
        body = self._body(self._serving, dialogue.ids) | {
            "max_tokens": min(request.max_new_tokens, request.max_context - len(dialogue.ids)),
            "temperature": request.temperature,
            "seed": math.floor(dialogue.random() * 2**53),
            "stop_token_ids": sorted(request.stop_ids),
        }
        try:
            if request.on_token is None:
                answer = self._attempt(lambda server: server.post("/v1/completions", body))
                return take_answer(request, answer)
            body["stream"] = True
            return self._attempt(
                lambda server: take_events(request, server.stream("/v1/completions", body))
            )
        except ContextFull:
            return "context"

    def close(self) -> None:
        """Remove the adapter from the server, and close it. Can be called twice."""
        if self._closed:
            return
        self._closed = True
        if not self._server.is_ours:
            self._forget(self._serving)
        shutil.rmtree(self._folder / self._name(self._serving), ignore_errors=True)
        self._server.close()

    # --- adapters

    def _serving_version(self, version: int, model: Any) -> None:
        """Load a version, prove that it acts, and put it in force."""
        before = self._serving
        name = self._name(version)
        folder = save_weights(model, self._folder / name, base_id=self._base)
        self._serving, self._loaded_at = version, NOT_LOADED
        try:
            self._check_base()
            self._attempt(lambda server: None)  # loads it
            if self._proof is not None:
                self._proof.check_adapter(self._score(version), name)
        except BaseException:
            self._serving, self._loaded_at = before, NOT_LOADED
            self._forget(version)
            shutil.rmtree(folder, ignore_errors=True)
            raise

    def _load(self, server: Connection, version: int) -> None:
        name = self._name(version)
        try:
            body = {"lora_name": name, "lora_path": str(self._folder / name)}
            server.act("/v1/load_lora_adapter", body)
        except Refused as error:
            if "already been loaded" not in error.words:  # the answer of an earlier attempt is lost
                raise AdapterRefused(server.url, name, str(error)) from None
        except NoAnswer as error:
            if error.status == 500 and server.is_healthy():
                raise AdapterRefused(server.url, name, str(error)) from None
            raise

    def _drop(self, version: int) -> None:
        """Remove a version that is no longer in force."""
        if version and version != self._serving:
            self._forget(version)
            shutil.rmtree(self._folder / self._name(version), ignore_errors=True)

    def _forget(self, version: int) -> None:
        """Unload a version. A server that is gone must not hide the run's own error."""
        if not version:
            return
        name = self._name(version)
        try:
            self._server.connection.act(
                "/v1/unload_lora_adapter",
                {"lora_name": name},
                timeout_seconds=UNLOAD_TIMEOUT_SECONDS,
            )
        except (NoAnswer, Refused, EnvgymError) as error:
            log.warning("the adapter %s stays on the server: %s", name, error)

    def _name(self, version: int) -> str:
        """Return the name of a version on the server. It has no text of the user."""
        return f"envgym-{self._session}-{version}" if version else self._base

    # --- requests

    def _attempt(self, send: Callable[[Connection], T]) -> T:
        """Send a request until it is answered, also across restarts of the server."""
        problem = ""
        for attempt in range(ATTEMPTS):
            if self._closed:
                raise WorldFailure("policy_failed", "the engine is closed", stage="policy")
            seen = self._server.generation
            wait = self._backoff_seconds * 2**attempt
            try:
                self._reload_if_lost(seen)
                return send(self._server.connection)
            except NoAnswer as error:
                problem = str(error)
                wait = error.retry_after or wait
            except Refused as error:
                if error.status != 404 or attempt + 1 == ATTEMPTS or not self._serving:
                    problem = f"the vLLM server at {self._server.connection.url}: {error}"
                    raise WorldFailure("policy_failed", problem, stage="policy") from None
                problem = str(error)
                self._loaded_at = NOT_LOADED  # the server restarted between two requests
                continue
            self._server.recover(seen, problem)
            if attempt + 1 < ATTEMPTS and self._server.generation == seen:
                time.sleep(min(wait, LONGEST_WAIT_SECONDS))
        raise ServerGone(
            f"the vLLM server at {self._server.connection.url} fails: {problem}. Mend it, then "
            "continue the run with --resume"
        )

    def _reload_if_lost(self, generation: int) -> None:
        """Load the version in force if the server came back without it."""
        if not self._serving or self._loaded_at == generation:
            return
        with self._lock:
            if self._loaded_at != generation:
                self._load(self._server.connection, self._serving)
                self._loaded_at = generation

    def _wake(self) -> None:
        if self._asleep:
            self._attempt(lambda server: server.act("/wake_up"))
            self._asleep = False

    def _check_base(self) -> None:
        if self._base_is_checked:
            return
        with self._lock:
            if not self._base_is_checked and self._proof is not None:
                self._proof.check_base(self._score(0), self._base)
                self._base_is_checked = True

    def _score(self, version: int) -> list[float]:
        """Return the server's log-probability of each id of the proof after the first."""
        assert self._proof is not None
        ids = self._proof.ids
        body = self._body(version, ids) | {
            "max_tokens": 1,
            "temperature": 0.0,
            "prompt_logprobs": 0,
        }
        answer = self._attempt(lambda server: server.post("/v1/completions", body))
        return prompt_logprobs(answer, ids)

    def _body(self, version: int, ids: Sequence[int]) -> dict[str, Any]:
        return _NEUTRAL | {
            "model": self._name(version),
            "prompt": list(ids),
            "logprobs": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": f"{self._session}-{version}",
        }


class VllmSession(TokenSession):
    """Session of `VllmEngine`. The server holds no state of it."""

    def __init__(self, engine: VllmEngine, tokens: DialogueTokens, sampling: SamplingSettings):
        super().__init__(
            tokens, sampling, stop_ids=engine.chat.stop_ids, max_context=engine.max_context
        )
        self._engine = engine

    def complete(self, request: TurnRequest) -> StopReason:
        return self._engine.complete(request)


def _chosen_model(names: Sequence[str], model: str | None, url: str) -> str:
    if model is None and len(names) == 1:
        return names[0]
    if model is None or model not in names:
        wanted = f"no model '{model}', but" if model else "several models:"
        raise UsageError(
            f"the server at {url} has {wanted} {', '.join(names) or 'none'}. "
            "Set train.engine.vllm.model to one of these."
        )
    return model
