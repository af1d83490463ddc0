"""Arguments and results of MCP calls as plain values and text."""

from __future__ import annotations

import json
from typing import Any

from mcp_types import CallToolResult, TextContent


def result_text(result: CallToolResult) -> str:
    """Return the text of a result. Other kinds of content are named in brackets."""
    if not result.content and result.structured_content is not None:
        return json.dumps(result.structured_content, ensure_ascii=False)
    parts = [
        block.text if isinstance(block, TextContent) else _named(block) for block in result.content
    ]
    return "\n".join(parts) if parts else "Done."


def _named(block: Any) -> str:
    resource = getattr(block, "resource", block)
    what = getattr(block, "mime_type", None) or getattr(resource, "uri", None) or ""
    return f"[{block.type}: {what}]" if what else f"[{block.type}]"


def filled(arguments: Any, *, seed: int, now: str) -> Any:
    """Return arguments with `{seed}` and `{now}` replaced, at any depth."""
    if isinstance(arguments, dict):
        return {name: filled(value, seed=seed, now=now) for name, value in arguments.items()}
    if isinstance(arguments, list):
        return [filled(value, seed=seed, now=now) for value in arguments]
    if arguments == "{seed}":
        return seed
    return (
        arguments.replace("{seed}", str(seed)).replace("{now}", now)
        if isinstance(arguments, str)
        else arguments
    )
