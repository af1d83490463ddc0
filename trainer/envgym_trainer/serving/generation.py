"""Sample the sequences of a request: `n` per prompt, with stop strings, streaming, cancellation.

Each sequence blocks a thread of the server's pool while the engine samples it.
"""

from __future__ import annotations

import asyncio
import random
import secrets
from collections.abc import AsyncIterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from envgym_trainer.inference import SamplingSettings
from envgym_trainer.inference.token_session import AllowedTokens, OnToken
from envgym_trainer.serving.served_model import ServedModel
from envgym_trainer.serving.stop_strings import StopFinder, TokenDecoder

FinishReason = Literal["stop", "length"]


@dataclass(frozen=True, slots=True)
class SamplingPlan:
    """Sequences that a request asks for."""

    prompts: Sequence[list[int]]
    """Ids of each prompt."""
    sampling: SamplingSettings
    count: int = 1
    """Number of sequences per prompt."""
    seed: int | None = None
    """Seed of the first sequence of each prompt. None draws one."""
    stops: Sequence[str] = ()
    """Stop strings."""
    allowed: AllowedTokens | None = None
    """Constraint of the tokens of each sequence."""
    shared: int = 0
    """Number of first ids of the prompts that other conversations begin with too."""


@dataclass(frozen=True, slots=True)
class Piece:
    """Token of a sequence, with the text that is complete with it."""

    index: int
    """Number of the sequence in the request."""
    text: str
    token: int | None = None
    """Id of the token. None for the last piece of a sequence, which has the rest of its text."""
    logprob: float = 0.0


@dataclass(eq=False, slots=True)
class SampledSequence:
    """One sequence of a request. Its result is complete when its job has ended."""

    index: int
    prompt: list[int]
    seed: int
    tokens: Sequence[int] = ()
    logprobs: Sequence[float] = ()
    text: str = ""
    """Decoded text without stop token and stop string."""
    finish_reason: FinishReason = "stop"
    cached: int = 0
    """Number of prompt ids that an earlier request had left in the engine."""
    pieces: list[str] = field(default_factory=list)


class Generation:
    """All sequences of one request. Created and awaited on the event loop.

    Args:
        model: Model that is served.
        plan: Sequences to sample.
        is_streamed: Whether `pieces` will be read.
    """

    def __init__(self, model: ServedModel, plan: SamplingPlan, *, is_streamed: bool = False):
        self._model = model
        self._plan = plan
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Piece | BaseException] = asyncio.Queue()
        self._is_streamed = is_streamed
        self._is_cancelled = False
        base = secrets.randbits(63) if plan.seed is None else plan.seed % 2**64
        self.sequences = [
            SampledSequence(place * plan.count + number, prompt, _seed(base, number))
            for place, prompt in enumerate(plan.prompts)
            for number in range(plan.count)
        ]
        self._jobs = [
            self._loop.run_in_executor(model.pool, self._run, sequence)
            for sequence in self.sequences
        ]
        for job in self._jobs:  # after a cancellation, errors of the jobs are not awaited
            job.add_done_callback(lambda job: job.cancelled() or job.exception())

    async def wait(self) -> None:
        """Wait until all sequences are complete.

        Raises:
            WorldFailure: If the engine fails or is closed.
        """
        try:
            await asyncio.gather(*self._jobs)
        except BaseException:
            self.cancel()
            raise

    async def pieces(self) -> AsyncIterator[Piece]:
        """Yield the tokens of all sequences as they are sampled. Cancels when it is closed.

        Raises:
            WorldFailure: If the engine fails or is closed.
        """
        running = len(self.sequences)
        try:
            while running:
                piece = await self._queue.get()
                if isinstance(piece, BaseException):
                    raise piece
                running -= piece.token is None
                yield piece
        finally:
            self.cancel()

    def cancel(self) -> None:
        """End the sampling after the next token of each sequence."""
        self._is_cancelled = True

    def _run(self, sequence: SampledSequence) -> None:
        """Sample one sequence. Runs on a thread of the pool."""
        if self._is_cancelled:
            return
        try:
            self._sample(sequence)
        except BaseException as error:
            self._send(error)
            raise
        self._send(Piece(sequence.index, sequence.pieces[-1] if sequence.pieces else ""))

    def _sample(self, sequence: SampledSequence) -> None:
        plan = self._plan
        sampling = replace(plan.sampling, group_size=plan.count)
        session, sequence.cached = self._model.sessions.open(
            sequence.prompt, seed=sequence.seed, sampling=sampling, shared=plan.shared
        )
        try:
            decoder = TokenDecoder(self._model.chat)
            finder = StopFinder(plan.stops)
            turn = session.sample(
                seed=sequence.seed,
                sampling=sampling,
                on_token=self._on_token(sequence, decoder, finder),
                allowed=plan.allowed,
            )
        except BaseException:
            session.close()
            raise
        self._model.sessions.keep(session)
        sequence.tokens, sequence.logprobs = turn.token_ids, turn.logprobs
        sequence.finish_reason = "stop" if turn.stop_reason == "stop" else "length"
        if self._decodes:
            sequence.pieces.append(finder.push(decoder.finish()) + finder.finish())
            sequence.text = "".join(sequence.pieces)
        else:
            sequence.text = self._model.chat.decode(turn.token_ids)

    @property
    def _decodes(self) -> bool:
        """Whether the text is needed while it is sampled."""
        return self._is_streamed or bool(self._plan.stops)

    def _on_token(
        self, sequence: SampledSequence, decoder: TokenDecoder, finder: StopFinder
    ) -> OnToken:
        def check_cancelled(token: int, logprob: float) -> bool:
            return self._is_cancelled

        def decode(token: int, logprob: float) -> bool:
            text = finder.push(decoder.push(token))
            sequence.pieces.append(text)
            self._send(Piece(sequence.index, text, token, logprob))
            return self._is_cancelled or finder.found

        return decode if self._decodes else check_cancelled

    def _send(self, piece: Piece | BaseException) -> None:
        if self._is_streamed and not self._is_cancelled:
            self._loop.call_soon_threadsafe(self._queue.put_nowait, piece)


def _seed(base: int, number: int) -> int:
    """Return the seed of a sequence. The first one has the seed of the request."""
    return base if number == 0 else random.Random(f"{base}/{number}").getrandbits(63)
