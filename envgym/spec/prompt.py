"""Schema of the `prompt:` block: system message, and the form of tools and calls."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, field_validator

from envgym.block import Block
from envgym.dialects import DEFAULT_DIALECTS, find_dialect, with_absolute_paths


class PromptSpec(Block):
    """System message, and the form of tools and calls."""

    system: str = "You are a helpful assistant. Use the tools to do what the user asks."
    """System message. `{now}` is replaced by the episode's start date and time."""
    rendering: Literal["auto", "native", "text"] = "auto"
    """Form of tools and calls in the prompt. `native`: JSON schemas and structured calls, which the
    model's chat template renders. `text`: one line per tool in the system message, and calls as
    text. `auto`: `native` if the model's template renders tools, calls and results, else `text`;
    without a model it is `text`."""
    keep_reasoning: bool = False
    """Whether the reasoning of earlier turns stays in the prompt if the model's chat template would
    drop it. By default the dialogue continues on the prompt without it, as the template writes
    it."""
    chat_template_kwargs: dict[str, bool | int | float | str | None] = Field(default_factory=dict)
    """Variables of the model's chat template, such as `{enable_thinking: false}`."""
    dialects: tuple[str, ...] = Field(default=DEFAULT_DIALECTS, min_length=1)
    """Syntaxes of tool calls that are parsed: hermes, fenced, bare, pythonic, or `file.py:name` for
    your own. The prompt shows the first one."""

    def system_message(self, clock: datetime) -> str:
        """Return the system message without tools, at a date and time."""
        return self.system.strip().replace("{now}", f"{clock:%A, %Y-%m-%d %H:%M}")

    @classmethod
    def with_absolute_paths(cls, data: Mapping[str, Any], root: Path) -> Mapping[str, Any]:
        found = {key: with_absolute_paths(data[key], root) for key in data.keys() & {"dialects"}}
        return {**data, **found}

    @field_validator("dialects")
    @classmethod
    def _have_files(cls, names: tuple[str, ...]) -> tuple[str, ...]:
        for name in names:
            find_dialect(name)
        return names
