"""The `train.rollout` and `train.engine` blocks: how episodes are collected, and what samples."""

from __future__ import annotations

from pydantic import Field, model_validator

from envgym.block import Block
from envgym.errors import did_you_mean

ENGINES = {"in_process": (), "vllm_server": ("url", "model", "adapter_folder")}
"""Options of each inference engine."""


class RolloutConfig(Block):
    groups_per_step: int = Field(default=4, ge=1)
    """Number of groups a step, each on a new task. At least 1."""
    group_size: int = Field(default=8, ge=2)
    """Number of episodes of a group: one task, one identical start. At least 2."""
    max_extra_groups: int = Field(default=0, ge=0)
    """Maximum number of extra groups a step. Each replaces a group without reward variance (dynamic
    sampling, DAPO). At least 0; 0 turns it off."""
    max_turn_tokens: int = Field(default=64, ge=1)
    """Maximum size of one turn of the model. Tokens. At least 1."""
    max_context_tokens: int = Field(default=2048, ge=64)
    """Maximum size of a whole dialogue. Tokens. At least 64. A longer episode is truncated."""
    temperature: float = Field(default=1.0, gt=0)
    """Temperature of sampling, and of the learner's logprobs. Above 0."""
    max_concurrent_episodes: int = Field(default=64, ge=1)
    """Maximum number of episodes at once, and of rows of the engine's batch. At least 1."""
    one_step_ahead: bool = False
    """Collect the next step's episodes while this step is learned from, with the adapter from
    before the update: for a server, or for slow tools. The step after a checkpoint or a validation
    is always collected afresh."""
    deterministic: bool = False
    """Play all episodes in lockstep, so that a run, resumed or not, ends with the same bits on one
    CPU. Slower: each turn waits for the slowest episode. Otherwise runs differ in the last bits."""


class EngineConfig(Block):
    name: str = "in_process"
    """Inference engine: in_process, or vllm_server."""
    url: str | None = None
    """Address of a vLLM server that has the same base model, such as http://localhost:8000.
    Required for vllm_server."""
    model: str | None = None
    """Name of the base model on the server. None: its only model. For vllm_server."""
    adapter_folder: str | None = None
    """Folder for versions of the adapter, under the same path on the server. None: a folder of the
    run. For vllm_server."""

    @model_validator(mode="after")
    def _options_fit(self) -> EngineConfig:
        options = engine_options(self.name)
        for option in ("url", "model", "adapter_folder"):
            if option not in options and getattr(self, option) is not None:
                others = ", ".join(name for name, known in ENGINES.items() if option in known)
                raise ValueError(
                    f"engine '{self.name}' has no option {option}. Leave it out, or name an engine "
                    f"that has it: {others}"
                )
        if "url" in options and self.url is None:
            raise ValueError(
                f"engine '{self.name}' needs url: the server's address, such as "
                "http://localhost:8000"
            )
        return self


def engine_options(name: str) -> tuple[str, ...]:
    """Return the options of an inference engine.

    Raises:
        ValueError: If there is no engine of this name.
    """
    if name not in ENGINES:
        hint = did_you_mean(name, ENGINES) or "."
        raise ValueError(f"engine '{name}' is unknown{hint} Available: {', '.join(ENGINES)}")
    return ENGINES[name]
