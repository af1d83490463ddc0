"""The `train.engine` block: the engine that samples. Importable without torch."""

from __future__ import annotations

import ast
import functools
from pathlib import Path
from typing import Any

from pydantic import Field, model_validator

from envgym.block import Block
from envgym.errors import did_you_mean

URL = "http://localhost:8000"


class VllmConfig(Block):
    """vLLM: a server that envgym starts (`start: true`), or a running one (`url`)."""

    start: bool = False
    """Start a server for the run on this machine, restart it when it dies, and stop it at the
    end."""
    url: str | None = None
    """Address of a running server that has the same base model, such as http://localhost:8000. It
    must see the run's folder under the same path."""
    command: str = "vllm"
    """Command of vLLM, such as `/opt/vllm/bin/vllm` of another virtual environment. With
    `start`."""
    arguments: list[str] = Field(default_factory=list)
    """Further arguments of `vllm serve`, such as `[--tensor-parallel-size, "2"]`. They win over
    those of envgym. With `start`."""
    sleep: bool = False
    """Free the server's GPU memory while the adapter is trained (vLLM's sleep mode), for one GPU
    that both share. With `start`."""
    start_timeout_seconds: float = Field(default=900.0, gt=0)
    """Time limit of a start of the server. Seconds. Above 0. With `start`."""
    max_restarts: int = Field(default=5, ge=0)
    """Maximum number of restarts of a server that died. At least 0. With `start`."""
    wait_seconds: float = Field(default=60.0, ge=0)
    """Time that requests wait for a server that does not answer, such as one that is restarted by
    its supervisor. Seconds. At least 0. With `url`."""
    model: str | None = None
    """Name of the base model on the server. None: its only model. With `url`."""
    adapter_folder: str | None = None
    """Folder for versions of the adapter, under the same path on the server. None: a folder of the
    run. With `url`."""
    key: str | None = None
    """API key of the server, such as `env:NAME`, sent to `url` only. None: no key is sent. With
    `url`."""

    @model_validator(mode="after")
    def _options_fit(self) -> VllmConfig:
        if self.start == (self.url is not None):
            raise ValueError(
                "engine 'vllm' needs either start: true, or url: the server's address, such as "
                f"{URL}"
            )
        others = ("wait_seconds", "model", "adapter_folder", "key")
        if not self.start:
            others = ("command", "arguments", "sleep", "start_timeout_seconds", "max_restarts")
        unused = [name for name in others if name in self.model_fields_set and self._differs(name)]
        if unused:
            which = "start: true" if self.start else "url"
            raise ValueError(f"{', '.join(unused)} has no effect with {which}. Leave it out")
        return self

    def _differs(self, name: str) -> bool:
        return getattr(self, name) != type(self).model_fields[name].get_default(
            call_default_factory=True
        )


class OpenAIConfig(Block):
    """Any OpenAI-compatible server. It gives no token ids, so it can only be evaluated."""

    url: str
    """Address of the server, such as http://localhost:8000/v1."""
    model: str | None = None
    """Name of the model. None: the server's only model."""
    key: str | None = None
    """API key of the server, such as `env:NAME`, sent to `url` only. None: no key is sent."""


BLOCKS = ("vllm", "openai")
"""Engines with a block of their own."""


class EngineConfig(Block):
    """Inference engine: `in_process`, `{vllm: {url: ...}}`, `{vllm: {start: true}}`, or
    `{openai: {url: ...}}`."""

    name: str = "in_process"
    """Inference engine: in_process, vllm, openai, or `file.py:name` or `package.module:name` for
    your own (see `envgym_trainer.inference.Engine`). A block `vllm` or `openai` sets it."""
    options: dict[str, Any] = Field(default_factory=dict)
    """Options of your own engine: keyword arguments of its function."""
    vllm: VllmConfig | None = None
    """vLLM, started by envgym or at an address."""
    openai: OpenAIConfig | None = None
    """OpenAI-compatible server, for evaluation only."""

    @model_validator(mode="before")
    @classmethod
    def _name_of_the_block(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        blocks = [name for name in BLOCKS if data.get(name) is not None]
        name = data.get("name", "in_process")
        if name == "vllm_server":
            raise ValueError(
                f"engine 'vllm_server' is now vllm. Write engine: {{vllm: {{url: \"{URL}\"}}}}, or "
                "engine: {vllm: {start: true}} for a server that envgym starts"
            )
        if len(blocks) > 1 or (blocks and name not in ("in_process", blocks[0])):
            several = ", ".join(dict.fromkeys([*([name] if len(blocks) < 2 else []), *blocks]))
            raise ValueError(f"several engines are named: {several}. Leave one of them")
        return {**data, "name": blocks[0]} if blocks else data

    @model_validator(mode="after")
    def _exists(self) -> EngineConfig:
        if ":" not in self.name and self.name not in engines():
            hint = did_you_mean(self.name, engines()) or "."
            raise ValueError(
                f"engine '{self.name}' is unknown{hint} Available: {', '.join(engines())}, or "
                "file.py:name for your own"
            )
        if self.name in BLOCKS and getattr(self, self.name) is None:
            raise ValueError(
                f"engine '{self.name}' needs an address. Write engine: "
                f'{{{self.name}: {{url: "{URL}"}}}}'
            )
        if self.options and self.name in engines():
            raise ValueError(
                f"options belongs to an engine of your own, not to '{self.name}'. Leave it out"
            )
        return self


@functools.cache
def engines() -> tuple[str, ...]:
    """Return the names of the engines in the folder `inference/`.

    An engine is a file or a package with a function `open_engine`. It is read and not imported,
    because engines import torch.
    """
    found = []
    for path in sorted((Path(__file__).parents[1] / "inference").iterdir()):
        file = path / "__init__.py" if path.is_dir() else path
        if path.stem.startswith("_") or file.suffix != ".py" or not file.is_file():
            continue
        body = ast.parse(file.read_text(encoding="utf-8")).body
        if any(isinstance(node, ast.FunctionDef) and node.name == "open_engine" for node in body):
            found.append(path.stem)
    return tuple(found)
