"""The `train.rollout` and `train.engine` blocks: how episodes are collected, and what samples."""

from __future__ import annotations

import ast
import functools
from collections.abc import Mapping
from pathlib import Path

from pydantic import Field, model_validator

from envgym.block import Block
from envgym.errors import did_you_mean


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
    """Inference engine: in_process, vllm_server, or `file.py:name` or `package.module:name` for
    your own (see `envgym_trainer.inference.Engine`)."""
    url: str | None = None
    """Address of a vLLM server that has the same base model, such as http://localhost:8000.
    Required for vllm_server."""
    model: str | None = None
    """Name of the base model on the server. None: its only model. For vllm_server."""
    adapter_folder: str | None = None
    """Folder for versions of the adapter, under the same path on the server. None: a folder of the
    run. For vllm_server."""

    key: str | None = None
    """API key of the server, such as `env:NAME`, sent to `url` only. None: no key is sent. For
    vllm_server."""

    @model_validator(mode="after")
    def _options_fit(self) -> EngineConfig:
        options = engine_options(self.name)
        for option in ("url", "model", "adapter_folder", "key"):
            if option not in options and getattr(self, option) is not None:
                having = [name for name, found in engines().items() if option in found]
                raise ValueError(
                    f"engine '{self.name}' has no option {option}. Leave it out, or name an engine "
                    f"that has it: {', '.join(having)}"
                )
        if self.name in engines() and "url" in options and self.url is None:
            raise ValueError(
                f"engine '{self.name}' needs url: the server's address, such as "
                "http://localhost:8000"
            )
        return self


@functools.cache
def engines() -> Mapping[str, tuple[str, ...]]:
    """Return the options of each engine in the folder `inference/`, by name.

    They are the constant `OPTIONS` of its file, which is read and not imported, because engines
    import torch.
    """
    found = {}
    for path in sorted((Path(__file__).parents[1] / "inference").iterdir()):
        file = path / "__init__.py" if path.is_dir() else path
        if path.stem.startswith("_") or file.suffix != ".py" or not file.is_file():
            continue
        for node in ast.parse(file.read_text(encoding="utf-8")).body:
            if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "OPTIONS":
                found[path.stem] = ast.literal_eval(node.value)
    return found


def engine_options(name: str) -> tuple[str, ...]:
    """Return the options of an inference engine. One named as `file.py:name` may use all.

    Raises:
        ValueError: If there is no engine of this name.
    """
    if ":" in name:
        return ("url", "model", "adapter_folder", "key")
    if name not in engines():
        hint = did_you_mean(name, engines()) or "."
        raise ValueError(
            f"engine '{name}' is unknown{hint} Available: {', '.join(engines())}, or file.py:name "
            "for your own"
        )
    return engines()[name]
