"""Chat template with which a server renders the ids that were trained, for `text` rendering.

The template begins with macros that write a client's `tools` into the system message and its
`tool_calls` into the text, as the environment and the model do, and merges roles that the base
template does not take. The base template follows. The macros use only what transformers, vLLM and
llama.cpp have.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from envgym.dialects import usage_example
from envgym_trainer.model.rendering.call_macros import call_macros

FOLDER = Path(__file__).parents[1] / "templates"
NOTE = (
    "{#- Written by envgym: renders tools, tool calls and roles as in training. The template of "
    "the model follows. -#}"
)
NO_CALLS = """
{%- macro envgym_calls(calls) -%}
{{ raise_exception("earlier tool calls cannot be rendered: send them as text of the message") }}
{%- endmacro -%}
""".strip()
OPTIONS = ("system_in_user_turn", "results_as_user_turns", "merged_turns")
"""Adapters that the template has as options."""


def text_template(base: str, *, dialect: str, adapters: Sequence[str]) -> str:
    """Return a template for messages, tools and calls of a client, as `text` rendering trains them.

    Args:
        base: Template that renders plain messages.
        dialect: Dialect in which calls are written.
        adapters: Adapters that the base template needs.
    """
    options = [f"{{%- set envgym_{name} = {str(name in adapters).lower()} -%}}" for name in OPTIONS]
    usage = f"{{%- set envgym_usage = {json.dumps(usage_example(dialect))} -%}}"
    parts = [NOTE, _file("tool_list"), call_macros(dialect) or NO_CALLS, usage, *options]
    return "\n".join([*parts, _file("text_messages")]) + base


def can_write_calls(dialect: str) -> bool:
    """Return whether the template can write earlier tool calls of a client in a dialect."""
    return call_macros(dialect) is not None


def _file(name: str) -> str:
    return (FOLDER / f"{name}.jinja").read_text(encoding="utf-8").strip()
