"""Inference engine that samples from a vLLM server by token ids.

    vllm serve MODEL --enable-lora --max-lora-rank 16 --logprobs-mode processed_logprobs

Each adapter version is saved in a folder that both sides see and loaded under a new name. Requests
carry a salt per version, so the server's prefix cache never mixes versions. See `offpolicy.py` for
the mismatch of logprobs. Not supported: servers without a shared folder, other protocols.
Source: https://docs.vllm.ai/en/latest/features/lora/, https://docs.vllm.ai/en/latest/serving/
"""

from __future__ import annotations

import math
import shutil
import uuid
from pathlib import Path
from typing import Any

from envgym.errors import UsageError, WorldFailure
from envgym.policies import StopReason
from envgym.policies.openai import ContextFull, OpenAIPolicy
from envgym_trainer.inference.dialogue import EnginePolicy
from envgym_trainer.inference.in_process.scheduler import DialogueState, PendingTurn
from envgym_trainer.model.adapter_files import save_weights
from envgym_trainer.model.chat import Chat

TIMEOUT_SECONDS = 600.0
"""Time limit of one request in seconds. Requests to a busy server wait in its queue."""


class VllmServerEngine:
    """Same interface as `engine.Engine`, with a vLLM server. Thread-safe. Must be closed.

    Args:
        url: URL of the server, with or without /v1.
        chat: Converts messages to token ids of this model.
        model: Name of the base model on the server. None selects its only model.
        adapters: Folder for adapter versions. The server must see it under the same path.
        max_context: Maximum length of a dialogue in tokens.

    Raises:
        PrerequisiteError: If no server answers.
        UsageError: If the server does not have the model or cannot load adapters.
    """

    def __init__(
        self, url: str, chat: Chat, *, model: str | None, adapters: Path, max_context: int
    ):
        self.chat = chat
        self.max_context = max_context
        self._server = OpenAIPolicy(url, model, timeout_seconds=TIMEOUT_SECONDS)
        self._base = self._serving = self._server.model
        if self._base not in (
            names := [
                entry.get("id") for entry in self._server.request("GET", "/models").get("data", [])
            ]
        ):
            raise UsageError(
                f"the server at {url} has no model '{self._base}', but {', '.join(names)}. "
                "Set train.engine.model to one of these."
            )
        self._folder, self._session, self._version = adapters.absolute(), uuid.uuid4().hex[:8], 0

    seconds_busy = math.nan

    def policy(
        self, *, temperature: float = 1.0, max_new_tokens: int = 256, siblings: int = 1
    ) -> EnginePolicy:
        """Return a policy on this server. The server finds shared prefixes itself."""
        return EnginePolicy(self, temperature=temperature, max_new_tokens=max_new_tokens)

    def refresh(self, peft_model: Any = None) -> None:
        """Use the adapter's current weights from now on. None selects the base model."""
        before = self._serving
        if peft_model is not None:
            self._version += 1
            name = f"envgym-{self._session}-{self._version}"
            folder = save_weights(peft_model, self._folder / name, base_id=self._base)
            self._adapters("load", {"lora_name": name, "lora_path": str(folder)})
            self._serving = name
        else:
            self._serving = self._base
        self._drop(before)

    def submit(self, turn: PendingTurn) -> None:
        """Sample one turn. Blocks the calling thread.

        Raises:
            WorldFailure: With kind `policy_failed`, if the server fails or if its response cannot
                be used for training.
        """
        track = turn.track
        limit = min(turn.max_new_tokens, self.max_context - len(track.ids))
        body = {
            "model": self._serving,
            "prompt": list(track.ids),
            "max_tokens": limit,
            "temperature": turn.temperature,
            "top_p": 1.0,
            "top_k": 0,
            "min_p": 0.0,
            "repetition_penalty": 1.0,
            "presence_penalty": 0.0,
            "frequency_penalty": 0.0,
            "seed": math.floor(track.random() * 2**53),
            "stop_token_ids": sorted(self.chat.stop_ids),
            "logprobs": 0,
            "ignore_eos": True,
            "return_token_ids": True,
            "cache_salt": f"{self._session}-{self._serving}",
        }
        try:
            answer = self._server.request("POST", "/completions", body, seed=track.seed)
        except ContextFull:
            turn.future.set_result("context")
            return
        turn.future.set_result(_take(turn, answer, self.chat.stop_ids, self.max_context))

    def sleep(self) -> None:
        """Do nothing: the server manages its memory."""

    def release(self, track: DialogueState) -> None:
        """Do nothing: the server holds no state of a dialogue."""

    def close(self) -> None:
        """Remove the adapter from the server. Can be called twice."""
        serving = self._serving
        self._serving = self._base
        self._drop(serving)
        self._server.close()

    def _drop(self, name: str) -> None:
        if name != self._base:
            self._adapters("unload", {"lora_name": name})
            shutil.rmtree(self._folder / name, ignore_errors=True)

    def _adapters(self, verb: str, body: dict[str, str]) -> None:
        try:
            self._server.send("POST", f"/{verb}_lora_adapter", body)
        except (UsageError, WorldFailure) as error:
            raise UsageError(
                f"the server would not {verb} the adapter: {error}. Start it with "
                "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora and a --max-lora-rank of at "
                "least train.lora.rank. It must see the folder of train.engine.adapter_folder."
            ) from error


def _take(
    turn: PendingTurn, answer: dict[str, Any], stop_ids: frozenset[int], max_context: int
) -> StopReason:
    """Add the sampled tokens to the turn and return the stop reason."""
    try:
        choice = answer["choices"][0]
        ids = choice["token_ids"]
        logprobs = choice["logprobs"]["token_logprobs"]
        if not ids or len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} tokens with {len(logprobs)} probabilities")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        told = (
            f"the server's answer has no token ids with their logprobs ({error}). "
            "This needs vLLM 0.10.2 or later"
        )
        raise WorldFailure("policy_failed", told, stage="policy") from None
    pairs = zip(ids, logprobs, strict=True)
    reasons: list[StopReason | None] = [
        turn.take(token, logprob, stop_ids, max_context) for token, logprob in pairs
    ]
    if (last := reasons.pop()) is None or any(reasons):
        told = (
            f"the server ended a turn ({choice.get('finish_reason')}) with token {ids[-1]}, "
            "but the turn does not end there"
        )
        raise WorldFailure(
            "policy_failed", f"{told}: its stop ids are {sorted(stop_ids)}", stage="policy"
        )
    return last
