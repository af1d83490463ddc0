"""Generate the reference page of the dialects from the folder `envgym/dialects/`."""

from __future__ import annotations

from yaml_reference import cell

from envgym.dialects import DEFAULT_DIALECTS, dialect_names, find_dialect, write_calls
from envgym.messages import ToolCall

CALL = ToolCall("look_up", {"word": "tree", "limit": 2})
INTRODUCTION = """\
A dialect is the syntax of tool calls of one or more model families. `prompt.dialects` lists those
that an environment reads; see [Dialects](../guides/dialects.md).

- **Template**: text in a chat template that chooses the dialect. The longest one decides.
- **vLLM**: value of `--tool-call-parser` of a parser in vLLM that reads this syntax. Without one, a
  parser plugin is needed. `make servers` compares them with vLLM, except those of `command`
  and `harmony`.
- llama.cpp finds the syntax by the chat template and needs no option.
"""


def dialects_page(note: str) -> str:
    """Return the page: a table of all dialects, and an example of each."""
    lines = ["# Dialects", "", note, INTRODUCTION]
    lines += ["| dialect | families | template | vLLM |", "|---|---|---|---|"]
    for name in dialect_names():
        dialect = find_dialect(name)
        marks = ", ".join(f"`{mark}`" for mark in getattr(dialect, "TEMPLATE_MARKS", ()))
        parser = getattr(dialect, "VLLM_PARSER", None)
        families = getattr(dialect, "FAMILIES", "")
        default = " (default)" if name in DEFAULT_DIALECTS else ""
        row = [f"`{name}`{default}", families, marks, f"`{parser}`" if parser else ""]
        lines.append(f"| {' | '.join(map(cell, row))} |")
    lines += ["", f"Each example is the call `{CALL.name}` with `word` and `limit`.", ""]
    for name in dialect_names():
        fence = "````" if "```" in write_calls([CALL], name) else "```"
        lines += [f"## {name}", "", f"{fence}text", write_calls([CALL], name), fence, ""]
    return "\n".join(lines)
