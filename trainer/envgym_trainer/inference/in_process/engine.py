"""In-process inference engine: sample for many dialogues with the weights that are trained.

Worker threads block in `Dialogue.reply`, and one engine thread batches all of them. Each step runs
one forward pass over the new tokens of all active dialogues (continuous batching), so dialogues may
join and leave at any step. Keys and values are kept between turns, a system prompt is stored once
for all dialogues that share it, and group members share computation until their tokens diverge. Not
supported: speculative decoding.
"""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from concurrent.futures import Future
from typing import Any

import torch

from envgym.errors import UsageError, WorldFailure
from envgym.secrets import get_logger
from envgym_trainer.inference import Engine, EngineStatistics
from envgym_trainer.inference.in_process import token_sampling
from envgym_trainer.inference.in_process.cached_session import CachedSession
from envgym_trainer.inference.in_process.native_threads import release_openmp_threads
from envgym_trainer.inference.in_process.plain_forward import open_passes
from envgym_trainer.inference.in_process.sampler_model import SamplerModel
from envgym_trainer.inference.in_process.scheduler import (
    DialogueState,
    PendingTurn,
    PlannedRow,
    Scheduler,
)
from envgym_trainer.inference.token_session import SamplingSettings
from envgym_trainer.model.chat import Chat

log = get_logger(__name__)


class InProcessEngine(Engine):
    """In-process inference engine. Safe to share between threads. Close it, or use it in a `with`.

    Args:
        model: Causal language model, with or without an adapter. It is not modified. Sampling
            starts with its base weights; `load_adapter` copies an adapter.
        chat: Converter between messages and ids for this model.
        max_context: Maximum tokens of a dialogue, at most the model's limit.
        max_batch: Number of dialogues with cached keys and values. Further dialogues are also
            served, but their cache is evicted and recomputed.
        max_step_tokens: Maximum new tokens of one forward pass. It bounds the memory of long
            prompts.
        deterministic: Make no decision by time, and start with empty caches after each
            `load_adapter`; see `lockstep.py`.
        notify: Callback for a warning if the model must use the plain path.

    Raises:
        UsageError: If `max_context` exceeds the model's limit, or if the optimized attention gives
            other logits than the model.
    """

    supports_lockstep = True
    supports_constraints = True

    def __init__(
        self,
        model: Any,
        chat: Chat,
        *,
        max_context: int,
        max_batch: int = 64,
        max_step_tokens: int = 2048,
        deterministic: bool = False,
        notify: Callable[[str], None] = log.warning,
    ):
        self.chat = chat
        self.max_context = max_context
        self._deterministic = deterministic
        self._replica = SamplerModel(model, packed=True)
        _check_length(self._replica.model.config, max_context)
        rows = {"rows": max_batch, "shared_rows": 2 * max_batch}
        self._passes = open_passes(
            self._replica.model, **rows, max_context=max_context, notify=notify
        )
        self._max_batch = max_batch
        self._max_step_tokens = max_step_tokens
        self._scheduler = self._new_scheduler()
        self._in_flight = 0
        self._wake = threading.Condition()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._statistics = EngineStatistics(0, 0, 0, 0, 0.0)
        self._closed = False
        self._asleep = False
        self._thread = threading.Thread(target=self._run, name="envgym-engine", daemon=True)
        every = torch.get_num_threads()
        self._thread.start()
        self.load_adapter()
        if not deterministic:  # tuning measures time, so its choice may differ between runs
            self._command(self._passes.tune)
        torch.set_num_threads(every)  # for later threads; the engine's thread keeps its number

    def open_tokens(
        self, ids: Sequence[int], *, seed: int, sampling: SamplingSettings, shared: int = 0
    ) -> CachedSession:
        """Start a conversation; see `Engine.open_tokens`. Its cache is kept between turns."""
        return CachedSession(self, ids, seed=seed, sampling=sampling, shared=shared)

    def load_adapter(self, model: Any = None) -> None:
        """Sample with a copy of the adapter's current weights, or with the base model if `None`.

        Waits for the step in progress and drops all keys and values. Open dialogues continue with
        the new weights, and their past is recomputed.
        """

        def copy_weights() -> None:
            self._replica.refresh(model)
            self._scheduler.forget()
            self._asleep = False
            # Rows and shapes must not depend on an earlier step.
            if self._deterministic and not self._scheduler.turns:
                self._scheduler = self._new_scheduler()
                self._passes.forget()

        release_openmp_threads()  # of the caller, so that the engine can use the cores
        self._command(copy_weights)

    def sleep(self) -> None:
        """Free the engine's weights and caches until the next `load_adapter`.

        A learner can use the memory in between.

        Raises:
            UsageError: If a dialogue waits for an answer. A reply before the next `load_adapter`
                raises it too.
        """

        def free() -> None:
            if self._scheduler.turns:
                raise UsageError(
                    "the engine cannot sleep while a dialogue waits for its answer. Wait for the "
                    "open replies first."
                )
            release_openmp_threads()
            self._asleep = True
            self._replica.sleep()
            self._scheduler.forget()
            self._passes.forget()

        self._command(free)

    def add_in_flight(self, count: int) -> None:
        """Add to the number of episodes in lockstep. A pass starts when all wait for a token."""
        with self._wake:
            self._in_flight += count
            self._wake.notify_all()

    @property
    def statistics(self) -> EngineStatistics:
        return self._statistics

    def close(self) -> None:
        """Stop the thread. Waiting dialogues get a WorldFailure. Safe to call twice."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._thread.join()
        self._passes.close()

    def __enter__(self) -> InProcessEngine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, turn: PendingTurn) -> None:
        """Queue a turn. Its future gets the stop reason. Used by dialogues."""
        with self._wake:
            if self._closed:
                raise WorldFailure("policy_failed", "the engine is closed", stage="policy")
            if self._asleep:
                raise UsageError("the engine sleeps. Call load_adapter() before the next reply.")
            self._scheduler.turns.append(turn)
            self._wake.notify_all()

    def release(self, dialogue: DialogueState) -> None:
        """Release the cache of a dialogue. Used by dialogues."""
        with self._wake:
            self._scheduler.release(dialogue)

    def rewind(self, dialogue: DialogueState, count: int) -> None:
        """Drop the tokens of a dialogue after the first `count`. Used by sessions."""
        with self._wake:
            self._scheduler.rewind(dialogue, count)

    def _command(self, action: Callable[[], None]) -> None:
        """Run an action on the engine thread between two steps. Return or raise its result."""
        future: Future[None] = Future()
        with self._wake:
            if self._closed:
                raise UsageError("the engine is closed.")
            self._commands.append((action, future))
            self._wake.notify_all()
        future.result()

    def _run(self) -> None:
        with torch.inference_mode():
            while self._wait():
                self._obey()
                try:
                    self._step()
                except Exception as error:  # no dialogue may wait forever
                    log.exception("the sampling engine failed; its dialogues are void")
                    self._fail(f"{type(error).__name__}: {error}")
        self._fail("the engine was closed")

    def _wait(self) -> bool:
        """Wait for work. Return False if the engine is closed."""
        with self._wake:
            self._wake.wait_for(lambda: self._closed or self._commands or self._ready())
            return not self._closed

    def _ready(self) -> bool:
        return bool(self._scheduler.turns) and len(self._scheduler.turns) >= self._in_flight

    def _new_scheduler(self) -> Scheduler:
        return Scheduler(
            rows=self._max_batch, shared_rows=2 * self._max_batch, copy=self._passes.copy
        )

    def _obey(self) -> None:
        while self._commands:
            action, future = self._commands.popleft()
            try:
                with torch.inference_mode(False):  # weights must stay ordinary tensors
                    future.set_result(action())
            except Exception as error:
                future.set_exception(error)

    def _step(self) -> None:
        """Run one forward pass: plan, compute, sample, and complete finished turns."""
        with self._wake:
            if self._in_flight:
                self._scheduler.sort()
            plan = self._scheduler.plan(self._max_step_tokens) if self._ready() else []
        if not plan:
            return
        started = time.perf_counter()
        turns = [turn for item in plan for turn in item.turns]
        due = [index for index, item in enumerate(plan) if item.turns]
        logits = self._passes.logits([item.work for item in plan], due)  # (len(due), V)
        whose = [row for row, index in enumerate(due) for _ in plan[index].turns]
        sampled = self._sample(logits[whose], turns)
        self._count(plan, len(turns), time.perf_counter() - started)
        with self._wake:
            self._scheduler.done(plan)
            for turn, token, logprob in zip(turns, *sampled, strict=True):
                try:
                    reason = turn.request.take(token, logprob)
                except Exception as error:  # of the callback; the other turns go on
                    self._scheduler.finish(turn)
                    turn.future.set_exception(error)
                    continue
                if reason:
                    self._scheduler.finish(turn)
                    turn.future.set_result(reason)

    def _sample(
        self, logits: torch.Tensor, turns: list[PendingTurn]
    ) -> tuple[list[int], list[float]]:
        if not turns:
            return [], []
        token_sampling.constrain(logits, [turn.request.choices() for turn in turns])
        temperatures = torch.tensor(
            [turn.request.temperature for turn in turns], device=self._passes.device
        )
        uniforms = torch.tensor(
            [turn.dialogue.random() for turn in turns],
            dtype=torch.float64,
            device=self._passes.device,
        )
        ids, logprobs = token_sampling.sample(logits, temperatures, uniforms)
        return ids.tolist(), logprobs.tolist()

    def _count(self, plan: list[PlannedRow], sampled: int, seconds: float) -> None:
        old = self._statistics
        computed = sum(len(item.work.ids) for item in plan)
        prefilled = sum(
            len(item.work.ids)
            for item in plan
            if not any(turn.request.count for turn in item.turns)
        )
        self._statistics = EngineStatistics(
            prefill_tokens=old.prefill_tokens + prefilled,
            decoded_tokens=old.decoded_tokens + sampled,
            computed_tokens=old.computed_tokens + computed,
            steps=old.steps + 1,
            seconds_busy=old.seconds_busy + seconds,
        )

    def _fail(self, message: str) -> None:
        """Void all waiting turns, and reset the caches because they may be incomplete."""
        with self._wake:
            for turn in list(self._scheduler.turns):
                self._scheduler.finish(turn)
                turn.future.set_exception(WorldFailure("policy_failed", message, stage="policy"))
            while self._commands:
                self._commands.popleft()[1].set_exception(UsageError(message))
            self._scheduler.forget()
            self._passes.forget()


def _check_length(config: Any, max_context: int) -> None:
    if max_context > (limit := getattr(config, "max_position_embeddings", max_context)):
        raise UsageError(
            f"max_context is {max_context}, but this {config.model_type} model supports {limit} "
            f"positions. Set max_context to {limit} or less (train.rollout.max_context_tokens, or "
            "--max-context-tokens of envgym eval)."
        )
