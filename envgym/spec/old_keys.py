"""Keys outside of `train:` that were renamed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

RENAMED: Mapping[tuple[str, str], str] = {
    ("prompt", "tools"): "rendering",
    ("episode", "max_void"): "max_void_fraction",
    ("episode", "closes_with"): "closing_tools",
    ("episode", "tool_seconds"): "tool_timeout_seconds",
    ("episode", "observation_chars"): "max_observation_chars",
    ("sandbox", "open_seconds"): "open_timeout_seconds",
    ("sandbox", "nofile"): "max_open_files",
    ("sandbox", "pids"): "max_processes",
    ("state", "now"): "clock_start",
    ("state", "step_seconds"): "clock_step_seconds",
}
"""Block and old key -> new key of the same block."""
NEW_VALUES: Mapping[tuple[str, str], str] = {
    ("prompt", "tools"): "compact is text, template is native",
}
"""Block and old key -> its old values and the new ones, if they changed too."""


def outdated(data: Mapping[str, Any]) -> Iterator[tuple[tuple[str, ...], str]]:
    """Yield the path of each old key of a YAML, with a message that names the new key."""
    for (block, old), new in RENAMED.items():
        inner = data.get(block)
        if isinstance(inner, Mapping) and old in inner:
            values = NEW_VALUES.get((block, old))
            yield (block, old), f"is now {block}.{new}" + (f" ({values})" if values else "")
