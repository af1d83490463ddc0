"""The model that a server serves, with the state that its requests share."""

from __future__ import annotations

import time
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from envgym_trainer.inference import Engine
from envgym_trainer.model.chat import Chat
from envgym_trainer.serving.raw_text import RawText
from envgym_trainer.serving.sessions import PromptHeads, SessionCache


@dataclass(frozen=True, slots=True)
class SamplingDefaults:
    """Settings of requests that name none."""

    temperature: float = 1.0
    max_tokens: int | None = None
    """Maximum tokens of an answer. None: as many as the context holds."""


@dataclass(frozen=True, slots=True)
class Limits:
    """Limits of a server."""

    max_requests: int = 256
    """Requests in flight, waiting ones included. Further ones get status 429."""
    max_sessions: int = 64
    """Conversations whose keys and values are kept between requests."""
    max_body_bytes: int = 4 * 2**20
    """Maximum size of a request's body in bytes."""
    max_sequences: int = 64
    """Maximum number of sequences of one request."""
    body_timeout_seconds: float = 30.0
    """Maximum time in seconds in which a client must send the body of a request."""


DEFAULTS = SamplingDefaults()
LIMITS = Limits()


class ServedModel:
    """Engine under a name. Thread-safe. Close it, or use it in a `with`; the engine stays open.

    Args:
        name: Name in the field `model` of requests.
        engine: Engine that samples.
        defaults: Sampling settings of requests that name none.
        limits: Limits of the server.
    """

    def __init__(
        self,
        name: str,
        engine: Engine,
        defaults: SamplingDefaults = DEFAULTS,
        limits: Limits = LIMITS,
    ):
        self.name = name
        self.engine = engine
        self.defaults = defaults
        self.limits = limits
        self.created = int(time.time())
        """Unix time of the start, in seconds."""
        self.sessions = SessionCache(engine, limits.max_sessions)
        self.heads = PromptHeads(engine.chat)
        self.raw = RawText(engine.chat)
        self.pool = ThreadPoolExecutor(
            max(limits.max_requests, limits.max_sequences), thread_name_prefix="envgym-serve"
        )
        """Threads in which sequences are sampled."""

    @property
    def chat(self) -> Chat:
        """Converter between messages and ids of this model."""
        return self.engine.chat

    def close(self) -> None:
        """Wait for the running sequences, and release their sessions."""
        self.pool.shutdown(cancel_futures=True)
        self.sessions.close()

    def __enter__(self) -> ServedModel:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()
