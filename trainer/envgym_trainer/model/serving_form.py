"""What a server needs for an adapter besides its weights: template, parser of calls, base."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from envgym.dialects import find_dialect
from envgym_trainer.model.chat import Chat
from envgym_trainer.model.load import ResolvedModel
from envgym_trainer.model.rendering.served_template import can_write_calls

PLUGIN = "tool_parser.py"
"""Name of the parser file beside an adapter."""
_SOURCE = Path(__file__).parent / "templates" / "tool_parser.py.txt"
_OWN_PARSERS = ("pythonic", "fenced")
"""Dialects for which the shipped parser has a reader."""


@dataclass(frozen=True, slots=True)
class ServingForm:
    """Form in which a server has to render and parse for an adapter."""

    rendering: str
    dialect: str
    parser: str | None
    """Name of vLLM's parser of the calls; None if there is none."""
    plugin: str | None
    """Source of a parser of ours, if vLLM has none."""
    writes_history: bool
    """Whether the chat template writes earlier `tool_calls` of a client."""


def serving_form(chat: Chat) -> ServingForm:
    """Return the form in which a server has to render and parse as a chat does."""
    dialect = chat.call_dialect
    parser = getattr(find_dialect(dialect), "VLLM_PARSER", None)
    plugin = None
    if parser is None and dialect in _OWN_PARSERS:
        parser = "envgym"
        plugin = _SOURCE.read_text(encoding="utf-8").replace("DIALECT", dialect)
    writes = chat.rendering == "native" or can_write_calls(dialect)
    return ServingForm(chat.rendering, dialect, parser, plugin, writes)


def loadable_name(base: ResolvedModel) -> str:
    """Return a name of a base model that other programs can load: an id or a folder."""
    if re.fullmatch(r"[\w.-]+/[\w.-]+", base.public_id) or Path(base.public_id).is_dir():
        return base.public_id
    return str(base.path)
