"""Samples from a vLLM server instead of the model in this process: token ids in, token ids and their probabilities out.

    vllm serve MODEL --enable-lora --max-lora-rank 16 --logprobs-mode processed_logprobs

Only the adapter travels: each version is written to a folder that both sides see and loaded under a name of its own, and its
requests carry a salt of their own, so that no key of an earlier version is ever found in the server's prefix cache. How far the
server's probabilities are from the trainer's is measured at each step like that of any sampler (`offpolicy.py`).
Left out: starting the server, servers that see no folder of this machine, other servers' protocols.

Source: https://docs.vllm.ai/en/latest/features/lora/ (adapters at run time), https://docs.vllm.ai/en/latest/serving/ (completions).
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
from envgym_trainer.inference.in_process.scheduler import Track, Turn
from envgym_trainer.model.adapter_files import save_weights
from envgym_trainer.model.chat import Chat

TIMEOUT_SECONDS = 600.0
"""Of one request; a busy server lets it wait."""


class ServedEngine:
    """The interface of `engine.Engine` over a server. Safe to share between threads; close it.

    Args:
        url: of the server, with or without /v1.
        chat: turns messages into ids for this model.
        model: name of the base model there; None takes its only one.
        adapters: folder for the adapter's versions, which the server sees under the same path.
        max_context: tokens of a whole dialogue.
    Raises: PrerequisiteError where no server answers. UsageError where it has no such model, or loads no adapters.
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
                f"the server at {url} has no model '{self._base}', but {', '.join(names)}. Set train.server.model."
            )
        self._folder, self._session, self._version = adapters.absolute(), uuid.uuid4().hex[:8], 0

    seconds_busy = math.nan

    def policy(
        self, *, temperature: float = 1.0, max_new_tokens: int = 256, siblings: int = 1
    ) -> EnginePolicy:
        """A policy on this server, which finds out itself who begins alike; see `Engine.policy`."""
        return EnginePolicy(self, temperature=temperature, max_new_tokens=max_new_tokens)

    def refresh(self, peft_model: Any = None) -> None:
        """Samples from now on with this adapter as it is now; None: with the base alone."""
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

    def submit(self, turn: Turn) -> None:
        """Samples one turn, in the caller's thread. For dialogues.

        Raises: WorldFailure (`policy_failed`) for a server that fails or answers what cannot be trained on.
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
        """Nothing: the server's memory is its own."""

    def release(self, track: Track) -> None:
        """The server keeps nothing for a dialogue that could be freed."""

    def close(self) -> None:
        """Takes the adapter out of the server. Safe to call twice."""
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
                f"the server would not {verb} the adapter: {error}. It must run with VLLM_ALLOW_RUNTIME_LORA_UPDATING=True and "
                "--enable-lora, with a --max-lora-rank of at least train.lora.rank, and see the folder of train.server.adapters."
            ) from error


def _take(
    turn: Turn, answer: dict[str, Any], stop_ids: frozenset[int], max_context: int
) -> StopReason:
    """Puts what was sampled into the turn; returns why it ended."""
    try:
        choice = answer["choices"][0]
        ids = choice["token_ids"]
        logprobs = choice["logprobs"]["token_logprobs"]
        if not ids or len(ids) != len(logprobs):
            raise ValueError(f"{len(ids)} tokens with {len(logprobs)} probabilities")
    except (KeyError, IndexError, TypeError, ValueError) as error:
        told = f"the server's answer has no token ids with their logprobs ({error}); vLLM 0.10.2 and later have"
        raise WorldFailure("policy_failed", told, stage="policy") from None
    pairs = zip(ids, logprobs, strict=True)
    reasons: list[StopReason | None] = [
        turn.take(token, logprob, stop_ids, max_context) for token, logprob in pairs
    ]
    if (last := reasons.pop()) is None or any(reasons):
        told = f"a turn that the server ended ({choice.get('finish_reason')}) with token {ids[-1]} does not end there"
        raise WorldFailure(
            "policy_failed", f"{told}: its stop ids are {sorted(stop_ids)}", stage="policy"
        )
    return last
