"""Errors of a vLLM server, by what a caller can do about them."""

from __future__ import annotations

from envgym.errors import UsageError, WorldFailure
from envgym_trainer.learner.off_policy import SamplerMismatch


class ServerGone(WorldFailure):
    """The server does not answer, or fails, also after waiting. Episodes that need it are void."""

    def __init__(self, message: str):
        super().__init__("policy_failed", message, stage="policy")


class AdapterRefused(UsageError):
    """The server refuses to load the adapter, such as for its rank or for lack of room."""

    def __init__(self, url: str, name: str, problem: str):
        super().__init__(
            f"the server at {url} would not load the adapter {name}: {problem}. Start it with "
            "VLLM_ALLOW_RUNTIME_LORA_UPDATING=True, --enable-lora, a --max-lora-rank of at least "
            "train.lora.rank, and room for two adapters (--max-cpu-loras 2). It must see the "
            "folder of train.engine.vllm.adapter_folder."
        )


class WrongModel(UsageError):
    """The server has another model than the one that is trained."""


class AdapterNotActing(SamplerMismatch):
    """The served adapter does not give the log-probabilities of the trained one."""


class NoAnswer(Exception):
    """One request got no usable answer. It may be sent again."""

    def __init__(self, problem: str, *, status: int | None = None, retry_after: float = 0.0):
        super().__init__(problem)
        self.status = status
        self.retry_after = retry_after


class Refused(Exception):
    """The server refused one request, and would refuse it again."""

    def __init__(self, status: int, words: str):
        super().__init__(f"HTTP {status}: {words}")
        self.status = status
        self.words = words


class ContextFull(Exception):
    """The conversation is longer than the server's context."""
