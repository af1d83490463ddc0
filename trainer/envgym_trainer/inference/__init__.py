"""Inference engines: what samples the tokens of an episode.

This folder is the registry: a file or a package `NAME` with a function `open_engine(inputs)` is the
engine `NAME`. Any other function of `EngineInputs` is named as `file.py:name` or
`package.module:name`; `train.engine.options` are its keyword arguments. See
`token_session.py` for the tokens of a dialogue. Importable without torch.
"""

from __future__ import annotations

import importlib
import inspect
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol, runtime_checkable

from envgym.errors import UsageError
from envgym.messages import Message
from envgym.modules import load_object
from envgym.policies import Completion, Dialogue
from envgym.secrets import get_logger
from envgym.tasks import Task
from envgym_trainer.inference.dialogue import TokenDialogue
from envgym_trainer.inference.token_session import SamplingSettings, TokenSession

if TYPE_CHECKING:
    import torch

    from envgym_trainer.config import TrainConfig
    from envgym_trainer.model.chat import Chat

log = get_logger(__name__)


@dataclass(frozen=True, slots=True)
class EngineStatistics:
    """Counters of an engine since its start; NaN if it does not measure them."""

    prefill_tokens: float = math.nan
    """Computed prompt and observation tokens, without shared and copied ones."""
    decoded_tokens: float = math.nan
    """Sampled tokens."""
    computed_tokens: float = math.nan
    """Tokens that went through the model. A token sampled alike by group members counts once."""
    steps: float = math.nan
    """Forward passes."""
    seconds_busy: float = math.nan
    """Wall seconds of forward passes and sampling."""


class EngineDialogue(Dialogue, Protocol):
    """Dialogue with an engine. Used by one episode and one thread."""

    def reply(self, max_new_tokens: int | None = None) -> Completion:
        """Sample the next assistant message.

        Args:
            max_new_tokens: Maximum tokens of this turn; the policy's limit by default.
        """
        ...


@runtime_checkable
class Engine(Protocol):
    """Inference engine. Safe to share between threads. Derive a new engine from this class."""

    chat: Chat
    """Converter between messages and token ids."""
    max_context: int
    """Maximum tokens of a dialogue."""
    supports_lockstep: bool = False
    """Whether the engine can give the same bits in each run; see `rollout/lockstep.py`."""
    supports_constraints: bool = False
    """Whether the engine samples only the tokens that a turn allows; see `AllowedTokens`."""
    dtype: torch.dtype | None = None
    """Data type of the engine's computation; None if it computes as the trained model does."""

    @property
    @abstractmethod
    def statistics(self) -> EngineStatistics:
        """Counters since the start."""
        ...

    @abstractmethod
    def open_tokens(
        self, ids: Sequence[int], *, seed: int, sampling: SamplingSettings, shared: int = 0
    ) -> TokenSession:
        """Start a conversation in token ids.

        Args:
            ids: Ids of the opening, the generation prompt included. At least one.
            seed: Seed of the conversation's sampling.
            sampling: Settings of its turns.
            shared: Number of first ids that other conversations begin with too, such as those of
                a system message. It affects only speed.
        """
        ...

    def open_dialogue(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]],
        *,
        seed: int,
        sampling: SamplingSettings,
    ) -> EngineDialogue:
        """Start a dialogue.

        Args:
            messages: Opening messages.
            tools: Tool schemas for the chat template.
            seed: Seed of the dialogue's sampling.
            sampling: Settings of the policy.
        """
        ids = self.chat.open(messages, tools)
        shared = self.chat.shared(messages, tools)
        open_session = partial(self.open_tokens, seed=seed, sampling=sampling, shared=shared)
        return TokenDialogue(open_session(ids), open_session, self.chat, messages, tools)

    @abstractmethod
    def load_adapter(self, model: Any = None) -> None:
        """Sample with the current weights of a PEFT model's adapter from now on.

        Args:
            model: PEFT model. None selects the base model.
        """
        ...

    def sleep(self) -> None:
        """Free memory until the next `load_adapter`. Does nothing by default."""

    def add_in_flight(self, count: int) -> None:
        """Add to the number of episodes in lockstep. Called only if `supports_lockstep`."""

    @abstractmethod
    def close(self) -> None:
        """Release all resources. Waiting dialogues get a WorldFailure. May be called twice."""
        ...

    def policy(
        self,
        *,
        temperature: float = 1.0,
        max_new_tokens: int = 256,
        group_size: int = 1,
        stop_ids: frozenset[int] | None = None,
    ) -> EnginePolicy:
        """Return a policy that samples from this engine. See `SamplingSettings`."""
        return EnginePolicy(
            self, SamplingSettings(temperature, max_new_tokens, group_size, stop_ids)
        )


@dataclass(frozen=True, slots=True)
class EnginePolicy:
    """Policy that samples from an engine. Safe to share between threads."""

    engine: Engine
    sampling: SamplingSettings

    def open(
        self,
        messages: Sequence[Message],
        tools: Sequence[dict[str, Any]] = (),
        *,
        seed: int,
        task: Task | None = None,
    ) -> EngineDialogue:
        """Start a dialogue; see `envgym.policies.Policy`. The task is ignored."""
        return self.engine.open_dialogue(messages, tools, seed=seed, sampling=self.sampling)


@dataclass(frozen=True, slots=True)
class EngineInputs:
    """Everything an engine may use when it opens."""

    config: TrainConfig
    """Settings of the run. Those of `config.engine` are the engine's own."""
    model: Any
    """Trained model (PEFT). An engine only reads it."""
    chat: Chat
    """Converter between messages and token ids of the model."""
    folder: Path
    """Folder for files of the engine. It may not exist yet."""
    notify: Callable[[str], None]
    """Callback for warnings."""


def open_engine(
    config: TrainConfig,
    *,
    model: Any,
    chat: Chat,
    folder: Path,
    root: Path = Path(),
    notify: Callable[[str], None] = log.warning,
) -> Engine:
    """Open the engine that `train.engine.name` names. It samples from the base model at first.

    Args:
        config: Settings of the run.
        model: Trained model (PEFT).
        chat: Converter between messages and token ids of the model.
        folder: Folder for files of the engine.
        root: Folder to which the path of a `file.py:name` is relative.
        notify: Callback for warnings.

    Raises:
        UsageError: If the engine does not fit the settings or the model, or is no engine.
        PrerequisiteError: If the engine needs something that is not there, such as a server.
        SpecError: If the file, the module or the name in it does not exist.
    """
    name = config.engine.name
    function = _function(name, root)
    try:
        inspect.signature(function).bind(None, **config.engine.options)
    except TypeError as error:
        raise UsageError(
            f"train.engine.options do not fit {name}: {error}. They are keyword arguments of its "
            "function."
        ) from None
    inputs = EngineInputs(config, model, chat, folder, notify)
    engine = function(inputs, **config.engine.options)
    if not isinstance(engine, Engine):
        raise UsageError(
            f"train.engine.name={name} returned a {type(engine).__name__}, which is no engine. "
            "Derive the class from envgym_trainer.inference.Engine."
        )
    if config.rollout.deterministic and not engine.supports_lockstep:
        engine.close()
        raise UsageError(
            f"train.rollout.deterministic needs an engine with supports_lockstep, such as "
            f"in_process: {name} chooses its batches itself. Leave one out."
        )
    return engine


def _function(name: str, root: Path) -> Callable[..., Engine]:
    if ":" in name:
        return load_object(name, root)
    return importlib.import_module(f"{__name__}.{name}").open_engine
