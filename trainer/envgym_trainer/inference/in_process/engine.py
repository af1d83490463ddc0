"""Samples for many dialogues at once, in process, from the very weights that are trained.

Worker threads block in `Dialogue.reply`; one engine thread batches all of them. At each step every active dialogue adds its
new tokens (one while it decodes, more after a prompt or an observation) to one forward pass, so dialogues join and leave at
any step. Keys and values stay from turn to turn; a system message is stored once for all who share it, and a group is
computed once for as long as its members say the same.
Left out: speculative decoding.
"""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass
from typing import Any

import torch

from envgym.errors import UsageError, WorldFailure
from envgym_trainer.inference.dialogue import EnginePolicy
from envgym_trainer.inference.in_process import token_sampling as sampling
from envgym_trainer.inference.in_process.native_threads import dismiss_team
from envgym_trainer.inference.in_process.plain_forward import open_passes
from envgym_trainer.inference.in_process.sampler_model import Replica
from envgym_trainer.inference.in_process.scheduler import Planned, Scheduler, Track, Turn
from envgym_trainer.model.chat import Chat

log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Stats:
    """What the engine has done since it was made."""

    prefill_tokens: int = 0
    """Prompt and observation tokens computed; shared and copied ones are not counted again."""
    decoded_tokens: int = 0
    """Tokens sampled."""
    computed_tokens: int = 0
    """Tokens that went through the model; what siblings sampled alike counts once."""
    steps: int = 0
    seconds_busy: float = 0.0
    """Wall seconds inside forward passes and sampling."""


class Engine:
    """The in-process sampler. Safe to share between threads; close it, or use it in a `with`.

    Args:
        model: a causal language model, with or without an adapter; never written. Sampling starts from its base weights,
            `refresh` takes an adapter over.
        chat: turns messages into ids for this model.
        max_context: tokens of a whole dialogue; at most what the model was made for.
        max_batch: dialogues whose keys and values are kept; more are served in turn, at the price of computing theirs again.
        max_step_tokens: new tokens in one forward pass; bounds the memory of a long prompt.
        deterministic: no choice by the clock, and every `refresh` starts from empty stores; see `lockstep.py`.
        say: told where a model has to take the plain path.
    Raises: UsageError for dialogues longer than the model, and where its attention should be known but gives other logits.
    """

    def __init__(
        self,
        model: Any,
        chat: Chat,
        *,
        max_context: int,
        max_batch: int = 64,
        max_step_tokens: int = 2048,
        deterministic: bool = False,
        say: Callable[[str], None] = log.warning,
    ):
        self.chat = chat
        self.max_context = max_context
        self._deterministic = deterministic
        self._replica = Replica(model, packed=True)
        _check_length(self._replica.model.config, max_context)
        rows = {"rows": max_batch, "shared_rows": 2 * max_batch}
        self._passes = open_passes(self._replica.model, **rows, max_context=max_context, say=say)
        self._max_batch = max_batch
        self._max_step_tokens = max_step_tokens
        self._scheduler = self._new_scheduler()
        self._in_flight = 0
        self._wake = threading.Condition()
        self._commands: deque[tuple[Callable[[], None], Future[None]]] = deque()
        self._stats = Stats()
        self._closed = False
        self._asleep = False
        self._thread = threading.Thread(target=self._run, name="envgym-engine", daemon=True)
        every = torch.get_num_threads()
        self._thread.start()
        self.refresh()
        if not deterministic:  # a trial by the clock: it may end otherwise the next time
            self._command(self._passes.tune)
        torch.set_num_threads(every)  # for threads to come; the engine's keep their own number

    def policy(
        self,
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        greedy: bool = False,
        siblings: int = 1,
    ) -> EnginePolicy:
        """A policy on this engine.

        Args:
            temperature: of sampling, at least 0; 0 is greedy.
            max_new_tokens: limit of one turn.
            greedy: the same as temperature 0.
            siblings: how many dialogues with the same opening will be open at once; it changes the speed, and nothing else.
        """
        if temperature < 0 or max_new_tokens < 1:
            raise UsageError(
                f"temperature must be at least 0 and max_new_tokens at least 1, got {temperature} and {max_new_tokens}."
            )
        return EnginePolicy(self, 0.0 if greedy else temperature, max_new_tokens, siblings)

    def refresh(self, peft_model: Any = None) -> None:
        """Samples from now on with this adapter as it is now; None: with the base alone.

        Waits for the step in progress. All keys and values are dropped, so a dialogue that is open goes on under the new
        weights, its past computed anew.
        """

        def take_over() -> None:
            self._replica.refresh(peft_model)
            self._scheduler.forget()
            self._asleep = False
            if (
                self._deterministic and not self._scheduler.turns
            ):  # what an earlier step left must not choose rows or shapes
                self._scheduler = self._new_scheduler()
                self._passes.forget()

        dismiss_team()  # the caller's: who learned until now lets the engine compute
        self._command(take_over)

    def sleep(self) -> None:
        """Gives the memory of its own weights and of keys and values back until the next `refresh`, for a learner to use.

        Raises: UsageError while a dialogue waits for an answer; a reply before the next refresh raises it too.
        """

        def lie_down() -> None:
            if self._scheduler.turns:
                raise UsageError("the engine cannot sleep while a dialogue waits for its answer.")
            dismiss_team()
            self._asleep = True
            self._replica.sleep()
            self._scheduler.forget()
            self._passes.forget()

        self._command(lie_down)

    def in_flight(self, change: int) -> None:
        """So many more (or fewer) episodes run in step: no pass begins before each of them waits for its next token."""
        with self._wake:
            self._in_flight += change
            self._wake.notify_all()

    @property
    def stats(self) -> Stats:
        return self._stats

    @property
    def seconds_busy(self) -> float:
        return self._stats.seconds_busy

    def close(self) -> None:
        """Ends the thread; a dialogue that waits gets a WorldFailure. Safe to call twice."""
        with self._wake:
            self._closed = True
            self._wake.notify_all()
        self._thread.join()
        self._passes.close()

    def __enter__(self) -> Engine:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def submit(self, turn: Turn) -> None:
        """Queues a turn; its future gets the completion. For dialogues."""
        with self._wake:
            if self._closed:
                raise WorldFailure("policy_failed", "the engine is closed", stage="policy")
            if self._asleep:
                raise UsageError("the engine sleeps: refresh() it before the next reply.")
            self._scheduler.turns.append(turn)
            self._wake.notify_all()

    def release(self, track: Track) -> None:
        """Frees what a dialogue holds. For dialogues."""
        with self._wake:
            self._scheduler.release(track)

    def _command(self, action: Callable[[], None]) -> None:
        """Runs on the engine thread between two steps; returns when it is done, raises what it raised."""
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
                except Exception as error:  # whatever broke, nobody may wait for ever
                    log.exception("the sampling engine failed; its dialogues are void")
                    self._fail(f"{type(error).__name__}: {error}")
        self._fail("the engine was closed")

    def _wait(self) -> bool:
        """Until there is something to do; False when closed."""
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
        """One forward pass: plan, compute, sample, and hand finished turns back."""
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
                if reason := turn.take(token, logprob, self.chat.stop_ids, self.max_context):
                    self._scheduler.finish(turn)
                    turn.future.set_result(reason)

    def _sample(self, logits: torch.Tensor, turns: list[Turn]) -> tuple[list[int], list[float]]:
        if not turns:
            return [], []
        temperatures = torch.tensor(
            [turn.temperature for turn in turns], device=self._passes.device
        )
        uniforms = torch.tensor(
            [turn.track.random() for turn in turns], dtype=torch.float64, device=self._passes.device
        )
        ids, logprobs = sampling.sample(logits, temperatures, uniforms)
        return ids.tolist(), logprobs.tolist()

    def _count(self, plan: list[Planned], sampled: int, seconds: float) -> None:
        old = self._stats
        computed = sum(len(item.work.ids) for item in plan)
        prefilled = sum(
            len(item.work.ids) for item in plan if not any(turn.count for turn in item.turns)
        )
        self._stats = Stats(
            prefill_tokens=old.prefill_tokens + prefilled,
            decoded_tokens=old.decoded_tokens + sampled,
            computed_tokens=old.computed_tokens + computed,
            steps=old.steps + 1,
            seconds_busy=old.seconds_busy + seconds,
        )

    def _fail(self, message: str) -> None:
        """Voids every waiting turn. The stores may be half written, so they are made anew."""
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
            f"max_context is {max_context}, but this {config.model_type} model knows {limit} positions. "
            f"Set max_context to {limit} or less."
        )
